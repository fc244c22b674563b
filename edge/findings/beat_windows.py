"""Beats as they are told, counted in windows of equal length, each with how much signal it had and how good. Pure.

Times are seconds of the signal's own clock, whichever that is. A beat is told up to a minute after it came, so a window
is given once beats behind its end have been told, or ``LATEST_S`` later where none are. The first behind a gap are told
once there are some 60 of them, so until then windows wait for ``WARM_UP_S`` at most. Nothing in a window tells when a
single beat came.
"""

from __future__ import annotations

import math
from array import array
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Final

from edge.record.quality import LEAST, MOST, Tally

LATEST_S: Final = 90.0  # after a window's end, for beats that are told late
WARM_UP_S: Final = 240.0  # after a gap, for its first beats: 64 take so long at 16 a minute
GAIN: Final = 1000.0  # steps a mV, in which quality is judged
SHORTEST_S: Final = 1.0  # of signal in a window that is told


@dataclass(frozen=True, slots=True)
class Window:
    """What was found between two seconds of the signal's clock."""

    began_s: float
    ended_s: float
    signal_s: float  # seconds of it with samples
    quality: float  # share of those that are good, 0 to 1
    beats: Mapping[str, int]  # by class
    rate: float | None  # beats a minute by the median interval, None where there are no two beats in a row
    longest_v: int  # most V beats in a row, those right before the window included


@dataclass(slots=True)
class _Open:
    signal_s: float = 0.0
    tally: Tally | None = None  # before the first sample
    beats: Counter[str] = field(default_factory=Counter)
    intervals: list[float] = field(default_factory=list)
    longest_v: int = 0


class BeatWindows:
    """``hear`` the lead's samples, ``tell`` its beats as they are known, ``part`` at gaps; take what is ``done``."""

    def __init__(self, window_s: float) -> None:
        """Windows of so many seconds, the first beginning with the first sample."""
        self._window_s = window_s
        self._origin: float | None = None
        self._heard = -math.inf  # the newest sample's time
        self._certain = -math.inf  # all beats up to here have been told
        self._open: dict[int, _Open] = {}
        self._warm_s: float | None = None  # until when the first beats behind a gap are waited for; None in the gap
        self._given = -1  # the newest window that was given
        self._before: float | None = None  # the time of the beat before
        self._run = 0  # V beats in a row, up to it

    def hear(self, at: float, samples: Sequence[float], rate: float) -> None:
        """So many samples in mV at ``rate`` Hz, a second of them at most; the last one was taken ``at``."""
        seconds = len(samples) / rate
        self._origin = at - seconds if self._origin is None else self._origin
        self._heard = max(self._heard, at)
        if self._warm_s is None:
            self._certain = max(self._certain, at - seconds)  # no beat lies in the gap
            self._warm_s = at - seconds + WARM_UP_S
        window = self._at(at - seconds / 2)
        window.signal_s += seconds
        window.tally = (window.tally or Tally(max(1, round(rate)), GAIN)).add(_steps(samples))

    def tell(self, times: Sequence[float], classes: Sequence[str]) -> None:
        """Beats in order, each with its class."""
        for time, name in zip(times, classes, strict=True):
            window = self._at(time)
            window.beats[name] += 1
            self._run = self._run + 1 if name == "V" else 0
            window.longest_v = max(window.longest_v, self._run)
            if self._before is not None:
                window.intervals.append(time - self._before)
            self._before = time
            self._certain = max(self._certain, time)
            self._warm_s = -math.inf

    def part(self) -> None:
        """All beats so far have been told, and what follows lies behind a gap."""
        self._certain = max(self._certain, self._heard)
        self._before, self._run, self._warm_s = None, 0, None

    @property
    def began_s(self) -> float | None:
        """When the newest window began; None where none is open."""
        return self._end(max(self._open)) - self._window_s if self._open else None

    def done(self, *, whole: bool = False, at: float = -math.inf) -> list[Window]:
        """The windows that are over, each once; with ``whole`` all that have begun, and it is ``at``."""
        ready = [place for place in sorted(self._open) if whole or self._over(self._end(place))]
        found = [self._closed(place, max(at, self._heard)) for place in ready]
        return [window for window in found if window.signal_s >= SHORTEST_S]

    def _over(self, end: float) -> bool:
        latest = end + LATEST_S if self._warm_s is None else max(end + LATEST_S, self._warm_s)
        return self._heard >= end and (self._certain >= end or self._heard >= latest)

    def _end(self, place: int) -> float:
        assert self._origin is not None
        return self._origin + (place + 1) * self._window_s

    def _at(self, time: float) -> _Open:
        """The window of a time; of a time whose window was given, the next."""
        assert self._origin is not None, "samples come before their beats"
        place = max(self._given + 1, int((time - self._origin) // self._window_s))
        return self._open.setdefault(place, _Open())

    def _closed(self, place: int, now: float) -> Window:
        one = self._open.pop(place)
        self._given = max(self._given, place)
        end = min(self._end(place), now)  # the last one may be shorter
        rate = None if not one.intervals else round(60 / max(0.02, median(one.intervals)))
        return Window(
            self._end(place) - self._window_s,
            end,
            round(one.signal_s, 1),
            0.0 if one.tally is None else one.tally.total.index,
            dict(one.beats),
            rate,
            one.longest_v,
        )


def _steps(samples: Sequence[float]) -> array[int]:
    return array("h", (max(LEAST, min(MOST, round(value * GAIN))) for value in samples))
