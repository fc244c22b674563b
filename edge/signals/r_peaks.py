"""Where the heart's chambers contract: R peaks in a conditioned ECG, as it comes.

A detector of the family of Pan and Tompkins (1985), with the median levels of Hamilton and Tompkins (1986): the slope's
energy in the band of a QRS complex, a threshold between the usual peak and the usual noise, a second look where a beat
is missing, and no beat right after a beat. Our own are the constants, and the new start after a long silence.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from edge.signals.filters import BandPass, FloatArray

QRS_BAND: Final = (8.0, 20.0)  # Hz
QRS_S: Final = 0.09  # over which the slope is averaged
APART_S: Final = 0.2  # beats are no nearer: the heart can't
T_WAVE_S: Final = 0.36  # in which a peak of less than half the last one's slope is that beat's T wave
THRESHOLD: Final = 0.3  # of the way from the usual noise to the usual peak
SECOND_LOOK: Final = 1.6  # usual intervals without a beat, and half the threshold will do
LEARNING_S: Final = 8.0  # of signal before the first beat is told
SILENCE_S: Final = 4.0  # without a beat: the levels are learnt anew, as after an electrode's move
FLOOR_MV: Final = 0.0005  # of slope a sample: a QRS complex of some 0.01 mV; below is no heart but an idle input
FAINTEST: Final = 0.1  # of the usual peak, that a new usual peak must have: noise is no heart
USUAL: Final = 8  # peaks, noises and intervals that a median is taken of
AROUND_S: Final = (0.1, 0.08)  # before and after a slope's middle, where its R peak is


@dataclass(slots=True)
class _Levels:
    """What peaks and noise usually are, and the intervals between peaks."""

    peaks: deque[float] = field(default_factory=lambda: deque(maxlen=USUAL))
    noises: deque[float] = field(default_factory=lambda: deque([0.0] * USUAL, maxlen=USUAL))
    intervals: deque[int] = field(default_factory=lambda: deque(maxlen=USUAL))

    @property
    def threshold(self) -> float:
        noise = float(np.median(self.noises))
        return noise + THRESHOLD * (float(np.median(self.peaks)) - noise)


@dataclass(frozen=True, slots=True)
class _Candidate:
    """The largest slope within ``APART_S``: ``at`` in samples, ``r`` where its R peak would be."""

    at: int
    height: float
    r: int


class RPeaks:
    """Fed with conditioned samples in mV at ``rate`` Hz, tells R peaks by their sample's number, in order."""

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._band = BandPass(*QRS_BAND, rate)
        self._average = round(QRS_S * rate)
        self._apart = round(APART_S * rate)
        # From an R peak to the middle of its averaged slope: the filter's delay at 12 Hz, and half the average's.
        self._delay = round(0.04 * rate) + self._average // 2
        self._before, self._after = (round(seconds * rate) for seconds in AROUND_S)
        self._margin = self._delay + self._before + self._apart
        self._fed = 0
        self._last = 0.0  # of the band
        self._slopes: FloatArray = np.zeros(self._average - 1)
        self._signal: FloatArray = np.zeros(self._margin)  # the newest, as far back as a candidate may need
        self._energy: FloatArray = np.zeros(self._margin)
        self._searched = 0  # before this sample all candidates are known
        self._levels = _Levels()
        self._learning: list[_Candidate] | None = []
        self._passed: list[_Candidate] = []  # over by the threshold, since the last beat
        self._beat: _Candidate | None = None

    def feed(self, samples: FloatArray) -> NDArray[np.int64]:
        """The R peaks (k,) that are certain now, counted from the first sample ever fed."""
        found: list[int] = []
        for candidate in self._candidates(np.asarray(samples, dtype=np.float64)):
            found += self._judge(candidate)
        return np.array(found, dtype=np.int64)

    def _candidates(self, samples: FloatArray) -> list[_Candidate]:
        if not len(samples):
            return []
        band = self._band.feed(samples)
        slopes = np.concatenate([self._slopes, np.abs(np.diff(band, prepend=self._last if self._fed else band[0]))])
        self._last = float(band[-1])
        energy = np.zeros(len(samples))
        for back in range(self._average):  # one by one, so that the sum's order doesn't depend on the chunk
            energy += slopes[back : back + len(samples)]
        self._slopes = slopes[len(samples) :]
        self._signal = np.concatenate([self._signal, samples])
        self._energy = np.concatenate([self._energy, energy / self._average])
        self._fed += len(samples)
        first = self._fed - len(self._energy)  # the number of the sample that the buffers begin with
        known = self._fed - self._apart  # what lies before has all its neighbours
        highest = highest_around(self._energy, self._apart)
        places = np.flatnonzero((self._energy == highest) & (self._energy > FLOOR_MV)) + first
        found = [self._candidate(at, first) for at in places[(places >= self._searched) & (places < known)].tolist()]
        self._searched = max(self._searched, known)
        keep = max(0, min(len(self._energy), self._searched - first - self._margin))
        self._signal, self._energy = self._signal[keep:], self._energy[keep:]
        return found

    def _candidate(self, at: int, first: int) -> _Candidate:
        start = max(0, at - first - self._delay - self._before)
        stop = max(start + 1, at - first - self._delay + self._after)
        stretch = self._signal[start:stop]
        around = self._signal[max(0, start - self._before) : stop + self._before]
        r = first + start + int(np.abs(stretch - np.median(around)).argmax())
        return _Candidate(at, float(self._energy[at - first]), max(0, r))

    def _judge(self, candidate: _Candidate) -> list[int]:
        """The beats that are certain now that ``candidate`` has come."""
        if self._learning is not None:
            self._learning.append(candidate)
            if candidate.at < LEARNING_S * self._rate:
                return []
            learnt, self._learning = self._learning, None
            heights = sorted(one.height for one in learnt)
            self._levels.peaks.extend(heights[-USUAL:])
            return [r for one in learnt for r in self._judge(one)]
        found = self._second_look(candidate)
        last = self._beat
        since = candidate.at - last.at if last else candidate.at
        if last is not None and since < self._apart:
            return found
        t_wave = last is not None and since < T_WAVE_S * self._rate and candidate.height < last.height / 2
        if candidate.height > self._levels.threshold and not t_wave:
            return [*found, *self._accept(candidate)]
        self._levels.noises.append(candidate.height)
        if not t_wave:
            self._passed.append(candidate)
        return found

    def _second_look(self, candidate: _Candidate) -> list[int]:
        """A beat that was passed over, where one is missing by now."""
        last, levels = self._beat, self._levels
        if not self._passed:
            return []
        best = max(self._passed, key=lambda one: one.height)
        since = candidate.at - (last.at if last else 0)
        if since > SILENCE_S * self._rate and best.height > FAINTEST * float(np.median(levels.peaks)):
            levels.peaks.extend([best.height] * USUAL)
            levels.noises.extend([0.0] * USUAL)
        elif len(levels.intervals) < 3 or since <= SECOND_LOOK * float(np.median(levels.intervals)):  # noqa: PLR2004
            return []
        if best.height <= levels.threshold / 2 or (last and best.at - last.at < T_WAVE_S * self._rate):
            return []
        later = [one for one in self._passed if one.at > best.at]
        found = self._accept(best)
        self._passed = later
        return found

    def _accept(self, candidate: _Candidate) -> list[int]:
        if self._beat is not None:
            self._levels.intervals.append(candidate.at - self._beat.at)
        nearer = self._beat is not None and candidate.r <= self._beat.r
        self._beat = candidate
        self._levels.peaks.append(candidate.height)
        self._passed = []
        return [] if nearer else [candidate.r]


def highest_around(values: FloatArray, reach: int) -> FloatArray:
    """The largest of each of ``values`` (n,) and those within ``reach`` places of it."""
    width = 2 * reach + 1
    highest, seen = np.pad(values, reach, constant_values=-np.inf), 1  # of ``seen`` values from each place on
    while seen < width:
        step = min(seen, width - seen)
        highest, seen = np.maximum(highest[:-step], highest[step:]), seen + step
    return highest
