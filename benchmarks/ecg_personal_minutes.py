"""Which five minutes of a person's ECG teach a personal model most, if an owner labels no more.

    python benchmarks/ecg_personal_minutes.py --data ../shared/data/mitdb              # DS1, by which it is chosen
    python benchmarks/ecg_personal_minutes.py --data ../shared/data/mitdb --records DS2

People, global models and defaults are those of ``ecg_personal.py``. The minutes are the first five, five spread evenly
over the record, or the five in which the global model takes most beats for something else than N. Scored are the beats
from minute 5 on but for those labelled, which differ with the minutes: so the first five stand beside each way on its
own beats, as does the global model. A minute spread over the record may come after a beat that is scored: this is of a
device that has recorded for a while, and whose owner labels some of it. Five minutes on DS1, three on DS2.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from broker import machine
from ecg_beats import measure
from ecg_patients import FILE, PLAN
from ecg_personal import SHOWN, TESTED_FROM_S, Person, decided, f1s, person, row, without
from numpy.typing import NDArray
from people import Confusion

from edge.core.personal_settings import PULL, PersonalSettings
from edge.findings.assessment import predict
from edge.label import labelling
from edge.model_file import Own
from edge.sources.wfdb_records import DS1, DS2
from edge.training.personal import personalise
from schemas.parameters import Parameters

MINUTES = labelling.SPREAD
HOW = PersonalSettings(method="ditto", pull=PULL)

Chosen = NDArray[np.bool_]  # (n,): a person's beats that are labelled


def _within(who: Person, minutes: NDArray[np.int64]) -> Chosen:
    return np.isin((who.at // 60).astype(np.int64), minutes)


def first(who: Person, _shared: Parameters) -> Chosen:
    """The first minutes."""
    return _within(who, np.arange(MINUTES))


def spread(who: Person, _shared: Parameters) -> Chosen:
    """Minutes in the middle of as many equal parts of the record."""
    return _within(who, np.array(labelling.spread(int(who.at.max() // 60) + 1)))


def telling(who: Person, shared: Parameters) -> Chosen:
    """Those in which the global model takes most beats for something else than N, the earliest of equals."""
    other = predict(Own(shared), who.beats, PLAN) != PLAN.classes.index("N")
    counts = np.bincount((who.at[other] // 60).astype(np.int64), minlength=MINUTES)
    return _within(who, np.argsort(-counts, kind="stable")[:MINUTES])


WAYS: Mapping[str, Callable[[Person, Parameters], Chosen]] = {
    "five spread evenly": spread,
    "the five with most beats that aren't N": telling,
}


def own(who: Person, shared: Parameters, labelled: Chosen, seed: int) -> Own:
    """The model that the person uses with these beats labelled."""
    beats = who.beats.take(np.flatnonzero(labelled))
    made = personalise(shared, beats, PLAN, PLAN.train, HOW, np.random.default_rng(seed))
    return Own(made.model, made.neighbours)


def tables(
    who: Person, shared: Parameters, choose: Callable[[Person, Parameters], Chosen], seed: int
) -> tuple[Confusion, Confusion, Confusion]:
    """What the global model, that of the first minutes and that of the chosen ones say of the beats that are scored."""
    labelled = choose(who, shared)
    tested = who.beats.take(np.flatnonzero((who.at >= TESTED_FROM_S) & ~labelled))
    models = Own(shared), own(who, shared, first(who, shared), seed), own(who, shared, labelled, seed)
    return tuple(decided(model, tested) for model in models)  # type: ignore[return-value]  # three


def main() -> None:
    """Assess each way on DS1 or DS2."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the MIT-BIH records")
    parser.add_argument("--records", choices=("DS1", "DS2"), default="DS1")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--rounds", type=int, default=25)
    given = parser.parse_args()
    torch.set_num_threads(1)
    names = DS1 if given.records == "DS1" else DS2
    people = {name: person(given.data, name) for name in names}
    if given.records == "DS1":
        shared = without(people, given.seeds, given.rounds)
    else:
        trained: dict[int, Parameters] = {}
        for seed in given.seeds:
            measure(given.data, seed, given.rounds, models=trained)
        shared = {(seed, name): model for seed, model in trained.items() for name in names}
    print(f"# {machine()}; plan {FILE.plan.name}, {given.rounds} rounds, seeds {given.seeds}; {given.records}")
    print(f"| minutes | model | macro-F1 (N, S, V, F) | {' | '.join(SHOWN)} | beats wrong |")
    print("|---|---|---|---|---|---|---|---|")
    for way, choose in WAYS.items():
        found = [[tables(people[name], shared[seed, name], choose, seed) for name in names] for seed in given.seeds]
        for place, model in enumerate(("global", "of the first five minutes", "of these")):
            runs = [[each[place] for each in one] for one in found]
            wrong = np.mean([sum(int(table.sum() - np.trace(table)) for table in one) for one in runs])
            print(row(f"{way} | {model}", [f1s(one) for one in runs], f"{wrong:.0f}"), flush=True)


if __name__ == "__main__":
    main()
