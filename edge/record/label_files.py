"""A record's labels on disk: its annotation file, replaced as a whole, and beside it what was labelled since.

Each key's label goes to RECORD.labels, a line each, and is on disk before the next beat is shown. The annotation file
is written at the first label, with all beats, and when labelling ends; after a kill that is done at the next start,
from those lines. A card so writes some bytes a label, and not the whole file.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from edge import whole
from edge.plain_files import plain
from edge.record.wfdb_annotations import CODES, LARGEST, UNLABELLED, WAITING, Annotation, decode, encode
from edge.record.wfdb_header import Glance, characters, glimpse
from schemas.counted import counted
from schemas.errors import DataError, SettingsError, StateError

_BEFORE: Final = ".before"  # what ``--replace`` sets an annotation file aside as
_RESOLUTION: Final = b"## time resolution: "


@contextmanager
def alone(record: Path) -> Iterator[None]:
    """Hold a record's labels against all other processes. Raises ``StateError`` where one has them."""
    lock = record.with_name(f"{record.name}.labels.lock")
    with contextlib.ExitStack() as stack:
        try:
            ours = stack.enter_context(whole.alone(lock))
            if ours:
                with lock.open("rb") as file:
                    _give(file.fileno(), _header(record))
        except OSError as error:
            raise StateError(f"can't write {lock}: {error.strerror}; see to its folder and its owner") from None
        if not ours:
            raise StateError(f"another process labels {record}: let it end first")
        yield


class LabelFiles:
    """The labels of one record, for one process."""

    def __init__(self, record: Path) -> None:
        """``record`` is its path without an ending. Raises ``DataError`` where there is none."""
        self.record = record
        self.glance = glance_at(record)
        self._place = record.with_name(f"{record.name}.atr")
        self._lines = record.with_name(f"{record.name}.labels")
        self._annotations: list[Annotation] = []
        self._file = -1
        self._changed = False

    def begin(self, found: Iterable[int] | None = None) -> list[Annotation]:
        """The record's beats: of its annotation file, else those ``found``, without labels; newer labels over them.

        Empty where there is no annotation file and nothing is ``found``. Raises ``DataError``, ``StateError``.
        """
        if self._place.exists():
            self._annotations = list(annotations_in(self._place))
        else:
            self._annotations = [Annotation(at, WAITING, note=UNLABELLED.encode()) for at in found or ()]
        if self._annotations and self._lines.exists():
            self._replay()
        return self.beats

    @property
    def beats(self) -> list[Annotation]:
        """Its beats, in order."""
        return [one for one in self._annotations if one.beat]

    def keep(self, sample: int, symbol: str) -> None:
        """The beat at ``sample`` is labelled: on disk once this returns. Raises ``StateError``."""
        self._label(sample, symbol)
        try:
            if self._file < 0:
                if not self._place.exists():
                    _write(self.record, encode(self._annotations))  # so that the lines' beats are known for good
                self._file = self._opened()
            line = f"{sample} {symbol}\n".encode()
            while line:
                line = line[os.write(self._file, line) :]
            os.fdatasync(self._file)
        except OSError as error:
            self._close()  # the next label looks for what this one left
            raise StateError(f"can't write {self._lines}: {error.strerror}; free some space and go on") from None

    def save(self) -> None:
        """Put all labels into the annotation file, and forget the lines. Raises ``StateError``."""
        if self._changed:
            _write(self.record, encode(self._annotations))
        self._close()
        try:
            self._lines.unlink(missing_ok=True)
        except OSError as error:
            raise StateError(f"can't remove {self._lines}: {error.strerror}; see to its folder") from None

    def _opened(self) -> int:
        """The lines, to write behind; what a power cut tore at their end is cut off. Raises ``OSError``."""
        file = os.open(self._lines, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, whole.PRIVATE)
        try:
            _give(file, _header(self.record))
            os.ftruncate(file, self._lines.read_bytes().rfind(b"\n") + 1)
            whole.sync_directory(self._lines.parent)
        except OSError:
            os.close(file)
            raise
        return file

    def _close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _label(self, sample: int, symbol: str) -> None:
        for place, one in enumerate(self._annotations):
            if one.sample == sample and one.beat:
                note = b"" if one.note.rstrip(b"\0") == UNLABELLED.encode() else one.note
                self._changed = True
                self._annotations[place] = Annotation(sample, CODES[symbol], one.subtype, one.channel, one.number, note)

    def _replay(self) -> None:
        """Labels that a kill left in their lines; a torn last one is none."""
        for line in _content(self._lines).decode(errors="replace").splitlines(keepends=True):
            sample, _, symbol = line.rstrip("\n").partition(" ")
            if line.endswith("\n") and sample.isdecimal() and symbol in CODES:
                self._label(int(sample), symbol)


def take(files: Iterable[Path], directory: Path, *, replace: bool) -> list[str]:
    """Bring annotation files to their records in ``directory``, by the records' names; what was done, a line each.

    All are looked at before the first is written. Raises ``DataError``, ``SettingsError``, ``StateError``.
    """
    wanted = [(file, directory / file.stem, _fitting(file, directory / file.stem)) for file in files]
    done = []
    for file, record, content in wanted:
        with alone(record):
            if not _bring(record, content, replace=replace):
                done.append(f"{record.name}: had these already")
                continue
        beats = [one for one in decode(content) if one.beat]
        done.append(f"{record.name}: {counted(len(beats), 'beat')} from {file}")
    return done


def _bring(record: Path, content: bytes, *, replace: bool) -> bool:
    """Make ``content`` a record's annotation file; False where it is already."""
    place = record.with_name(f"{record.name}.atr")
    if record.with_name(f"{record.name}.labels").exists():
        raise StateError(f"labels of {record.name} aren't saved yet: run `edge label beats {record}` first")
    if place.exists():
        before = _content(place)
        if before == content:
            return False
        if not replace:
            raise SettingsError(f"{record.name} has other annotations already: --replace sets those aside")
        _set_aside(place, before)
    _write(record, content)
    return True


def _set_aside(place: Path, content: bytes) -> None:
    """Keep an annotation file under a free name too; it stays where it is until another takes its place."""
    first = place.with_name(f"{place.name}{_BEFORE}")
    others = (first.with_name(f"{first.name}.{number}") for number in itertools.count(2))
    aside = next(name for name in itertools.chain([first], others) if not name.exists())
    try:
        os.link(place, aside)
    except OSError:  # a card for cameras and the like knows no links
        _replace(aside, content, place)


def _fitting(file: Path, record: Path) -> bytes:
    """An annotation file's bytes, where they can be of this record."""
    content = _content(file)
    if not _header(record).exists():
        raise DataError(f"{record.parent} has no record {record.name} for {file}: name it as its record, or add that")
    glance = glance_at(record)
    annotations = _decoded(file, content)
    beats = [one.sample for one in annotations if one.beat]
    if not beats:
        raise DataError(f"{file} marks no beat: give an annotation file of beats")
    if not glance.samples:
        raise DataError(f"{record.name} has a header that doesn't say how long it is: `edge data show` tells more")
    if sorted(beats) != beats or beats[0] < 0 or beats[-1] >= glance.samples:
        raise DataError(
            f"{file} marks beats up to sample {max(beats)}, and {record.name} has {glance.samples}: it is another's"
        )
    for one in annotations:
        rate = one.note.removeprefix(_RESOLUTION).rstrip(b"\0")
        if one.note.startswith(_RESOLUTION) and rate != f"{glance.rate:g}".encode():
            raise DataError(f"{file} counts samples at another rate than {record.name}'s {glance.rate:g} Hz")
    return content


def glance_at(record: Path) -> Glance:
    """What a whole record's header tells. Raises ``DataError`` where there is none."""
    try:
        return glimpse(characters(plain(_header(record)).read_bytes()))
    except FileNotFoundError:
        raise DataError(f"there is no WFDB record {record}: give a record's path without an ending") from None
    except OSError as error:
        raise DataError(f"can't read {_header(record)}: {error.strerror}; see to its owner and its disk") from None


def annotations_in(file: Path) -> tuple[Annotation, ...]:
    """What an annotation file holds. Raises ``DataError`` where it can't be read, or is larger than any can be."""
    return _decoded(file, _content(file))


def _content(file: Path) -> bytes:
    try:
        if plain(file).stat().st_size > LARGEST:
            raise DataError(f"{file} is larger than {LARGEST // 2**20} MiB: it is no annotation file of beats")
        return file.read_bytes()
    except FileNotFoundError:
        raise DataError(f"there is no file {file}: give the path of an annotation file, ending included") from None
    except OSError as error:
        raise DataError(f"can't read {file}: {error.strerror}; see to its owner and its disk") from None


def _decoded(file: Path, content: bytes) -> tuple[Annotation, ...]:
    try:
        return decode(content)
    except DataError as error:
        raise DataError(f"{file} can't be read: {error}") from None


def _header(record: Path) -> Path:
    return record.parent / f"{record.name}.hea"  # also of ".", which has no name


def _write(record: Path, content: bytes) -> None:
    """A record's annotation file, wholly there or not at all, on disk once this returns. Raises ``StateError``."""
    place = record.with_name(f"{record.name}.atr")
    _replace(place, content, place if place.exists() else _header(record))


def _replace(place: Path, content: bytes, like: Path) -> None:
    try:
        with whole.replacing(place, durable=True) as file:
            file.write(content)
            _give(file.fileno(), like)
    except OSError as error:
        raise StateError(f"can't write {place}: {error.strerror}; free some space, and try again") from None


def _give(file: int, like: Path) -> None:
    """Give an open file the owner and the mode of ``like``, as far as this process may: root labels for others."""
    found = like.stat()
    with contextlib.suppress(OSError):
        os.fchown(file, found.st_uid, found.st_gid)
    with contextlib.suppress(OSError):
        os.fchmod(file, stat.S_IMODE(found.st_mode) | stat.S_IRUSR | stat.S_IWUSR)
