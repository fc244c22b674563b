"""What a person's beats are like beside their own rhythm and their own dominant beat: 31 numbers a beat.

Features that carry over from patient to patient are relations, as of intervals to the usual one (de Chazal et al. 2004,
Mar et al. 2011). Here each is to the references of ``dominant_beat``; and how unlike the dominant beat a beat is, is
again taken relative to how unlike this person's beats usually are, which noise and atrial fibrillation decide. Nothing
is absolute: neither seconds nor millivolts.

A beat's features need its record up to two beats later. Pure NumPy.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from edge.beats.dominant_beat import BLOCK, Followed, Wave, correlation
from edge.dataset import FloatArray

BEFORE = 64  # samples of a beat before its R peak, at 180 Hz
QRS = slice(BEFORE - 11, BEFORE + 15)  # -61 to 83 ms
P_WAVE = slice(BEFORE - 46, BEFORE - 12)  # -256 to -67 ms
T_WAVE = slice(BEFORE + 16, None)  # from 89 ms
BASELINE = slice(BEFORE - 46, BEFORE - 7)  # its median is the baseline
LOOK = slice(BEFORE - 24, BEFORE + 48, 4)  # -133 to 244 ms, a sample each 22 ms: what a beat's look is
AROUND = slice(BEFORE - 24, BEFORE + 24)  # 267 ms in which a complex's width is measured
P_REACH = 6  # samples that a P wave may come early or late

SOME = 64  # beats before, about a minute, of which the usual beat is the median
CHANGES = 24  # changes from interval to interval that tell a regular rhythm from fibrillation
CHUNK = 128 * BLOCK  # beats compared at a time, 2 MB an array
WARM = 16  # beats whose median stands for those before where there are fewer
UNIT = float(np.log(1.25))  # of logarithms of interval ratios: -1 is 20 % shorter, +1 is 25 % longer
RATIO = (0.1, 10.0)  # interval ratios outside are gaps in the annotation, and are clipped
MOST_CHANGE = 3.0  # units that a change from interval to interval counts at most
LIMIT = 4.0  # of a feature, in its own unit; what is further out is an artefact

V = TypeVar("V", bound=np.generic)

# Each feature, what it is at most beats and the unit it is given in: the median and the standard deviation over DS1's
# beats, rounded.
RHYTHM: dict[str, tuple[float, float]] = {
    "interval -2": (0.0, 0.9),
    "interval -1": (0.0, 0.9),
    "interval +0": (0.0, 0.9),
    "interval +1": (0.0, 0.9),
    "interval +2": (0.0, 0.9),
    "before/after": (0.0, 1.0),
    "before/earlier": (0.0, 1.0),
    "pause": (0.0, 0.7),
    "early pause": (0.0, 0.7),
    "change": (0.1, 0.7),
    "early by change": (0.0, 1.5),
    "late by change": (0.0, 1.5),
}
SHAPE: dict[str, tuple[float, float]] = {
    "height": (0.0, 0.19),
    "spread": (0.1, 0.14),
    "width": (0.0, 0.3),
    "slope": (0.0, 0.2),
    "area": (0.0, 0.3),
    "net": (0.0, 0.13),
    "qrs rel": (0.0, 0.7),
    "whole rel": (0.0, 0.8),
    "p rel": (0.0, 0.3),
    "p anywhere rel": (0.0, 0.3),
    "t rel": (0.0, 0.9),
    "qrs off rel": (0.0, 0.6),
    "p off rel": (0.0, 0.4),
    "t off rel": (0.0, 0.5),
    "p size rel": (0.0, 0.3),
    "qrs rel before": (0.0, 0.7),
    "qrs rel after": (0.0, 0.7),
    "unlike before": (-3.3, 0.9),
    "unlike after": (-3.3, 0.9),
}
UNLIKE = ("qrs", "whole", "p", "p anywhere", "t", "qrs off", "p off", "t off", "p size")  # how unlike the dominant beat


def features(followed: Followed, intervals: Wave) -> tuple[FloatArray, FloatArray]:
    """The features of a person's beats in order, float32 within +-4: of their rhythm (n, 12), of their shape (n, 19).

    ``intervals`` (n,): s before each beat, positive.
    """
    return _in_units(rhythm(followed, intervals), RHYTHM), _in_units(shape(followed), SHAPE)


def looks(waves: FloatArray) -> FloatArray:
    """What beats (n, 128), each on the dominant beat, are compared by with labelled ones of the same person.

    float32 (n, 18), in usual heights of a QRS complex. Higher than ``LIMIT`` is an artefact.
    """
    bounded = np.clip(waves, -LIMIT, LIMIT)
    return np.asarray((bounded - np.median(bounded[:, BASELINE], axis=1, keepdims=True))[:, LOOK].astype(np.float32))


def _in_units(named: dict[str, Wave], units: dict[str, tuple[float, float]]) -> FloatArray:
    columns = [(named[name] - centre) / unit for name, (centre, unit) in units.items()]
    return np.clip(np.stack(columns, axis=1), -LIMIT, LIMIT).astype(np.float32)


def rhythm(followed: Followed, intervals: Wave) -> dict[str, Wave]:
    """Of the intervals around each beat, not yet centred.

    ``interval K``: the Kth after the one before the beat, to the sinus interval; the others say to what. ``by change``:
    in units of how much this person's intervals change anyway, which in fibrillation is as much as by an early beat.
    Nothing is relative to the person's intervals as they are: where ectopic beats are most of them, those are usual.
    """
    sinus, before, after = followed.sinus, intervals, _neighbour(intervals, 1)
    earlier = _neighbour(intervals, -1)
    changes = np.minimum(np.abs(np.diff(np.log(intervals), prepend=np.log(intervals[0]))) / UNIT, MOST_CHANGE)
    change = _median_before(changes, CHANGES)
    return {
        **{f"interval {k:+d}": _ratio(_neighbour(intervals, k), sinus) for k in (-2, -1, 0, 1, 2)},
        "before/after": _ratio(before, after),
        "before/earlier": _ratio(before, earlier),
        "pause": _ratio(before + after, 2 * sinus),
        "early pause": _ratio(before + earlier, 2 * sinus),
        "change": change,
        "early by change": _ratio(before, sinus) / (change + 0.3),
        "late by change": _ratio(after, sinus) / (change + 0.3),
    }


def shape(followed: Followed) -> dict[str, Wave]:
    """Of each beat's wave beside the dominant beat's, not yet centred. Names ending in ``rel``: to the usual beat."""
    parts = [_compared(followed, start) for start in range(0, len(followed.beats), CHUNK)]
    named = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    unlike = {name: named.pop(name) for name in UNLIKE}
    relative = {name: values - _median_before(values, SOME) for name, values in unlike.items()}
    complexes = followed.beats[:, QRS].astype(np.float64)
    return {
        **named,
        **{f"{name} rel": values for name, values in relative.items()},
        "qrs rel before": _shifted(relative["qrs"], 1),
        "qrs rel after": _shifted(relative["qrs"], -1),
        "unlike before": _unlike(correlation(complexes, _shifted(complexes, 1))),
        "unlike after": _unlike(correlation(complexes, _shifted(complexes, -1))),
    }


def _compared(followed: Followed, start: int) -> dict[str, Wave]:
    """What a chunk of beats from ``start``, the first of a block, is beside the dominant beat."""
    beats = followed.beats[start : start + CHUNK].astype(np.float64)
    blocks = followed.dominant[start // BLOCK : (start + CHUNK) // BLOCK].astype(np.float64)
    dominant = np.repeat(blocks, BLOCK, axis=0)[: len(beats)]
    height = np.maximum(np.ptp(dominant[:, QRS], axis=1), 1e-3)
    off = beats - dominant
    level = _even(off)
    even, dominant_even = _even(beats), _even(dominant)
    complexes = beats[:, QRS]
    return {
        "height": _log_ratio(np.ptp(complexes, axis=1), height),
        "spread": _log_ratio(_spread(beats), _spread(dominant)),
        "width": _log_ratio(_width(beats), _width(dominant)),
        "slope": _log_ratio(_slope(complexes), _slope(dominant[:, QRS])),
        "area": _log_ratio(np.abs(even[:, QRS]).mean(axis=1), np.abs(dominant_even[:, QRS]).mean(axis=1)),
        "net": (even[:, QRS].mean(axis=1) - dominant_even[:, QRS].mean(axis=1)) / height,
        "qrs": _unlike(followed.likeness[start : start + CHUNK]),
        "whole": _unlike(correlation(beats, dominant)),
        "p": correlation(beats[:, P_WAVE], dominant[:, P_WAVE]),
        "p anywhere": _p_anywhere(beats, dominant),
        "t": _unlike(correlation(beats[:, T_WAVE], dominant[:, T_WAVE])),
        "qrs off": np.log(_size(level[:, QRS]) / height + 0.02),
        "p off": np.log(_swing(off[:, P_WAVE]) / height + 0.01),
        "t off": np.log(_size(level[:, T_WAVE]) / height + 0.02),
        "p size": np.log(_swing(beats[:, P_WAVE]) / height + 0.01),
    }


def _neighbour(intervals: Wave, distance: int) -> Wave:
    """The interval so many beats later; at the ends the nearest real one (the first stands in for one before it)."""
    last = len(intervals) - 1
    return intervals[np.clip(np.arange(last + 1) + distance, min(1, last), last)]


def _shifted(values: NDArray[V], distance: int) -> NDArray[V]:
    """Each beat gets what the one ``distance`` beats before it has."""
    return values[np.clip(np.arange(len(values)) - distance, 0, len(values) - 1)]


def _ratio(one: Wave, other: Wave) -> Wave:
    return np.asarray(np.log(np.clip(one / other, *RATIO)) / UNIT)


def _log_ratio(one: Wave, other: Wave) -> Wave:
    return np.asarray(np.log((one + 1e-3) / (other + 1e-3)))


def _before(values: Wave, length: int, reduce: Callable[[Wave], Wave]) -> Wave:
    """``reduce`` along the last axis of the ``length`` values before each; of the first ``WARM`` where few are."""
    result = np.empty(len(values))
    result[:WARM] = reduce(values[None, :WARM])
    for i in range(WARM, min(length, len(values))):
        result[i] = reduce(values[None, :i])[0]
    if len(values) > length:
        start = max(length, WARM)
        windows = np.lib.stride_tricks.sliding_window_view(values[:-1], length)
        result[start:] = reduce(windows[start - length :])
    return result


def _median_before(values: Wave, length: int) -> Wave:
    return _before(values, length, lambda windows: np.asarray(np.median(windows, axis=-1)))


def _unlike(likeness: Wave) -> Wave:
    """The logarithm of what is missing in a correlation, since 0.99 and 0.95 differ as much as 0.9 and 0.5."""
    return np.asarray(np.log(1.02 - likeness))


def _even(waves: Wave) -> Wave:
    """Waves with their baseline at 0."""
    return waves - np.median(waves[:, BASELINE], axis=1, keepdims=True)


def _size(waves: Wave) -> Wave:
    return np.asarray(np.sqrt((waves * waves).mean(axis=1)))


def _swing(waves: Wave) -> Wave:
    """Standard deviation: the size without the mean."""
    return _size(waves - waves.mean(axis=1, keepdims=True))


def _p_anywhere(beats: Wave, dominant: Wave) -> Wave:
    """How like the dominant beat's P wave the likest stretch is, where a P wave may come early or late."""
    start, stop = P_WAVE.start, P_WAVE.stop
    shifts = range(-P_REACH, P_REACH + 1)
    alike = [correlation(beats[:, start + shift : stop + shift], dominant[:, P_WAVE]) for shift in shifts]
    return np.asarray(np.max(alike, axis=0))


def _spread(waves: Wave) -> Wave:
    """How far from its centre, in samples, a complex's slopes lie: a smooth measure of its width."""
    slopes = np.abs(np.gradient(waves[:, AROUND], axis=1)) + 1e-9
    place = np.arange(slopes.shape[1]) + 0.5
    total = slopes.sum(axis=1)
    centre = (slopes * place).sum(axis=1) / total
    return np.asarray(np.sqrt((slopes * (place - centre[:, None]) ** 2).sum(axis=1) / total))


def _width(waves: Wave) -> Wave:
    """Samples that are further from the median than 30 % of the furthest."""
    part = waves[:, AROUND]
    away = np.abs(part - np.median(part, axis=1, keepdims=True))
    return np.asarray(np.maximum((away > 0.3 * away.max(axis=1, keepdims=True)).sum(axis=1), 1).astype(np.float64))


def _slope(complexes: Wave) -> Wave:
    return np.asarray(np.abs(np.diff(complexes, axis=1)).max(axis=1))
