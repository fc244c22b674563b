"""One beat as characters: ``*`` for it, ``.`` for its person's dominant beat, and what its intervals are. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from edge.beats.beat_features import BEFORE
from edge.beats.ecg import RATE

NARROWEST: Final = 24  # columns
WIDEST: Final = 128
LOWEST: Final = 6  # rows
HIGHEST: Final = 16
_FINE: Final = 6  # points of a column, so that none of a narrow peak is lost
BESIDE: Final = 60  # columns from which the dominant beat is drawn too: on fewer it would hide the beat

Wave = NDArray[np.float32]


@dataclass(frozen=True, eq=False, slots=True)
class Picture:
    """What is drawn of one beat. ``beat`` and ``dominant`` (128,) in the same unit, at 180 Hz."""

    beat: Wave
    dominant: Wave
    before_s: float  # interval to the beat before
    after_s: float | None  # and to the one after, None for the last
    sinus_s: float  # the person's usual one

    def lines(self, columns: int, rows: int) -> Iterator[str]:
        """It, in at most so many columns and rows."""
        width = max(NARROWEST, min(WIDEST, columns - 2))
        height = max(LOWEST, min(HIGHEST, rows - 1))
        waves = [(self.beat, "*")]
        if columns >= BESIDE:
            waves.insert(0, (self.dominant, "."))
        low = min(float(wave.min()) for wave, _ in waves)
        span = max(1e-6, max(float(wave.max()) for wave, _ in waves) - low)
        field = [[" "] * width for _ in range(height)]
        for wave, mark in waves:
            _draw(field, (wave - low) / span, mark)
        yield from ("".join(row).rstrip() for row in field)
        peak = round(BEFORE * (width - 1) / (len(self.beat) - 1))
        yield f"{' ' * peak}^ {len(self.beat) / RATE * 1000:.0f} ms{'; . is the usual beat' if len(waves) > 1 else ''}"

    def intervals(self) -> str:
        """The intervals for people."""
        after = "" if self.after_s is None else f", after {self.after_s:.2f} s ({self.after_s / self.sinus_s:.0%})"
        return f"before {self.before_s:.2f} s ({self.before_s / self.sinus_s:.0%} of usual){after}"


def _draw(field: list[list[str]], heights: NDArray[np.floating], mark: str) -> None:
    """A wave of heights 0 to 1: in each column all rows it passes, from where the column before ended."""
    width, top = len(field[0]), len(field) - 1
    fine = np.linspace(0, len(heights) - 1, width * _FINE)
    rows = np.rint((1 - np.interp(fine, np.arange(len(heights)), heights)) * top).astype(int).reshape(width, _FINE)
    before = int(rows[0, 0])
    for column, passed in enumerate(rows.tolist()):
        first, last = min(passed), max(passed)
        if before < first:
            first = before + 1
        elif before > last:
            last = before - 1
        for row in range(first, last + 1):
            field[row][column] = mark
        before = passed[-1]
