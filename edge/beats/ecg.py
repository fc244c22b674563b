"""An ECG lead and its annotated beats become what a beat classifier sees: each beat beside its owner's own rhythm.

The classifier is used on people it wasn't trained on, so nothing it sees is absolute: ``dominant_beat`` follows a
person's usual beat and interval, ``beat_features`` says how a beat differs from them. All of that needs a record up to
two beats later, so that a live one gives the same numbers. Pure NumPy and SciPy.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge.beats.beat_features import BEFORE, QRS, RHYTHM, SHAPE, features, looks
from edge.beats.dominant_beat import FIRST, REACH, cut, follow
from edge.dataset import FloatArray
from edge.signals.filters import PASS, ecg_band
from edge.signals.resampling import Resampler
from schemas.errors import DataError

RATE = 180  # Hz, of the windows
WINDOW = 128  # samples of a beat, 711 ms
AHEAD = 1.5  # s of a lead's last value that are added to it
SHORTEST = 0.02  # s, of an interval between beats: what is annotated closer is one beat twice

# The AAMI EC57 classes of the annotation symbols that mark beats. `!` marks flutter waves, which aren't beats.
SYMBOLS = {"N": "NLRBejn", "S": "AaJS", "V": "VEr", "F": "F", "Q": "/fQ?"}
AAMI_OF_SYMBOL = {symbol: name for name, symbols in SYMBOLS.items() for symbol in symbols}

Signal = NDArray[np.float64]


@dataclass(frozen=True, eq=False, slots=True)
class Beats:
    """Beats of one record, as in ``beat_features``: rhythm (n, 12), shape (n, 19), looks (n, 18).

    ``kept``: bool for each peak given.
    """

    rhythm: FloatArray
    shape: FloatArray
    looks: FloatArray
    kept: NDArray[np.bool_]


def resampled(rate: float) -> Resampler:
    """What brings a lead at ``rate`` Hz to 180 Hz. Raises ``DataError`` where that is no rate, or too coarse."""
    if 0 < rate < 2 * PASS:
        raise DataError(f"an ECG at {rate:g} Hz is too coarse for beats: record at {2 * PASS:g} Hz or more")
    return Resampler(rate, RATE)


def condition(signal: Signal, rate: float) -> FloatArray:
    """A lead (samples,) in mV at ``rate`` Hz at 180 Hz, band-passed, as ``signals`` would give it live. In mV still.

    Raises ``DataError`` for a lead that is too coarse.
    """
    resampler = resampled(rate)
    ahead = np.full(int(AHEAD * rate), signal[-1])  # what the filters wait for before they give the last second
    conditioned = ecg_band(RATE).feed(resampler.feed(np.concatenate([signal, ahead])))
    return conditioned[: round(len(signal) * RATE / rate)].astype(np.float32)


def intervals(peaks: NDArray[np.int64], rate: float) -> NDArray[np.float64]:
    """The interval before each beat (n,) in s, at least ``SHORTEST``; the first beat's is the second's, or 1 s."""
    between = np.maximum(np.diff(peaks) / rate, SHORTEST)
    return np.concatenate([between[:1] if len(between) else [1.0] * len(peaks), between])


def usual_height(beats: FloatArray) -> float:
    """From the lowest to the highest sample of a QRS complex, the median over some beats (n, 128).

    Raises ``DataError`` where that is 0.
    """
    height = float(np.median(np.ptp(beats[:, QRS], axis=1)))
    if not height > 0:
        raise DataError("the ECG lead is flat: check the electrode or choose another lead")
    return height


def relate_beats(signal: Signal, rate: float, peaks: NDArray[np.int64]) -> Beats:
    """Condition a lead and describe the beat around each R peak (sample numbers at ``rate``, in order).

    Beats whose window would leave the record aren't kept; they still count as neighbours.
    """
    conditioned = condition(signal, rate)
    starts = np.rint(peaks * (RATE / rate)).astype(np.int64) - BEFORE
    kept = (starts >= 0) & (starts + WINDOW <= len(conditioned))
    if not kept.any():
        rhythm, shape = (np.empty((0, len(names)), np.float32) for names in (RHYTHM, SHAPE))
        return Beats(rhythm, shape, looks(np.empty((0, WINDOW), np.float32)), kept)
    before = intervals(peaks, rate)
    conditioned /= np.float32(usual_height(cut(conditioned, starts[:FIRST], WINDOW)[:, REACH:-REACH]))
    followed = follow(conditioned, starts, WINDOW, before, QRS)
    rhythm, shape = features(followed, before)
    return Beats(rhythm[kept], shape[kept], looks(followed.beats)[kept], kept)
