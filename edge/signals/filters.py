"""Recursive filters that carry their state from chunk to chunk."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.signal import butter, iirnotch, sosfilt, sosfilt_zi, tf2sos

FloatArray = NDArray[np.float64]

BAND = (0.5, 40.0)  # Hz: below is baseline wander, above is muscle and mains
ORDER = 2  # of the Butterworth filter
MAINS = (50.0, 60.0)  # Hz; both lie above the band, so a device needn't know where it is
NOTCH_Q = 20.0  # a notch 2.5 or 3 Hz wide: a mains frequency wanders by some tenths


class Filter:
    """Second-order sections (s, 6), begun as if the first sample had been there for ever."""

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


def ecg_band(rate: float) -> Filter:
    """What a beat's shape lies in, 0.5 to 40 Hz, without mains hum; ``rate`` in Hz, above 120."""
    notches = [tf2sos(*iirnotch(mains, NOTCH_Q, fs=rate)) for mains in MAINS]
    return Filter(np.concatenate([*notches, butter(ORDER, BAND, btype="bandpass", fs=rate, output="sos")]))
