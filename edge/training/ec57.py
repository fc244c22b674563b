"""How well beats are told apart, counted as the field does: by class, by person, and with what chance leaves open.

Se and PPV are of single beats, people pooled ("gross" in ANSI/AAMI EC57). Detection of ventricular (VEB) and
supraventricular (SVEB) ectopic beats follows EC57 as de Chazal et al. (2004) apply it: that a classifier takes F or Q
for V, or Q for S, counts neither for nor against it. Intervals come from drawing people anew, not beats, since beats of
one person are alike (Efron's percentile bootstrap). Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

DRAWS: Final = 2000  # of patients, for an interval
LEVEL: Final = 0.95
MOST: Final = 0.5  # of a class's examples in one person, from which that is worth a word
DETECTIONS: Final = {"VEB": ("V", ("F", "Q")), "SVEB": ("S", ("Q",))}  # the class, and what it is excused to hold

Counts = NDArray[np.int64]
Statistic = Callable[[NDArray[np.float64]], NDArray[np.float64]]  # of confusions (..., c, c), as (...)


@dataclass(frozen=True, eq=False, slots=True)
class Confusions:
    """``counts`` (p, c, c): of each person, examples by true class (rows) and predicted class (columns)."""

    classes: tuple[str, ...]
    people: tuple[str, ...]
    counts: Counts

    @property
    def gross(self) -> Counts:
        """All people's (c, c)."""
        return np.asarray(self.counts.sum(axis=0))


@dataclass(frozen=True, slots=True)
class Estimate:
    """A share, with its interval over people; NaN where there is nothing to divide by."""

    value: float
    low: float
    high: float


def confusions(
    labels: NDArray[np.int64], predicted: NDArray[np.int64], owners: NDArray[np.str_], classes: Sequence[str]
) -> Confusions:
    """Count (n,) labels, predictions and owners; people in the order of their names."""
    people, place = np.unique(owners, return_inverse=True)
    shape = (len(people), len(classes), len(classes))
    counts = np.bincount(np.ravel_multi_index((place, labels, predicted), shape), minlength=int(np.prod(shape)))
    return Confusions(tuple(classes), tuple(people.tolist()), counts.reshape(shape).astype(np.int64))


def accuracy(counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of confusions (..., c, c), as (...)."""
    return _share(np.trace(counts, axis1=-2, axis2=-1), counts.sum(axis=(-2, -1)))


def sensitivity(place: int) -> Statistic:
    """The share of class ``place``'s examples that are taken for it."""
    return lambda counts: _share(counts[..., place, place], counts[..., place, :].sum(axis=-1))


def ppv(place: int) -> Statistic:
    """The share of what is taken for class ``place`` that is of it (positive predictive value, precision)."""
    return lambda counts: _share(counts[..., place, place], counts[..., :, place].sum(axis=-1))


def f1(place: int) -> Statistic:
    """The harmonic mean of both, 0 where a class has examples and none is found; NaN where it has none."""

    def score(counts: NDArray[np.float64]) -> NDArray[np.float64]:
        true = counts[..., place, place]
        there, said = counts[..., place, :].sum(axis=-1), counts[..., :, place].sum(axis=-1)
        return np.where(there > 0, _share(2 * true, there + said), np.nan)

    return score


def macro_f1(places: Sequence[int]) -> Statistic:
    """The mean of the F1 of those classes that have examples."""

    def score(counts: NDArray[np.float64]) -> NDArray[np.float64]:
        each = np.stack([f1(place)(counts) for place in places])
        present = ~np.isnan(each)
        return _share(np.where(present, each, 0.0).sum(axis=0), present.sum(axis=0))

    return score


def detection(classes: Sequence[str], name: str) -> dict[str, Statistic] | None:
    """Se, PPV and false positive rate of ``VEB`` or ``SVEB``; None where the classes aren't those of EC57."""
    positive, excused = DETECTIONS[name]
    if not {"N", positive} <= set(classes):
        return None
    place = list(classes).index(positive)
    judged = [at for at, one in enumerate(classes) if one != positive and one not in excused]

    def false(counts: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(counts[..., judged, place].sum(axis=-1))

    return {
        "Se": sensitivity(place),
        "PPV": lambda counts: _share(counts[..., place, place], counts[..., place, place] + false(counts)),
        "FPR": lambda counts: _share(false(counts), counts[..., judged, :].sum(axis=(-2, -1))),
    }


def estimate(found: Confusions, statistic: Statistic, seed: int = 0) -> Estimate:
    """A statistic of the gross confusion, and the interval that people drawn anew give it, as ``seed`` has it."""
    people = len(found.people)
    draws = np.random.default_rng(seed).multinomial(people, np.full(people, 1 / people), size=DRAWS)
    drawn = np.tensordot(draws.astype(np.float64), found.counts.astype(np.float64), axes=1)
    values = statistic(drawn)
    values = values[~np.isnan(values)]
    value = float(statistic(found.gross.astype(np.float64)))
    if people < 2 or not len(values):  # noqa: PLR2004 - one person shows nothing of others
        return Estimate(value, float("nan"), float("nan"))
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(value, float(low), float(high))


def dominated(found: Confusions) -> dict[str, tuple[str, float]]:
    """Classes most of whose examples are one person's: who, and the share. Their figures are about that person."""
    of_class = found.counts.sum(axis=2)
    totals = of_class.sum(axis=0)
    told = {}
    for place, name in enumerate(found.classes):
        if len(found.people) > 1 and totals[place] and (share := of_class[:, place].max() / totals[place]) > MOST:
            told[name] = (found.people[int(of_class[:, place].argmax())], float(share))
    return told


def _share(part: NDArray[Any], whole: NDArray[Any]) -> NDArray[np.float64]:
    share = np.full(np.broadcast(part, whole).shape, np.nan)
    np.divide(part, whole, out=share, where=whole > 0)
    return share
