"""How good a recorded lead is, by rules that anyone can check by eye. Pure; whole numbers in, no arrays.

A second is *off* where the lead is flat or stuck at one end of its range, as it is with an electrode that fell off. The
other seconds of a window of five are *poor* where the whole window is too weak to hold a beat, too large to be a heart,
jumps as no heart does, or is no steeper in one place than in any other, as noise and hum are. The quality index is the
share of seconds that are neither.

The kinds of rule are those of the PhysioNet/Computing in Cardiology Challenge 2011 on the quality of ECGs (Silva, Moody
and Celi 2011; flat lines, saturation, amplitude and steep slopes: Langley et al. 2011). The last one is the kurtosis of
Li, Mark and Clifford (2008), who ask for more than 5, here of the slope: baseline wander hardly changes that. The other
limits are ours; ``benchmarks/signal_quality.py`` tells what they make of MIT-BIH. Ventricular flutter, which has no
steep place either, is poor by them. Mild noise is good: the index says nothing of whether beats can be told apart.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, replace
from operator import mul, sub
from typing import Final

MISSING: Final = -32768  # what stands for no value in WFDB's format 16
LEAST: Final = -32767
MOST: Final = 32767
WINDOW: Final = 5  # seconds
FLAT_MV: Final = 0.02  # a second that spans less is flat
STUCK: Final = 0.25  # share of a second's samples at one and the same end of what it spans
WEAK_MV: Final = 0.2  # a window that spans less holds no beat
LARGE_MV: Final = 10.0  # and one that spans more is no heart
JUMP_MV: Final = 2.0  # from one sample to the next
SLOPE_S: Final = 0.022  # over which a slope is taken: a quarter of a QRS complex
OFF_S: Final = 5  # seconds in a row that are off, after which somebody is to see to the electrode
PEAKED: Final = 5.0  # kurtosis of a window's slopes; Gaussian noise has 3, a sine 1.5, an ECG some 15


@dataclass(frozen=True, slots=True)
class Second:
    """What a second of one lead spans, in stored steps."""

    low: int
    high: int
    stuck: float  # share of its samples at one end
    jump: int  # the largest from one sample to the next, within it
    missing: bool  # has samples without a value
    slopes: tuple[int, int, int, int, int] = (0, 0, 0, 0, 0)  # how many, and the sums of their powers 1 to 4


@dataclass(frozen=True, slots=True)
class Quality:
    """Seconds of a lead by what they are worth."""

    good_s: int = 0
    poor_s: int = 0
    off_s: int = 0

    @property
    def index(self) -> float:
        """Share of good seconds; 1 where there has been no whole second."""
        seconds = self.good_s + self.poor_s + self.off_s
        return self.good_s / seconds if seconds else 1.0

    def plus(self, other: Quality) -> Quality:
        """Both together."""
        return Quality(self.good_s + other.good_s, self.poor_s + other.poor_s, self.off_s + other.off_s)


@dataclass(frozen=True, slots=True)
class Tally:
    """A lead as it comes in. ``add`` samples; ``total`` is what they were worth."""

    rate: int  # samples a second, rounded
    gain: float  # steps a mV
    rest: tuple[int, ...] = ()  # samples of the second that isn't full
    window: tuple[Second, ...] = ()  # seconds of the window that isn't full
    past: Quality = Quality()  # of the windows before
    off_for: int = 0  # newest seconds in a row that are off

    def add(self, samples: Sequence[int]) -> Tally:
        """With these samples, in steps, behind the others."""
        pending = array("h", self.rest)
        pending.extend(samples)
        seconds, window, past, off_for = len(pending) // self.rate, list(self.window), self.past, self.off_for
        for number in range(seconds):
            window.append(measure(pending[number * self.rate : (number + 1) * self.rate], self.rate))
            off_for = off_for + 1 if _off(window[-1], self.gain) else 0
            if len(window) == WINDOW:
                past, window = past.plus(judge(window, self.gain)), []
        rest = tuple(pending[seconds * self.rate :])
        return replace(self, rest=rest, window=tuple(window), past=past, off_for=off_for)

    @property
    def off(self) -> bool | None:
        """Whether the lead is off now: for ``OFF_S`` at least, or not in its newest second; None: it can't tell yet."""
        if self.off_for:
            return True if self.off_for >= OFF_S else None
        return False if self.window or self.past != Quality() else None

    @property
    def total(self) -> Quality:
        """All whole seconds."""
        return self.past.plus(judge(self.window, self.gain)) if self.window else self.past


def measure(second: array[int], rate: int) -> Second:
    """What some samples of one lead at ``rate`` Hz span; at least one of them."""
    missing = MISSING in second
    values = array("h", (value for value in second if value != MISSING)) if missing else second
    if not values:
        return Second(0, 0, 1.0, 0, missing=True)
    low, high = min(values), max(values)
    stuck = max(values.count(low), values.count(high)) / len(values)
    jump = max(map(abs, map(sub, values[1:], values)), default=0)
    return Second(low, high, stuck, jump, missing, _slopes(values, max(1, round(SLOPE_S * rate))))


def _slopes(values: array[int], over: int) -> tuple[int, int, int, int, int]:
    slopes = list(map(sub, values[over:], values))
    squares = list(map(mul, slopes, slopes))
    cubes, fourths = sum(map(mul, squares, slopes)), sum(map(mul, squares, squares))
    return len(slopes), sum(slopes), sum(squares), cubes, fourths


def kurtosis(seconds: Sequence[Second]) -> float:
    """Of all slopes of these seconds together; infinite where they are all the same."""
    count, first, second, third, fourth = map(sum, zip(*(each.slopes for each in seconds), strict=True))
    if not count:
        return math.inf
    mean = first / count
    variance = second / count - mean**2
    central = fourth / count - 4 * mean * third / count + 6 * mean**2 * second / count - 3 * mean**4
    return central / variance**2 if variance > 0 else math.inf


def judge(window: Sequence[Second], gain: float) -> Quality:
    """The worth of a window's seconds; ``gain`` is steps a mV."""
    on = [second for second in window if not _off(second, gain)]
    off_s = len(window) - len(on)
    if not on:
        return Quality(off_s=off_s)
    span = (max(second.high for second in on) - min(second.low for second in on)) / gain
    jumps = max(second.jump for second in on) / gain > JUMP_MV
    poor = not WEAK_MV <= span <= LARGE_MV or jumps or kurtosis(on) < PEAKED
    return Quality(0 if poor else len(on), len(on) if poor else 0, off_s)


def _off(second: Second, gain: float) -> bool:
    flat = (second.high - second.low) / gain < FLAT_MV
    railed = second.low == LEAST or second.high == MOST
    return flat or railed or second.missing or second.stuck >= STUCK
