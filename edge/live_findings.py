"""What a model finds in a lead while it comes in: samples in, windows of counts out. No I/O."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from edge.beat_stream import BeatStream, Described
from edge.beat_windows import BeatWindows, Window
from schemas.errors import DataError

Classify = Callable[[Described], Sequence[str]]  # a model: the class of each beat


class LiveFindings:
    """One lead, with its gaps. ``classify`` is asked for beats as they are told."""

    def __init__(self, classify: Classify, window_s: float) -> None:
        """Windows of ``window_s`` seconds."""
        self._classify = classify
        self._windows = BeatWindows(window_s)
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
        for start, stop in pairwise(edges):
            ended = at - (len(samples) - stop) / rate
            if start == stop:
                continue
            if missing[start]:
                self.part()
            else:
                self._run(samples[start:stop], ended)
        return self._windows.done()

    def part(self) -> None:
        """What follows lies behind a gap: tell the beats that wait for later ones."""
        stream, self._stream = self._stream, None
        if stream is not None:
            with suppress(DataError):  # flat at its first beats: it has none
                self._tell(stream.finish())
            self._windows.part()

    def finish(self) -> list[Window]:
        """The last windows, the one that isn't over included."""
        self.part()
        return self._windows.done(whole=True)

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
