"""Samples of one rate become samples of another, chunk by chunk, without shifting the signal in time."""

from __future__ import annotations

from fractions import Fraction
from typing import Final

import numpy as np

from edge.signals.filters import FloatArray, low_pass_taps
from schemas.errors import DataError

HALF: Final = 10  # taps on either side, counted in samples of the slower rate
BETA: Final = 5.0  # of the Kaiser window: about 50 dB of what the slower rate can't hold are gone
LONGEST_RATIO: Final = 1000  # numerator and denominator of the ratio of the rates


class Resampler:
    """A linear-phase low-pass at the lower of two Nyquist rates, evaluated where the new samples lie.

    New sample k lies where old sample ``k * rate / wanted`` does. It comes as soon as the ``HALF`` samples after it are
    there. What lies before the first sample is taken to be as that.
    """

    def __init__(self, rate: float, wanted: float) -> None:
        """Rates in Hz. Raises ``DataError`` where their ratio is none of small numbers."""
        if not (np.isfinite(rate) and rate > 0):
            raise DataError(f"{rate:g} Hz is no sampling rate: see to the recording's header or the source's setting")
        ratio = Fraction(wanted / rate).limit_denominator(LONGEST_RATIO)
        self._up, self._down = ratio.numerator, ratio.denominator
        if not 0 < self._up <= LONGEST_RATIO:
            raise DataError(f"{rate:g} Hz is too far from {wanted:g} Hz to be resampled: record at 50 Hz to 50 kHz")
        slower = max(self._up, self._down)
        self._half = HALF * slower
        if slower == 1:
            self._half = 0
        taps = low_pass_taps(self._half, 1 / slower, BETA) * self._up
        self._span = -(-len(taps) // self._up)  # old samples that one new sample is made of
        self._taps = np.zeros(self._span * self._up)
        self._taps[: len(taps)] = taps
        self._kept: FloatArray = np.empty(0)  # the newest old samples, `_first` being the number of the first
        self._first = 0
        self._next = 0  # the new sample to come

    def feed(self, samples: FloatArray) -> FloatArray:
        """The new samples (m,) that ``samples`` (n,) make possible."""
        if not len(samples):
            return np.empty(0)
        if self._first == 0 and not len(self._kept):
            self._kept = np.full(self._span, samples[0])
            self._first = -self._span
        self._kept = np.concatenate([self._kept, samples])
        end = self._first + len(self._kept)  # one past the newest old sample
        stop = max(self._next, (end * self._up - 1 - self._half) // self._down + 1)
        places = np.arange(self._next, stop) * self._down + self._half
        newest, phase = places // self._up - self._first, places % self._up
        made = np.zeros(len(places))
        for tap in range(self._span):  # one by one, so that the sum's order doesn't depend on the chunk
            made += self._taps[phase + tap * self._up] * self._kept[newest - tap]
        self._next = stop
        oldest = (stop * self._down + self._half) // self._up - self._span + 1
        drop = max(0, min(oldest - self._first, len(self._kept)))
        self._kept, self._first = self._kept[drop:], self._first + drop
        return made
