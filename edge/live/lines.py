"""Lines of numbers, one line a sample, as microcontrollers print them: bytes into chunks. Pure.

Numbers are parted by commas, semicolons or blanks. A line that isn't numbers enough stands for a sample that is
missing: the well-known sketches for the AD8232 print ``!`` for each while an electrode is off, which is told from
other noise.
"""

from __future__ import annotations

import math
from collections import deque
from typing import Final

from edge.live.setting import Options, Scale
from edge.live.source import Chunk, Signal

OPTIONS: Final = "rate=250&columns=0&leads=ecg&scale=1&zero=0"
_OFF: Final = b"!"
LONGEST: Final = 4096  # bytes of a line; what is longer is noise
_MOST_COLUMN: Final = 255


class Lines:
    """Takes in bytes as they come, and gives chunks: ``signal`` is what they are of."""

    def __init__(self, signal: Signal, columns: tuple[int, ...], scale: Scale, *, from_middle: bool) -> None:
        """``columns`` of a line are the leads, from 0. ``from_middle``: the first bytes may be the rest of a line."""
        self.signal = signal
        self._columns = columns
        self._scale = scale
        self._rest = b""
        self._torn = from_middle
        self._lost = 0
        self._marked = False  # whether the source said of one that is lost that its electrode is off
        self.off = False  # and of the newest
        self._chunks: deque[Chunk] = deque()

    def feed(self, raw: bytes, at: float) -> None:
        """These came at ``at``, in monotonic seconds; the last sample among them was taken then."""
        lines = (self._rest + raw).split(b"\n")
        self._rest = lines.pop()
        if len(self._rest) > LONGEST:
            self._rest, self._torn = b"", True
        if self._torn and lines:
            lines, self._torn = lines[1:], False
        lines = [line for line in lines if line.strip()]
        behind = len(lines)
        run: list[tuple[float, ...]] = []
        for line in lines:
            behind -= 1
            frame, self.off = self._frame(line), line.strip() == _OFF
            if frame is None:
                self._end(run, at - (behind + 1) / self.signal.rate)
                self._lost += 1
                self._marked = self._marked or self.off
                run = []
            else:
                run.append(frame)
        self._end(run, at)

    def take(self) -> Chunk | None:
        """The next chunk."""
        return self._chunks.popleft() if self._chunks else None

    def _end(self, run: list[tuple[float, ...]], at: float) -> None:
        if run:
            self._chunks.append(Chunk(at, tuple(map(self._scale.mv, zip(*run, strict=True))), self._lost, self._marked))
            self._lost, self._marked = 0, False

    def _frame(self, line: bytes) -> tuple[float, ...] | None:
        words = line.replace(b",", b" ").replace(b";", b" ").split()
        try:
            frame = tuple(float(words[column]) for column in self._columns)
        except (ValueError, IndexError):
            return None
        return frame if all(map(math.isfinite, frame)) else None


def lines_of(options: Options, *, from_middle: bool = False) -> Lines:
    """What the options of every source of lines say. Raises ``SettingsError``."""
    rate = options.rate()
    given = options.text("columns")
    words = given.split(",") if given else []
    if not all(word.isdecimal() and int(word) <= _MOST_COLUMN for word in words):
        raise options.wrong(f"columns={given} is to name columns from 0 to {_MOST_COLUMN}, such as 0,2")
    leads = options.leads(len(words) or None)
    columns = tuple(map(int, words)) or tuple(range(len(leads)))
    return Lines(Signal(leads, rate), columns, options.scale(), from_middle=from_middle)
