"""An ECG and its annotated beats become what a beat classifier sees: a short signal window and RR features.

Everything is relative to the patient's own record (scale, usual RR interval), so that the same features mean the same
on another patient; that matters since the test patients are others (de Chazal et al. 2004). Pure NumPy and SciPy.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray
from scipy.signal import butter, resample_poly, sosfiltfilt

from edge.dataset import FloatArray
from schemas.errors import DataError

RATE = 180  # Hz, of the windows
WINDOW = 128  # samples, 711 ms
BEFORE = 64  # of them before the R peak
BAND = (0.5, 40.0)  # Hz: below is baseline wander, above is muscle and mains
ORDER = 2  # of the Butterworth filter; applied forwards and backwards, so twice that
LOCAL = 10  # RR intervals in the local mean (de Chazal et al. 2004)
RR_FEATURES = ("pre", "post", "local", "pre/local", "post/local", "pre/post")
RR_RANGE = (0.1, 10.0)  # RR ratios outside are gaps in the annotation, and are clipped
# A premature beat comes some 25 % early, and a classifier should see that as about one unit; in plain logarithms it
# is 0.22. A 17 k-parameter CNN trained for 5 epochs found S with an F1 of 0.24 and 0.33 (two seeds) with this unit, and
# of 0.18 and 0.13 in plain logarithms (4-fold by patient within DS1; DS2 had no part in the choice).
RR_UNIT = float(np.log(1.25))

# The AAMI EC57 classes of the annotation symbols that mark beats. `!` marks flutter waves, which aren't beats.
SYMBOLS = {"N": "NLRBejn", "S": "AaJS", "V": "VEr", "F": "F", "Q": "/fQ?"}
AAMI_OF_SYMBOL = {symbol: name for name, symbols in SYMBOLS.items() for symbol in symbols}

Signal = NDArray[np.float64]


@dataclass(frozen=True, eq=False, slots=True)
class Beats:
    """Beats of one record: signal (n, 1, 128) in the record's own scale, rr (n, 6), kept: bool for each peak given."""

    signal: FloatArray
    rr: FloatArray
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


def rr_features(peaks: NDArray[np.int64], rate: float) -> FloatArray:
    """Six features (n, 6) of the intervals around each beat: 0 is "as usual", -1 is 20 % shorter, +1 is 25 % longer.

    They are logarithms of ratios to the base 1.25.

    In the order of ``RR_FEATURES``: the interval before, the interval after and the mean of the last ten, each to the
    record's median interval; the interval before and the one after to that local mean; before to after. The intervals
    are those of de Chazal et al. (2004); taking them relative to the patient is from Mar et al. (2011).
    """
    if len(peaks) < 2:  # noqa: PLR2004  - one beat has no interval
        return np.zeros((len(peaks), len(RR_FEATURES)), dtype=np.float32)
    intervals = np.diff(peaks) / rate
    pre = np.concatenate([intervals[:1], intervals])
    post = np.concatenate([intervals, intervals[-1:]])
    sums = np.concatenate([[0.0], np.cumsum(pre)])
    stop = np.arange(1, len(pre) + 1)
    start = np.maximum(0, stop - LOCAL)
    local = (sums[stop] - sums[start]) / (stop - start)
    usual = np.median(intervals)
    ratios = np.stack([pre / usual, post / usual, local / usual, pre / local, post / local, pre / post], axis=1)
    logarithms: FloatArray = (np.log(np.clip(ratios, *RR_RANGE)) / RR_UNIT).astype(np.float32)
    return logarithms


def cut_beats(signal: Signal, rate: float, peaks: NDArray[np.int64]) -> Beats:
    """Condition a lead and cut a window around each R peak (sample numbers at ``rate``, increasing).

    Beats whose window would leave the record aren't kept; they still count as neighbours in the RR features.
    """
    conditioned = condition(signal, rate)
    starts = np.rint(peaks * (RATE / rate)).astype(np.int64) - BEFORE
    kept = (starts >= 0) & (starts + WINDOW <= len(conditioned))
    windows = conditioned[starts[kept][:, None] + np.arange(WINDOW)]
    return Beats(windows[:, None, :], rr_features(peaks, rate)[kept], kept)
