"""What it is worth that a person's labelled beats decide with the personal ECG model, by their looks: on DS1 alone.

    python benchmarks/ecg_personal_looks.py --data ../shared/data/mitdb --seeds 0 1 2

Patients, global models, beats and scores are those of ``ecg_personal.py --choose``, fits those of
``edge.training.personal`` with its defaults. Each way of ``edge.training.neighbours`` is tried on the same fits, the
first row being the fits alone and the second what devices do. "worse off" counts people with more beats wrong than the
global model has, and those beats. Some five minutes.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from broker import machine
from ecg_patients import PLAN
from ecg_personal import PARTS, Person, person, without
from ecg_personal_ways import HEADER, Case, Labels, LogP, Made, by_loss, cased, folded, mean, row, said

from edge.dataset import Dataset
from edge.sources.wfdb_records import DS1
from edge.training import neighbours
from edge.training.neighbours import Neighbours
from edge.training.personal import deal
from schemas.parameters import Parameters


class Way(NamedTuple):
    """How labelled beats speak."""

    name: str
    nearest: int = neighbours.NEAREST
    most: int = neighbours.MOST
    alike: tuple[str, ...] | None = None  # in place of the recipe's
    strength: float = 1.0


WAYS: Sequence[Way] = (
    Way("the fits alone", strength=0.0),
    Way("two nearest of a hundred of each kind, N and S alike"),
    Way("the nearest", nearest=1),
    Way("three nearest", nearest=3),
    Way("five nearest", nearest=5),
    Way("of thirty", most=30),
    Way("of all", most=10**9),
    Way("half as strong", strength=0.5),
    Way("half as strong again", strength=1.5),
    Way("N and S each of its own kind", alike=()),
)


class Fitted(NamedTuple):
    """One person's fits, and the beats they are of."""

    own: Dataset
    fold_of: Labels
    unseen: LogP  # what each fit says of the beats it hasn't seen
    before: LogP  # and the global model
    tested: Dataset
    after: LogP  # what the mean of the fits says of the tested beats


@contextmanager
def as_in(way: Way) -> Iterator[None]:
    """The module's own settings, for a while."""
    kept = neighbours.NEAREST, neighbours.MOST
    neighbours.NEAREST, neighbours.MOST = way.nearest, way.most  # type: ignore[misc]
    try:
        yield
    finally:
        neighbours.NEAREST, neighbours.MOST = kept  # type: ignore[misc]


def fit(shared: Parameters, who: Person, part: str, seed: int) -> Fitted:
    """Of one person's labelled beats."""
    own, tested = who.own(part, shared), who.tested
    fold_of = deal(own.labels)
    fits, unseen = folded(shared, own, fold_of, seed)
    return Fitted(own, fold_of, unseen, said(shared, own), tested, said(mean(fits), tested))


def decided(one: Fitted, way: Way) -> Made:
    """With the labelled beats' word on it."""
    own = one.own if way.alike is None else replace(one.own, alike=way.alike)
    unseen = one.unseen.copy()
    for fold in np.unique(one.fold_of):
        judged = one.fold_of == fold
        seen = own.take(np.flatnonzero(~judged))
        unseen[judged] = heard(unseen[judged], seen, own.take(np.flatnonzero(judged)), way.strength)
    return Made(heard(one.after, own, one.tested, way.strength), unseen, one.before, own.labels)


def heard(found: LogP, labelled: Dataset, others: Dataset, strength: float) -> LogP:
    """Logarithms of probabilities (n, classes), with the labelled beats' evidence."""
    speaking = Neighbours.of(labelled)
    if speaking is None or others.looks is None:
        return found
    logits = found + np.float32(strength) * speaking.evidence(others.looks)
    return np.asarray(torch.log_softmax(torch.from_numpy(logits), dim=1).numpy())


def main() -> None:
    """The table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the MIT-BIH records")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--rounds", type=int, default=25)
    given = parser.parse_args()
    torch.set_num_threads(1)
    people = {name: person(given.data, name) for name in DS1}
    print(f"# {machine()}; plan {PLAN.name}, {given.rounds} rounds, seeds {given.seeds}")
    shared = without(people, given.seeds, given.rounds)
    cases: list[Case] = [cased(seed, model, people[name]) for (seed, name), model in shared.items()]
    fits = {part: [fit(model, people[name], part, seed) for (seed, name), model in shared.items()] for part in PARTS}
    print(HEADER)
    for way in WAYS:
        with as_in(way):
            made = {part: [decided(one, way) for one in fits[part]] for part in PARTS}
        print(row(way.name, cases, made, by_loss), flush=True)


if __name__ == "__main__":
    main()
