"""How good a recorded lead is, by rules that anyone can check by eye. Pure; whole numbers in, no arrays.

A second is *off* where the lead is flat or stuck at one end of its range, as it is with an electrode that fell off. The
other seconds of a window of five are *poor* where the whole window is too weak to hold a beat, too large to be a heart,
or jumps as no heart does. The quality index is the share of seconds that are neither. The kinds of rule are those of
the PhysioNet/Computing in Cardiology Challenge 2011 on the quality of ECGs (Silva, Moody and Celi 2011; rules for flat
lines, saturation, low and high amplitude and steep slopes: Langley et al. 2011); the limits are ours, and
``benchmarks/signal_quality.py`` tells what they make of MIT-BIH. It says nothing of whether beats can be told apart.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, replace
from operator import sub
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


@dataclass(frozen=True, slots=True)
class Second:
    """What a second of one lead spans, in stored steps."""

    low: int
    high: int
    stuck: float  # share of its samples at one end
    jump: int  # the largest from one sample to the next, within it
    missing: bool  # has samples without a value


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

    def add(self, samples: Sequence[int]) -> Tally:
        """With these samples, in steps, behind the others."""
        pending = array("h", self.rest)
        pending.extend(samples)
        seconds, window, past = len(pending) // self.rate, list(self.window), self.past
        for number in range(seconds):
            window.append(measure(pending[number * self.rate : (number + 1) * self.rate]))
            if len(window) == WINDOW:
                past, window = past.plus(judge(window, self.gain)), []
        return replace(self, rest=tuple(pending[seconds * self.rate :]), window=tuple(window), past=past)

    @property
    def total(self) -> Quality:
        """All whole seconds."""
        return self.past.plus(judge(self.window, self.gain)) if self.window else self.past


def measure(second: array[int]) -> Second:
    """What some samples of one lead span; at least one of them."""
    missing = MISSING in second
    values = array("h", (value for value in second if value != MISSING)) if missing else second
    if not values:
        return Second(0, 0, 1.0, 0, missing=True)
    low, high = min(values), max(values)
    stuck = max(values.count(low), values.count(high)) / len(values)
    jump = max(map(abs, map(sub, values[1:], values)), default=0)
    return Second(low, high, stuck, jump, missing)


def judge(window: Sequence[Second], gain: float) -> Quality:
    """The worth of a window's seconds; ``gain`` is steps a mV."""
    on = [second for second in window if not _off(second, gain)]
    off_s = len(window) - len(on)
    if not on:
        return Quality(off_s=off_s)
    span = (max(second.high for second in on) - min(second.low for second in on)) / gain
    poor = not WEAK_MV <= span <= LARGE_MV or max(second.jump for second in on) / gain > JUMP_MV
    return Quality(0 if poor else len(on), len(on) if poor else 0, off_s)


def _off(second: Second, gain: float) -> bool:
    flat = (second.high - second.low) / gain < FLAT_MV
    railed = second.low == LEAST or second.high == MOST
    return flat or railed or second.missing or second.stuck >= STUCK
