"""A person's own dominant beat and sinus interval, followed from beat to beat.

Whether a beat is early, or looks strange, is a question about its owner: the same interval is rest in one and a
premature beat in another. So two references are kept while beats come in, and each beat is compared with what they
were before it:

- the **dominant beat**, the median of the newest ``MEMORY`` beats that came in time and looked like it;
- the **sinus interval**, a geometric running mean of the intervals that weren't premature. A premature beat moves it
  hardly, so that a run of them doesn't become the rhythm it is compared with; the pause after a ventricular beat
  isn't used, since it makes up for the early beat, while an atrial one resets the sinus node and the interval after it
  is about a sinus interval (Zipes and Jalife, Cardiac Electrophysiology).

The references begin with the first ``FIRST`` beats, the only ones that are compared with what came after them. From
there on a beat needs nothing newer than itself, so a live recording gives the same numbers as a stored one. Pure NumPy.
"""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from edge.dataset import FloatArray

FIRST = 60  # beats to begin with: about a minute
MEMORY = 64  # beats of which the dominant one is the median
BLOCK = 16  # beats between two looks at that median
REACH = 5  # samples that a beat may be shifted either way to lie on the dominant one; 28 ms at 180 Hz
STEADY = 0.16  # |ln(interval / usual)| of the beats that the first dominant beat is made of
PREMATURE = 0.86  # of the sinus interval: an interval below is premature
LATE = 1.4  # of the sinus interval: a beat after a longer one doesn't shape the dominant beat
ALIKE = 0.8  # correlation of QRS complexes that surely are of one kind
STRANGE = 0.75  # and of those that aren't, unless the person's usual beats vary more
QUICK, SLOW = 0.1, 0.004  # how much a sinus interval and a premature one move the running mean
STEP = (0.5, 1.3)  # of the sinus interval: no interval moves it as though it were shorter or longer than that
LOST = 150  # beats in a row that don't fit: the lead is another, and whatever comes in time shapes the dominant beat

Wave = NDArray[np.float64]
_EMPTY = 1e-6  # added to energies, so that a flat stretch correlates with nothing and divides nothing by zero


@dataclass(frozen=True, eq=False, slots=True)
class Followed:
    """n beats beside their person's references, as these were before each beat.

    ``beats``: (n, samples) float32, each shifted to lie on the dominant beat. ``dominant``: (n / BLOCK, samples)
    float32, the dominant beat of each block of beats. ``likeness``: (n,) correlation of a beat's QRS complex with it,
    -1..1. ``sinus``: (n,) s. ``strange``: (n,) bool, whether the complex is of another kind.
    """

    beats: FloatArray
    dominant: FloatArray
    likeness: Wave
    sinus: Wave
    strange: NDArray[np.bool_]


def correlation(one: Wave, other: Wave) -> Wave:
    """Pearson's, along the last axis."""
    a, b = (wave - wave.mean(axis=-1, keepdims=True) for wave in (one, other))
    energy = ((a * a).sum(axis=-1) + _EMPTY) * ((b * b).sum(axis=-1) + _EMPTY)
    return np.asarray((a * b).sum(axis=-1) / np.sqrt(energy), dtype=np.float64)


def follow(signal: FloatArray, starts: NDArray[np.int64], samples: int, intervals: Wave, qrs: slice) -> Followed:
    """Follow a person's beats, in order, at least one.

    ``signal``: the lead. ``starts``: (n,) where in it each beat of ``samples`` samples begins; what lies outside the
    lead is taken to be as its end. ``intervals``: (n,) s before each beat, positive. ``qrs``: where in a beat its
    complex is.
    """
    wide = cut(signal, starts, samples)
    follower = Follower(wide[:FIRST].astype(np.float64), intervals[:FIRST], qrs)
    blocks = [slice(start, start + BLOCK) for start in range(0, len(starts), BLOCK)]
    return joined([follower.hear(wide[block].astype(np.float64), intervals[block]) for block in blocks])


def cut(signal: FloatArray, starts: NDArray[np.int64], samples: int) -> FloatArray:
    """Beats (n, samples + 2 REACH) of a lead; what lies outside it is taken to be as its end."""
    reach = np.arange(-REACH, samples + REACH)
    return np.asarray(signal[np.clip(starts[:, None] + reach, 0, len(signal) - 1)])


def joined(parts: Sequence[Followed]) -> Followed:
    """Beats that came one behind the other, all but the last a whole number of blocks."""
    return Followed(*(np.concatenate([getattr(part, name) for part in parts]) for name in Followed.__slots__))


class Follower:
    """Follows one person, block by block."""

    def __init__(self, wide: Wave, intervals: Wave, qrs: slice) -> None:
        """``wide`` (f, samples + 2 REACH) and ``intervals`` (f,) are of the first ``FIRST`` beats, or all there are."""
        self._qrs = qrs
        self._heard = 0
        self._person = _Person.of(wide, intervals, qrs)

    def hear(self, wide: Wave, intervals: Wave) -> Followed:
        """The next ``BLOCK`` beats, from the first on; a last block may be smaller."""
        person, count = self._person, len(wide)
        dominant = person.dominant
        waves, likeness = align(wide, dominant, self._qrs)
        beats = waves.astype(np.float32)
        sinus, strange = np.empty(count), np.empty(count, dtype=np.bool_)
        for i in range(count):
            sinus[i] = person.sinus
            beat = waves[i] if self._heard + i >= FIRST else None
            strange[i] = person.hear(float(likeness[i]), float(intervals[i]), beat)
        self._heard += count
        person.look()
        return Followed(beats, dominant[None].astype(np.float32), likeness, sinus, strange)


def align(wide: Wave, dominant: Wave, qrs: slice) -> tuple[Wave, Wave]:
    """Beats (n, samples), each shifted so that its QRS complex is most like the dominant beat's, and how like it is.

    Of shifts that are as good to 0.001 a sample the smaller is taken.
    """
    samples = len(dominant)
    shifts = np.arange(2 * REACH + 1)
    complexes = wide[:, shifts[:, None] + np.arange(samples)[qrs]]
    alike = correlation(complexes, dominant[qrs])
    best = (alike - 1e-3 * np.abs(shifts - REACH)).argmax(axis=1)
    rows = np.arange(len(wide))
    return wide[rows[:, None], best[:, None] + np.arange(samples)], alike[rows, best]


@dataclass(slots=True)
class _Person:
    """The references and what they are made of."""

    dominant: Wave
    sinus: float  # s
    recent: deque[Wave]  # beats that the dominant one is the median of
    likeness: deque[float]  # of the newest beats, whatever kind
    strange: bool = False  # whether the beat before was
    unfit: int = 0  # beats in a row that weren't taken into the dominant one
    fresh: bool = field(default=False)  # whether one was since the last look

    @classmethod
    def of(cls, wide: Wave, intervals: Wave, qrs: slice) -> _Person:
        """The references that some first beats give."""
        usual = float(np.median(intervals[1:])) if len(intervals) > 1 else float(intervals[0])
        steady = np.abs(np.log(intervals / usual)) < STEADY
        first = wide[steady] if steady.any() else wide
        dominant = np.median(first[:, REACH:-REACH], axis=0)
        for _ in range(2):
            beats, likeness = align(first, dominant, qrs)
            alike = likeness >= min(ALIKE, float(np.median(likeness)))
            dominant = np.median(beats[alike], axis=0)
        return cls(dominant, usual, deque(beats[alike], MEMORY), deque(map(float, likeness), MEMORY))

    def hear(self, likeness: float, interval: float, beat: Wave | None) -> bool:
        """Take one beat in; ``beat`` is None for the first ones, which the dominant beat is already made of.

        Returns whether it is strange.
        """
        ratio = interval / self.sinus
        premature = ratio < PREMATURE
        usual = statistics.median(self.likeness)
        strange = likeness < min(STRANGE, usual - 0.05)
        rate = SLOW if premature else QUICK
        if self.strange:  # it is the interval after a ventricular beat
            rate = SLOW if ratio < 1 else 0.0
        self.sinus *= math.exp(rate * math.log(min(max(ratio, STEP[0]), STEP[1])))
        self.strange = strange
        if beat is not None:
            self.likeness.append(likeness)
            fits = not premature and ratio < LATE and likeness >= min(ALIKE, usual)
            self.unfit = 0 if fits else self.unfit + 1
            if fits or (self.unfit > LOST and not premature):
                self.recent.append(beat)
                self.fresh = True
        return strange

    def look(self) -> None:
        """Make the dominant beat anew where there is reason to."""
        if self.fresh:
            self.dominant = np.median(np.stack(self.recent), axis=0)
            self.fresh = False
