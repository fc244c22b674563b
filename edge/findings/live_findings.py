"""What a model finds in a lead while it comes in: samples in, windows of counts out. No I/O.

Where there is no signal for ``SILENT_S`` nothing is held back any longer: the windows that are open are told, and
others begin with the next sample. A sensor that fails may do so right after what its owner is to hear of. A window is
a minute long all the same, its silence included: a shorter one would tell when a single beat came.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray

from edge.beats.beat_stream import BeatStream, Described
from edge.findings.beat_windows import BeatWindows, Window
from schemas.errors import DataError

Classify = Callable[[Described], Sequence[str]]  # a model: the class of each beat

SILENT_S: Final = 15.0  # without a sample; a recorder ends a segment after 10
SHORTEST_S: Final = 60.0  # of a window that ends where the signal does


class LiveFindings:
    """One lead, with its gaps. ``classify`` is asked for beats as they are told."""

    def __init__(self, classify: Classify, window_s: float) -> None:
        """Windows of ``window_s`` seconds."""
        self._classify = classify
        self._window_s = window_s
        self._windows = BeatWindows(window_s)
        self._heard: float | None = None  # when the newest sample was taken, since these windows began
        self._stream: BeatStream | None = None
        self._rate = 0.0
        self._began = 0.0  # when the sample before the stream's first was taken

    def feed(self, samples: NDArray[np.float64], rate: float, at: float) -> list[Window]:
        """The windows that are over by now.

        ``samples`` (n,) in mV at ``rate`` Hz follow those before without a gap, unless ``part`` was called between; the
        last one was taken ``at``, in seconds of a clock that only rises. NaN is a gap. Raises ``DataError`` for a rate
        that can't be.
        """
        if rate != self._rate:
            self.part()
            self._rate = rate
        missing = np.isnan(samples)
        edges = [0, *(np.flatnonzero(np.diff(missing)) + 1).tolist(), len(samples)]
        found: list[Window] = []
        for start, stop in pairwise(edges):
            ended = at - (len(samples) - stop) / rate
            if start == stop:
                continue
            if missing[start]:
                self.part()
                found += self.lapsed(ended)
            else:
                found += self.lapsed(ended - (stop - start) / rate)
                self._run(samples[start:stop], ended)
                self._heard = ended
        return found + self._windows.done()

    def part(self) -> None:
        """What follows lies behind a gap: tell the beats that wait for later ones."""
        stream, self._stream = self._stream, None
        if stream is not None:
            with suppress(DataError):  # flat at its first beats: it has none
                self._tell(stream.finish())
            self._windows.part()

    def lapsed(self, at: float) -> list[Window]:
        """All windows, where there was no sample for long; it is ``at``."""
        began = self._windows.began_s
        if self._heard is None or began is None or at - self._heard < SILENT_S or at - began < SHORTEST_S:
            return []
        return self.finish(at)

    def finish(self, at: float = -math.inf) -> list[Window]:
        """The last windows, the one that isn't over included, which ends now, ``at``. What follows lies in new ones."""
        self.part()
        windows, self._windows, self._heard = self._windows, BeatWindows(self._window_s), None
        return windows.done(whole=True, at=at)

    def _run(self, samples: NDArray[np.float64], ended: float) -> None:
        """Samples without a gap, a second at a time."""
        second = max(1, math.floor(self._rate))
        if self._stream is None:
            self._stream = BeatStream(self._rate)
            self._began = ended - len(samples) / self._rate
        for start in range(0, len(samples), second):
            piece = samples[start : start + second]
            at = ended - (len(samples) - start - len(piece)) / self._rate
            self._windows.hear(at, piece.tolist(), self._rate)
        try:
            self._tell(self._stream.feed(samples))
        except DataError:  # flat at its first beats: an electrode is off
            self._stream = None
            self._windows.part()

    def _tell(self, beats: Described) -> None:
        if len(beats.peaks):
            times = self._began + (beats.peaks + 1) / self._rate
            self._windows.tell(times.tolist(), self._classify(beats))
