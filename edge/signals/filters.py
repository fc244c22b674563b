"""Filters that carry their state from chunk to chunk.

Those of a beat's shape are of linear phase: they look as far ahead as back, and give sample k, unmoved, as soon as what
it needs is there. A recursive high-pass at 0.5 Hz would tilt what follows a QRS complex.
"""

from __future__ import annotations

from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.signal import firwin, kaiserord, sosfilt, sosfilt_zi

FloatArray = NDArray[np.float64]

BASELINE_S: Final = 0.9  # of each of two moving averages, whose difference from the signal is down to a half at 0.5 Hz
PASS, STOP = (
    38.0,
    50.0,
)  # Hz: what lies between is let through less and less; above are muscle and the mains of any land
STOP_DB: Final = 40.0


class Stage(Protocol):
    """One filter in a chain."""

    def feed(self, samples: FloatArray) -> FloatArray:
        """What comes out as ``samples`` (n,) go in."""


class Filter:
    """Recursive: second-order sections (s, 6), begun as if the first sample had been there for ever."""

    def __init__(self, sections: FloatArray) -> None:
        self._sections = np.ascontiguousarray(sections)
        self._state: FloatArray | None = None

    def feed(self, samples: FloatArray) -> FloatArray:
        """The filtered samples (n,) of ``samples`` (n,)."""
        if not len(samples):
            return np.empty(0)
        if self._state is None:
            self._state = sosfilt_zi(self._sections) * samples[0]
        filtered: FloatArray
        filtered, self._state = sosfilt(self._sections, samples, zi=self._state)
        return filtered


class LowPass:
    """Symmetric taps, an odd number; what lies before the first sample is taken to be as that."""

    def __init__(self, rate: float) -> None:
        """From ``PASS`` to ``STOP`` Hz, of a signal at ``rate`` Hz, more than twice ``STOP``."""
        count, beta = kaiserord(STOP_DB, (STOP - PASS) / (rate / 2))
        self._taps = firwin(count | 1, (PASS + STOP) / 2, window=("kaiser", beta), fs=rate)
        self._kept: FloatArray = np.empty(0)

    def feed(self, samples: FloatArray) -> FloatArray:
        """The next filtered samples (m,), as many as have all they need."""
        if not len(samples):
            return np.empty(0)
        ahead = len(self._taps) // 2
        kept = self._kept if len(self._kept) else np.full(ahead, samples[0])
        kept = np.concatenate([kept, samples])
        made = np.zeros(max(0, len(kept) - 2 * ahead))
        for place, tap in enumerate(self._taps):  # one by one, so that the sum's order doesn't depend on the chunk
            made += tap * kept[place : place + len(made)]
        self._kept = kept[len(made) :]
        return made


class Detrend:
    """Takes a moving average of a moving average away (Kaiser and Schafer's triangular window), of linear phase."""

    def __init__(self, rate: float) -> None:
        """Of a signal at ``rate`` Hz."""
        self._half = round(BASELINE_S * rate / 2)
        self._once, self._twice = _Average(self._half), _Average(self._half)
        self._kept: FloatArray = np.empty(0)
        self._offset: float | None = None

    def feed(self, samples: FloatArray) -> FloatArray:
        """The next samples (m,) without their baseline, as many as have all they need."""
        if not len(samples):
            return np.empty(0)
        if self._offset is None:
            self._offset = float(samples[0])  # sums stay small, however far from zero an electrode lies
        level = samples - self._offset
        baseline = self._twice.feed(self._once.feed(level))
        kept = np.concatenate([self._kept, level])
        self._kept = kept[len(baseline) :]
        return np.asarray(kept[: len(baseline)] - baseline)


class _Average:
    """The mean of a sample and the ``half`` on either side, from running sums."""

    def __init__(self, half: int) -> None:
        self._half = half
        self._sums: FloatArray | None = None  # the newest ones, as far back as the next mean needs

    def feed(self, samples: FloatArray) -> FloatArray:
        if not len(samples):
            return np.empty(0)
        if self._sums is None:
            self._sums = np.cumsum(np.concatenate([[0.0], np.full(self._half, samples[0])]))
        # Added up one by one from the last sum on, so that its bits don't depend on the chunk.
        sums = np.concatenate([self._sums, np.cumsum(np.concatenate([self._sums[-1:], samples]))[1:]])
        width = 2 * self._half + 1
        made = np.asarray((sums[width:] - sums[:-width]) / width)
        self._sums = sums[len(made) :]
        return made


class Chain:
    """Stages one behind the other."""

    def __init__(self, *stages: Stage) -> None:
        self._stages = stages

    def feed(self, samples: FloatArray) -> FloatArray:
        """What comes out of the last as ``samples`` (n,) go into the first."""
        for stage in self._stages:
            samples = stage.feed(samples)
        return samples


def ecg_band(rate: float) -> Chain:
    """What a beat's shape lies in, 0.5 to 40 Hz; ``rate`` in Hz, above 100. Sample k comes 1 s later, in its place."""
    return Chain(Detrend(rate), LowPass(rate))
