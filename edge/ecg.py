"""An ECG lead and its annotated beats become what a beat classifier sees: each beat beside its owner's own rhythm.

The classifier is used on people it wasn't trained on, so nothing it sees is absolute: ``dominant_beat`` follows a
person's usual beat and interval, ``beat_features`` says how a beat differs from them. All of that needs a record up to
two beats later; only the filter, forwards and backwards, and the scale look at the whole. Pure NumPy and SciPy.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray
from scipy.signal import butter, resample_poly, sosfiltfilt

from edge.beat_features import BEFORE, QRS, RHYTHM, SHAPE, features
from edge.dataset import FloatArray
from edge.dominant_beat import follow
from schemas.errors import DataError

RATE = 180  # Hz, of the windows
WINDOW = 128  # samples of a beat, 711 ms
BAND = (0.5, 40.0)  # Hz: below is baseline wander, above is muscle and mains
ORDER = 2  # of the Butterworth filter; applied forwards and backwards, so twice that
SHORTEST = 0.02  # s, of an interval between beats: what is annotated closer is one beat twice

# The AAMI EC57 classes of the annotation symbols that mark beats. `!` marks flutter waves, which aren't beats.
SYMBOLS = {"N": "NLRBejn", "S": "AaJS", "V": "VEr", "F": "F", "Q": "/fQ?"}
AAMI_OF_SYMBOL = {symbol: name for name, symbols in SYMBOLS.items() for symbol in symbols}

Signal = NDArray[np.float64]


@dataclass(frozen=True, eq=False, slots=True)
class Beats:
    """Beats of one record, as in ``beat_features``: rhythm (n, 12), shape (n, 19); kept: bool for each peak given."""

    rhythm: FloatArray
    shape: FloatArray
    kept: NDArray[np.bool_]


def condition(signal: Signal, rate: float) -> FloatArray:
    """Band-pass a lead (samples,) at ``rate`` Hz without shifting it, resample to 180 Hz, and scale it robustly.

    The unit of the result is the spread of the record's own large deflections (see ``robust_scale``).
    """
    if rate < 2 * BAND[1]:
        raise DataError(f"an ECG at {rate:g} Hz is too coarse for beats: record at {2 * BAND[1]:g} Hz or more")
    filtered = sosfiltfilt(butter(ORDER, BAND, btype="bandpass", fs=rate, output="sos"), signal)
    ratio = Fraction(RATE / rate).limit_denominator(1000)
    resampled = resample_poly(filtered, ratio.numerator, ratio.denominator)
    scaled: FloatArray = (resampled / robust_scale(resampled)).astype(np.float32)
    return scaled


def robust_scale(signal: Signal) -> float:
    """The median over 2 s stretches of each stretch's largest magnitude: about one R wave, whatever the artefacts."""
    stretch = 2 * RATE
    whole = len(signal) // stretch * stretch
    peaks = np.abs(signal[:whole]).reshape(-1, stretch).max(axis=1) if whole else np.abs(signal).max(keepdims=True)
    scale = float(np.median(peaks))
    if not scale > 0:
        raise DataError("the ECG lead is flat: check the electrode or choose another lead")
    return scale


def intervals(peaks: NDArray[np.int64], rate: float) -> NDArray[np.float64]:
    """The interval before each beat (n,) in s, at least ``SHORTEST``; the first beat's is the second's, or 1 s."""
    between = np.maximum(np.diff(peaks) / rate, SHORTEST)
    return np.concatenate([between[:1] if len(between) else [1.0] * len(peaks), between])


def relate_beats(signal: Signal, rate: float, peaks: NDArray[np.int64]) -> Beats:
    """Condition a lead and describe the beat around each R peak (sample numbers at ``rate``, in order).

    Beats whose window would leave the record aren't kept; they still count as neighbours.
    """
    conditioned = condition(signal, rate)
    starts = np.rint(peaks * (RATE / rate)).astype(np.int64) - BEFORE
    kept = (starts >= 0) & (starts + WINDOW <= len(conditioned))
    if not kept.any():
        return Beats(np.empty((0, len(RHYTHM)), dtype=np.float32), np.empty((0, len(SHAPE)), dtype=np.float32), kept)
    before = intervals(peaks, rate)
    rhythm, shape = features(follow(conditioned, starts, WINDOW, before, QRS), before)
    return Beats(rhythm[kept], shape[kept], kept)
