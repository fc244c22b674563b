"""A live ECG into described beats: what ``ecg.relate_beats`` makes of a recording, while it comes. Pure.

A beat is told some 20 beats after it has come: its features need two later ones, and the dominant beat is looked at
every ``BLOCK``. The first are told once ``FIRST`` are known, a minute or so after the start.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from edge.beats.beat_features import BEFORE, QRS, RHYTHM, SHAPE, features, looks
from edge.beats.detectors import Peaks
from edge.beats.dominant_beat import BLOCK, FIRST, REACH, Followed, Follower, cut, joined
from edge.beats.ecg import AHEAD, RATE, WINDOW, intervals, resampled, usual_height
from edge.dataset import FloatArray
from edge.signals.filters import ecg_band
from edge.signals.r_peaks import RPeaks
from schemas.errors import DataError

REMEMBERED: Final = 8  # blocks that are kept, more than features look back
LATER: Final = 2  # beats that a feature looks ahead
CHUNK_S: Final = 60  # of a whole lead at a time
UNTOLD_S: Final = 30  # a beat is found at most so much later than it came


@dataclass(frozen=True, eq=False, slots=True)
class Described:
    """k beats: ``peaks`` (k,), the sample of each R peak counted from the first fed, and their features.

    ``waves`` (k, 128): each beat at 180 Hz, shifted to lie on the dominant beat, in usual heights of a QRS complex;
    ``usual`` (k, 128): that dominant beat, as it was before.
    """

    peaks: NDArray[np.int64]
    rhythm: FloatArray
    shape: FloatArray
    waves: FloatArray
    usual: FloatArray

    @property
    def looks(self) -> FloatArray:
        """By what they are compared with labelled ones of the same person (k, 18)."""
        return looks(self.waves)


NOTHING: Final = Described(
    np.empty(0, np.int64),
    np.empty((0, len(RHYTHM)), np.float32),
    np.empty((0, len(SHAPE)), np.float32),
    np.empty((0, WINDOW), np.float32),
    np.empty((0, WINDOW), np.float32),
)


class Detects(Protocol):
    """Fed with a lead at 180 Hz, tells where its R peaks are, counted in samples of it, once they are certain."""

    def feed(self, samples: NDArray[np.float64]) -> NDArray[np.int64] | NDArray[np.float64]:
        """Those (k,) that are certain now, in order."""


class KnownPeaks:
    """Tells R peaks that somebody else has found, each once the lead has come so far."""

    def __init__(self, peaks: NDArray[np.int64], rate: float) -> None:
        """``peaks`` (k,): their samples at ``rate`` Hz, in order."""
        self._peaks = peaks * (RATE / rate)
        self._fed = 0

    def feed(self, samples: NDArray[np.float64]) -> NDArray[np.float64]:
        """As ``Detects`` has it."""
        self._fed += len(samples)
        told, self._peaks = np.split(self._peaks, [np.searchsorted(self._peaks, self._fed)])
        return np.asarray(told)


class BeatStream:
    """Fed with a lead's samples in mV at ``rate`` Hz without gaps, tells its beats; after a gap, begin a new one."""

    def __init__(self, rate: float, detector: Detects | None = None) -> None:
        """Raises ``DataError`` for a rate that can't be or is too coarse. ``detector`` is ``RPeaks`` unless told."""
        self._rate = rate
        self._resampler, self._band = resampled(rate), ecg_band(RATE)
        self._detector: Detects = RPeaks(RATE) if detector is None else detector
        self._fed = 0
        self._last = 0.0
        self._lead: FloatArray = np.empty(0, np.float32)  # conditioned, from sample `_first` at 180 Hz on
        self._first = 0
        self._peaks: NDArray[np.int64] = np.empty(0, np.int64)  # of the remembered beats and those to come, at `rate`
        self._before: NDArray[np.float64] = np.empty(0)  # the interval before each, s
        self._wide: FloatArray = np.empty((0, WINDOW + 2 * REACH), np.float32)  # of beats that aren't followed yet
        self._height = np.float32(1)
        self._follower: Follower | None = None
        self._followed: list[Followed] = []  # blocks of the remembered beats
        self._told = 0  # of the remembered beats, that were told
        self._kept: NDArray[np.bool_] = np.empty(0, np.bool_)  # whether the lead has all of a beat
        self._begun = True  # whether the first beats are remembered still

    def feed(self, samples: NDArray[np.float64]) -> Described:
        """The beats that are certain now. Raises ``DataError`` where the lead is flat at its first beats."""
        if not len(samples):
            return self._tell(whole=False)
        self._fed += len(samples)
        self._last = float(samples[-1])
        self._take(samples)
        return self._tell(whole=False)

    def finish(self) -> Described:
        """The last beats, where the lead ends here."""
        length = round(self._fed * RATE / self._rate)
        self._take(np.full(int(AHEAD * self._rate), self._last))
        self._lead = self._lead[: max(0, length - self._first)]
        return self._tell(whole=True)

    def _take(self, samples: NDArray[np.float64]) -> None:
        conditioned = self._band.feed(self._resampler.feed(np.asarray(samples, np.float64)))
        found = np.rint(self._detector.feed(conditioned) * (self._rate / RATE)).astype(np.int64)
        found = found[found < self._fed]
        self._lead = np.concatenate([self._lead, conditioned.astype(np.float32)])
        if len(found):
            earlier = self._peaks[-1:]
            before = intervals(np.concatenate([earlier, found]), self._rate)[len(earlier) :]
            self._peaks = np.concatenate([self._peaks, found])
            self._before = np.concatenate([self._before, before])
            if len(self._peaks) > 1 and not self._followed:
                self._before[0] = self._before[1]  # as in a recording: the first has the second's

    def _tell(self, *, whole: bool) -> Described:
        """Follow what beats there are, and describe those that have all they need."""
        self._cut(whole=whole)
        followed = sum(len(block.beats) for block in self._followed)
        waiting = len(self._wide)
        if self._follower is None:
            if waiting < (1 if whole else FIRST):
                return NOTHING
            first = self._wide[:FIRST]
            self._height = np.float32(usual_height(first[:, REACH:-REACH]))
            self._follower = Follower(self._scaled(first), self._before[: len(first)], QRS)
        while waiting >= BLOCK or (whole and waiting):
            block, self._wide = self._wide[:BLOCK], self._wide[BLOCK:]
            self._followed.append(
                self._follower.hear(self._scaled(block), self._before[followed : followed + len(block)])
            )
            followed, waiting = followed + len(block), len(self._wide)
        early = self._begun and followed < FIRST
        described = self._described(followed if whole else 0 if early else followed - LATER)
        self._forget()
        return described

    def _cut(self, *, whole: bool) -> None:
        """Take the beats whose samples are all there out of the lead, and forget what no beat to come needs of it."""
        starts = self._starts(self._peaks)
        end = self._first + len(self._lead)
        done = sum(len(block.beats) for block in self._followed) + len(self._wide)
        ready = len(starts) if whole else int((starts + WINDOW + REACH <= end).sum())
        if ready > done:
            fresh = cut(self._lead, starts[done:ready] - self._first, WINDOW)
            self._wide = np.concatenate([self._wide, fresh])
            self._kept = np.concatenate([self._kept, (starts[done:ready] >= 0) & (starts[done:ready] + WINDOW <= end)])
        oldest = end - UNTOLD_S * RATE  # the next beat may lie in what the detector hasn't told of yet
        if ready < len(starts):
            oldest = min(oldest, int(starts[ready]) - REACH)
        drop = max(0, min(oldest - self._first, len(self._lead)))
        self._lead, self._first = self._lead[drop:], self._first + drop

    def _scaled(self, wide: FloatArray) -> NDArray[np.float64]:
        return (wide / self._height).astype(np.float64)

    def _described(self, stop: int) -> Described:
        """The remembered beats that weren't told yet, up to ``stop``."""
        start, self._told = self._told, max(self._told, stop)
        if stop <= start:
            return NOTHING
        everything = joined(self._followed)
        rhythm, shape = features(everything, self._before[: len(everything.beats)])
        kept = self._kept[start:stop]
        usual = np.repeat(everything.dominant, BLOCK, axis=0)
        rhythm, shape, waves, usual = (values[start:stop][kept] for values in (rhythm, shape, everything.beats, usual))
        return Described(self._peaks[start:stop][kept], rhythm, shape, waves, usual)

    def _starts(self, peaks: NDArray[np.int64]) -> NDArray[np.int64]:
        """Where at 180 Hz the beats around ``peaks`` begin."""
        return np.asarray(np.rint(peaks * (RATE / self._rate)).astype(np.int64) - BEFORE)

    def _forget(self) -> None:
        """Drop blocks that no feature of a beat to come looks back at."""
        while len(self._followed) > REMEMBERED:
            self._followed, self._begun = self._followed[1:], False
            self._peaks, self._before = self._peaks[BLOCK:], self._before[BLOCK:]
            self._kept = self._kept[BLOCK:]
            self._told -= BLOCK


def stream_of(signal: NDArray[np.float64], rate: float, find: Peaks | None = None) -> BeatStream:
    """A stream that is to be fed with this lead (samples,), and tells its beats where ``find`` finds their peaks.

    Raises ``DataError`` as ``BeatStream`` does.
    """
    if find is None:
        return BeatStream(rate)
    resampled(rate)  # which raises before another is asked to find beats at no rate
    return BeatStream(rate, KnownPeaks(find(signal, rate), rate))


def beats_of(signal: NDArray[np.float64], rate: float, find: Peaks | None = None) -> Described:
    """The beats of a whole lead (samples,) in mV, as a device would tell them while it came.

    Their R peaks are those of ``find``, or else of the device's own detector. A gap (NaN) ends a stretch, and the next
    is followed anew; a flat stretch has no beats. Raises ``DataError`` for a rate that can't be.
    """
    parts = [replace(part, peaks=part.peaks + start) for start, part in _of_stretches(signal, rate, find)]
    names = Described.__slots__
    return Described(*(np.concatenate([getattr(part, name) for part in (NOTHING, *parts)]) for name in names))


def _of_stretches(signal: NDArray[np.float64], rate: float, find: Peaks | None) -> Iterator[tuple[int, Described]]:
    """The beats of each gapless stretch, piece by piece, and where it begins."""
    there = np.isfinite(signal)
    edges = np.flatnonzero(np.diff(np.concatenate([[False], there, [False]])))
    for start, stop in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True):
        stream, chunk = stream_of(signal[start:stop], rate, find), int(CHUNK_S * rate)
        try:
            for at in range(start, stop, chunk):
                yield start, stream.feed(signal[at : min(at + chunk, stop)])
            yield start, stream.finish()
        except DataError:
            continue
