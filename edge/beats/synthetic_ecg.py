"""ECGs of people who don't exist, with every beat labelled: for trying a fleet, never for saying how good a model is.

A beat is a sum of Gaussian waves P, Q, R, S and T around its R peak (McSharry et al. 2003, who move along a circle;
here time is the axis, and P, T and the intervals follow the heart's rate). A person is drawn once: the waves' heights
and widths, rate and its variability, how often which ectopic beats come, and whether there is a bundle branch block or
atrial fibrillation. Premature beats come as in textbooks: of the atria with a P wave of another shape, a QRS complex as
usual and a pause of about one interval; of a ventricle without a P wave, wide, with the T wave the other way and a
pause that makes up for the beat. Rates and shares are our own, wide enough to differ from person to person. Pure NumPy.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from edge.dataset import FloatArray

RESPIRATION_HZ: Final = (0.18, 0.33)
PRESSURE_HZ: Final = 0.1  # the slow waves of blood pressure, seen in the intervals
SHORTEST_S, LONGEST_S = 0.3, 2.5  # between two R peaks
REACH: Final = 5.0  # a wave's widths that are drawn to either side
BLOCKED, FIBRILLATING = 0.15, 0.08  # of people
ECTOPIC: Final = 0.25  # shape of the gamma distribution of a person's share of ectopic beats: a few have most of them
USUAL_SHARE: Final = {"A": 0.04, "V": 0.06}  # its mean
MOST: Final = 0.3  # of the beats of one person
AGAIN: Final = 0.2  # a premature beat's chance that another follows at once

Rng = np.random.Generator


@dataclass(frozen=True, slots=True)
class Waves:
    """Gaussians around the R peak: place (k,) and width (k,) in s at a rate of 60 a minute, height (k,) in mV.

    ``follows`` (k,) is the power of the interval that place and width go with: 0 for QRS, 1/2 for P and T (Bazett).
    """

    place: NDArray[np.float64]
    width: NDArray[np.float64]
    height: NDArray[np.float64]
    follows: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Person:
    """Who a recording is of. ``beats`` are the waves by annotation symbol: N or L (a block), A and V."""

    usual: str
    beats: dict[str, Waves]
    share: dict[str, float]  # of beats that are A, that are V
    interval_s: float
    respiration_hz: float
    respiration: float  # by which share of itself the interval swings with it
    pressure: float  # likewise
    irregular: float  # standard deviation of an interval, as a share of it
    noise_mv: float
    wander_mv: float
    mains_mv: float


@dataclass(frozen=True, eq=False, slots=True)
class Recording:
    """``signal`` (n,) in mV at ``rate`` Hz; ``peaks`` (b,) the samples of R peaks; ``symbols`` (b,) what beats are."""

    signal: FloatArray
    rate: float
    peaks: NDArray[np.int64]
    symbols: NDArray[np.str_]


def person(seed: int) -> Person:
    """The person of this number, always the same with the same NumPy."""
    draw = np.random.default_rng((seed, 0))
    fibrillating = draw.random() < FIBRILLATING
    blocked = draw.random() < BLOCKED
    usual = "L" if blocked else "N"
    normal = _waves(draw, blocked=blocked, p=not fibrillating)
    return Person(
        usual=usual,
        beats={usual: normal, "A": _atrial(draw, normal), "V": _ventricular(draw)},
        share={
            symbol: 0.0 if fibrillating and symbol == "A" else min(MOST, draw.gamma(ECTOPIC, mean / ECTOPIC))
            for symbol, mean in USUAL_SHARE.items()
        },
        interval_s=60 / draw.uniform(52, 98),
        respiration_hz=draw.uniform(*RESPIRATION_HZ),
        respiration=draw.uniform(0.005, 0.06),
        pressure=draw.uniform(0.005, 0.04),
        irregular=draw.uniform(0.15, 0.25) if fibrillating else draw.uniform(0.003, 0.015),
        noise_mv=draw.uniform(0.005, 0.03),
        wander_mv=draw.uniform(0.02, 0.25),
        mains_mv=draw.uniform(0.0, 0.02),
    )


def record(who: Person, seconds: float, rate: float, seed: int) -> Recording:
    """So many seconds of a person's ECG at ``rate`` Hz, another one for each ``seed``."""
    draw = np.random.default_rng((seed, 1))
    at, symbols, intervals = _rhythm(who, seconds, draw)
    count = int(seconds * rate)
    signal = _background(who, count, rate, draw)
    for place, symbol, interval in zip(at, symbols, intervals, strict=True):
        _add(signal, rate, place, interval, who.beats[symbol], 1 + draw.normal(scale=0.03))
    peaks = np.rint(np.array(at) * rate).astype(np.int64)
    inside = peaks < count
    return Recording(signal.astype(np.float32), rate, peaks[inside], np.array(symbols, dtype=np.str_)[inside])


def _waves(draw: Rng, *, blocked: bool, p: bool) -> Waves:
    """P, Q, R, S and T of a beat that came the usual way; a block widens and splits the middle three."""
    broad = draw.uniform(1.7, 2.4) if blocked else draw.uniform(0.85, 1.2)
    upright = 1 if draw.random() < 0.9 else -1  # noqa: PLR2004 - one in ten has the T wave upside down
    return Waves(
        place=np.array([-draw.uniform(0.15, 0.2), -0.028 * broad, 0.0, 0.03 * broad, draw.uniform(0.25, 0.32)]),
        width=np.array([draw.uniform(0.018, 0.028), 0.009 * broad, 0.011 * broad, 0.010 * broad, 0.05]),
        height=np.array(
            [
                draw.uniform(0.06, 0.2) * p,
                -draw.uniform(0.02, 0.2),
                draw.uniform(0.6, 1.8),
                -draw.uniform(0.05, 0.5),
                (-1 if blocked else upright) * draw.uniform(0.12, 0.45),
            ]
        ),
        follows=np.array([0.5, 0.0, 0.0, 0.0, 0.5]),
    )


def _atrial(draw: Rng, normal: Waves) -> Waves:
    """From elsewhere in the atria: the P wave is another, what follows hardly."""
    place, height = normal.place.copy(), normal.height * draw.uniform(0.92, 1.08, size=5)
    place[0] *= draw.uniform(0.6, 0.95)
    height[0] *= draw.uniform(-1.0, 0.5)
    return Waves(place, normal.width * draw.uniform(0.95, 1.1), height, normal.follows)


def _ventricular(draw: Rng) -> Waves:
    """From a ventricle: wide, no P wave, the T wave the other way."""
    way = 1 if draw.random() < 0.6 else -1  # noqa: PLR2004 - rather upright
    tall = way * draw.uniform(0.9, 2.2)
    return Waves(
        place=np.array([0.0, draw.uniform(0.05, 0.08), draw.uniform(0.26, 0.34)]),
        width=np.array([draw.uniform(0.024, 0.036), draw.uniform(0.02, 0.035), 0.06]),
        height=np.array([tall, -tall * draw.uniform(0.1, 0.5), -tall * draw.uniform(0.2, 0.4)]),
        follows=np.array([0.0, 0.0, 0.5]),
    )


def _rhythm(who: Person, seconds: float, draw: Rng) -> tuple[list[float], list[str], list[float]]:
    """When beats come, what they are, and the usual interval at that time."""
    phase, premature = draw.uniform(0, 2 * np.pi, size=2), who.share["A"] + who.share["V"]
    at, symbols, intervals = [draw.uniform(0.3, 0.9)], [who.usual], [who.interval_s]
    rest = 1.0  # the share of the usual interval that the next beat waits
    again = premature
    while at[-1] < seconds:
        now = at[-1]
        swing = who.respiration * np.sin(2 * np.pi * who.respiration_hz * now + phase[0])
        swing += who.pressure * np.sin(2 * np.pi * PRESSURE_HZ * now + phase[1])
        interval = who.interval_s * (1 + swing) * max(0.4, 1 + who.irregular * draw.normal())
        symbol, wait = who.usual, interval * rest
        rest = 1.0
        if draw.random() < again:
            symbol = "V" if draw.random() * premature < who.share["V"] else "A"
            early = draw.uniform(0.5, 0.78) if symbol == "V" else draw.uniform(0.55, 0.82)
            wait = interval * early
            rest = 2 - early if symbol == "V" else draw.uniform(1.0, 1.15)
            again = max(premature, AGAIN)
        else:
            again = premature
        at.append(now + float(np.clip(wait, SHORTEST_S, LONGEST_S)))
        symbols.append(symbol)
        intervals.append(float(interval))
    return at, symbols, intervals


def _background(who: Person, count: int, rate: float, draw: Rng) -> NDArray[np.float64]:
    """What an electrode sees beside the heart: breathing, drift, muscle, mains."""
    time = np.arange(count) / rate
    drift = np.cumsum(draw.normal(scale=0.01 * who.wander_mv / np.sqrt(rate), size=count))
    mains = 50 if draw.random() < 0.5 else 60  # noqa: PLR2004 - Hz, of either half of the world
    return np.asarray(
        who.wander_mv * np.sin(2 * np.pi * who.respiration_hz * time)
        + drift
        + draw.normal(scale=who.noise_mv, size=count)
        + who.mains_mv * np.sin(2 * np.pi * mains * time)
    )


def _add(signal: NDArray[np.float64], rate: float, at: float, interval: float, waves: Waves, height: float) -> None:
    """Add one beat's waves to ``signal``."""
    scale = interval**waves.follows
    places, widths = at + waves.place * scale, waves.width * scale
    first = max(0, int((places - REACH * widths).min() * rate))
    stop = min(len(signal), int((places + REACH * widths).max() * rate) + 1)
    if first < stop:
        away = (np.arange(first, stop)[:, None] / rate - places) / widths
        signal[first:stop] += height * (np.exp(-(away**2) / 2) @ waves.height)
