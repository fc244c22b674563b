"""``edge label beats``: a terminal that shows one beat and takes a key. A shell: keys in, pictures out."""

from __future__ import annotations

import os
import re
import select
import shutil
import sys
import termios
import tty
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from edge.beats.detectors import Detector, Peaks, peaks_by
from edge.findings.classifier import BeatClassifier
from edge.label.labelled_record import LabelledRecord, Pictures
from edge.label.labelling import Labelling, key_lines, minutes_asked, press
from edge.record.label_files import LabelFiles, alone
from edge.record.wfdb_annotations import Annotation
from schemas.command_line import stopping_on_signals
from schemas.counted import counted
from schemas.errors import DataError, SettingsError
from schemas.output import Terminal

_CLEAR: Final = "\x1b[H\x1b[2J"
_WORDS: Final = 4  # lines beside the picture and the keys
_LOOK_S: Final = 0.25  # how long a key may keep us from hearing a signal
_AT_ONCE: Final = 64  # bytes of keys
_OTHER_KEYS: Final = re.compile(rb"\x1b(?:\[[0-?]*[ -/]*[@-~]|O.|.)?")  # arrows and function keys


def label(
    path: Path,
    classifier: BeatClassifier | None,
    *,
    again: bool,
    minutes: str | None = None,
    detector: Detector = "own",
) -> str:
    """Have a person label a record's beats in this terminal, or those of some ``minutes``; what became of it.

    Raises any ``FedbeatError``.
    """
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise SettingsError("labelling needs a terminal for keys and pictures: run it in one, not in a pipe")
    find = peaks_by(detector)
    path = path.with_suffix("") if path.suffix == ".hea" else path
    files = LabelFiles(path)
    record = LabelledRecord(path)
    asked = None if minutes is None else minutes_asked(minutes, record.minutes)
    with alone(path):
        return _label(files, record, classifier, find, again=again, minutes=asked)


def _label(
    files: LabelFiles,
    record: LabelledRecord,
    classifier: BeatClassifier | None,
    find: Peaks | None,
    *,
    again: bool,
    minutes: tuple[int, ...] | None,
) -> str:
    name = files.record.name
    beats = files.begin() or files.begin(record.peaks(find))
    if not beats:
        raise DataError(f"no beat was found in {name}: there is nothing to label")
    peaks = [one.sample for one in beats]
    asked = None if minutes is None else record.within(minutes, peaks)
    if asked == ():
        raise DataError(f"no beat was found in these minutes of {name}: choose others")
    suggested = record.suggestions(peaks, classifier)
    symbols = tuple(one.symbol for one in beats)
    state = Labelling.begin(symbols, suggested, asked, again=again)
    state = View(files, beats, record.pictures(peaks), record.rate).run(state)
    files.save()
    many = counted(len(state.places), "beat") + ("" if minutes is None else " asked about")
    if state.left:
        left = f"{state.left} of {many} {'has' if state.left == 1 else 'have'} none yet"
    else:
        left = f"{many} has one" if len(state.places) == 1 else f"all {many} have one"
    return f"labels saved to {name}.atr; {left}"


class View:
    """The terminal."""

    def __init__(self, files: LabelFiles, beats: list[Annotation], pictures: Pictures, rate: float) -> None:
        """``beats`` are drawn by ``pictures``, in the same order."""
        self._files = files
        self._beats = beats
        self._pictures = pictures
        self._rate = rate
        self._stopping = False

    def run(self, state: Labelling) -> Labelling:
        """Show beats and take keys until that is over, or a signal says so. Each label is on disk before the next."""
        screen = Terminal()
        with stopping_on_signals(self._stop), _key_by_key():
            keys: Iterator[str] = iter(())
            while not state.over and not self._stopping:
                screen.write(_CLEAR + "\n".join(self.lines(state, shutil.get_terminal_size())) + "\n")
                screen.flush()
                key = next(keys, None)
                while key is None and not self._stopping:
                    keys = _keys()
                    key = next(keys, None)
                state, labelled = press(state, key or "")
                if labelled is not None:
                    self._files.keep(self._beats[labelled.place].sample, labelled.symbol)
        return state

    def lines(self, state: Labelling, size: os.terminal_size) -> Iterator[str]:
        """The screen."""
        picture, seconds = self._pictures[state.at], self._beats[state.at].sample / self._rate
        minute = "" if state.asked is None else f" (minute {int(seconds // 60) + 1})"
        yield f"beat {state.at + 1} of {len(self._beats)} at {seconds:.1f} s{minute}; {state.left} without a label"
        yield picture.intervals()
        keys = key_lines(size.columns)
        yield from picture.lines(size.columns, size.lines - _WORDS - len(keys))
        has, suggested = state.symbols[state.at], state.suggested[state.at]
        yield f"label {has or '-'}   suggested {suggested or '-'}"
        yield from keys

    def _stop(self) -> None:
        self._stopping = True


@contextmanager
def _key_by_key() -> Iterator[None]:
    """Keys come as they are pressed, unechoed; the terminal is put back as it was."""
    before = termios.tcgetattr(sys.stdin.fileno())
    try:
        tty.setcbreak(sys.stdin.fileno(), termios.TCSAFLUSH)  # a key from before labels no beat that nobody has seen
        yield
    finally:
        with suppress(termios.error):  # it is gone
            termios.tcsetattr(sys.stdin.fileno(), termios.TCSADRAIN, before)


def _keys() -> Iterator[str]:
    """The keys that came, none where none has within ``_LOOK_S``; ``x`` where the terminal is gone."""
    if not select.select([sys.stdin.fileno()], [], [], _LOOK_S)[0]:
        return iter(())
    try:
        raw = os.read(sys.stdin.fileno(), _AT_ONCE)
    except OSError:  # the line has hung up
        raw = b""
    if not raw:
        return iter("x")
    return iter(_OTHER_KEYS.sub(b"", raw).decode("ascii", "ignore").replace("\r", "\n"))
