"""Filters that carry their state from chunk to chunk.

Those of a beat's shape are of linear phase: they look as far ahead as back, and give sample k, unmoved, as soon as what
it needs is there. A recursive high-pass at 0.5 Hz would tilt what follows a QRS complex.

In NumPy alone: ``scipy.signal`` has all of this, and takes more memory than all else that a device needs to find beats.
"""

from __future__ import annotations

import math
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

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


class BandPass:
    """Butterworth's of fourth order, recursive, begun as if the first sample had been there for ever."""

    def __init__(self, low: float, high: float, rate: float) -> None:
        """From ``low`` to ``high`` Hz, where half of the power is let through, of a signal at ``rate`` Hz."""
        # The poles of the analogue filter, in whose plane z is (1 + s) / (1 - s), so that Hz are bent by a tangent.
        bent_low, bent_high = np.tan(np.pi * low / rate), np.tan(np.pi * high / rate)
        middle = (bent_high - bent_low) / 2 * np.exp(0.75j * np.pi)
        apart = np.sqrt(middle**2 - bent_low * bent_high)
        self._gain, self._feedback = 1.0, []
        for pole in (middle + apart, middle - apart):  # each of two sections has one and its conjugate
            self._gain *= float((bent_high - bent_low) / abs(1 - pole) ** 2)
            bent_back = (1 + pole) / (1 - pole)
            self._feedback += [2 * float(bent_back.real), -float(abs(bent_back) ** 2)]
        self._fed: FloatArray = np.empty(0)  # the newest four samples
        self._made = [0.0] * 4  # the newest two of the first section, then of the second, the newest first

    def feed(self, samples: FloatArray) -> FloatArray:
        """The filtered samples (n,) of ``samples`` (n,)."""
        if not len(samples):
            return np.empty(0)
        fed = np.concatenate([self._fed if len(self._fed) else np.full(4, samples[0]), samples])
        self._fed = fed[-4:]
        nearer, farther, nearer_2, farther_2 = self._feedback
        once, once_before, twice, twice_before = self._made
        made = []
        for driven in (self._gain * ((fed[4:] - fed[2:-2]) - (fed[2:-2] - fed[:-4]))).tolist():
            once, once_before = driven + nearer * once + farther * once_before, once
            twice, twice_before = once + nearer_2 * twice + farther_2 * twice_before, twice
            made.append(twice)
        self._made = [once, once_before, twice, twice_before]
        return np.array(made)


def low_pass_taps(half: int, share: float, beta: float) -> FloatArray:
    """A sinc in a Kaiser window: taps (2 * half + 1,) that let through the lower ``share`` of what a rate can hold."""
    taps = np.sinc(share * np.arange(-half, half + 1)) * np.kaiser(2 * half + 1, beta)
    return np.asarray(taps / taps.sum())


class LowPass:
    """Symmetric taps, an odd number; what lies before the first sample is taken to be as that."""

    def __init__(self, rate: float) -> None:
        """From ``PASS`` to ``STOP`` Hz, of a signal at ``rate`` Hz, more than twice ``STOP``."""
        nyquist = rate / 2
        # Kaiser's rules (1974) for 21 to 50 dB: how steep the window's sides are, and how many taps it takes.
        beta = 0.5842 * (STOP_DB - 21) ** 0.4 + 0.07886 * (STOP_DB - 21)
        half = math.ceil((STOP_DB - 7.95) / (2.285 * np.pi * (STOP - PASS) / nyquist) + 1) // 2
        self._taps = low_pass_taps(half, (PASS + STOP) / 2 / nyquist, beta)
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
