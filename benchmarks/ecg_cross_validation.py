"""How ``ecg-beats`` does on people held out within DS1, which is what its settings and features are chosen by.

    python benchmarks/ecg_cross_validation.py --data ../shared/data/mitdb --seeds 0 1

Five times some of DS1's 22 patients are held out and a model is trained on the others. The beats of all that were held
out are scored together, since most patients have hardly an S beat. Ways: ``federated`` (25 rounds, a patient a device),
``central`` (the same model on all beats at once, for ``--epochs``), ``rule`` (three thresholds). DS2 is not looked at.
The last column is the F1 of S where the records with most of them are cut down to S beats and their neighbours, since
in some people, but in none of DS1, ectopic beats are most of the beats.
``--learning-rate``, ``--server-rate`` and ``--weights`` try other settings. Some minutes a seed.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from broker import machine
from ecg_patients import (
    FILE,
    SHOWN,
    chosen,
    confusion,
    crowded,
    figures,
    patients,
    ruled,
    score,
)
from people import Confusion, central, federated

from edge.dataset import Dataset
from edge.sources.wfdb_records import DS1
from schemas.plan_file import PlanFile

# Those with most S or V beats are dealt out first, so that each fold has some to train on and some to find.
FOLDS = (
    ("209", "101", "203", "230", "112"),
    ("201", "220", "106", "115", "114"),
    ("207", "108", "119", "122", "205"),
    ("118", "223", "109", "215"),
    ("124", "208", "116"),
)
ECTOPIC = ("209", "201", "220", "207", "118", "223", "124")  # with 30 S beats or more
Say = Callable[[Dataset], Confusion]


def held_out(
    people: dict[str, Dataset], crowds: dict[str, Dataset], make: Callable[[Sequence[Dataset]], Say]
) -> tuple[dict[str, Confusion], Confusion]:
    """What is said of each patient by what was made of those of the other folds; of all crowds, likewise."""
    tables: dict[str, Confusion] = {}
    crowd: Confusion = np.zeros((len(FILE.plan.classes),) * 2, np.int64)
    for fold in FOLDS:
        say = make([people[name] for name in DS1 if name not in fold])
        tables |= {name: say(people[name]) for name in fold}
        crowd += sum(say(crowds[name]) for name in fold if name in crowds)
    return tables, crowd


def settled(rate: float | None, server: float | None, weights: Sequence[float] | None) -> PlanFile:
    """The bundled plan, with other settings where they are given."""
    train = {"learning_rate": rate, "class_weights": None if weights is None else tuple(weights)}
    plan = FILE.plan.model_copy(
        update={
            "train": FILE.plan.train.model_copy(update={key: value for key, value in train.items() if value}),
            "strategy": FILE.plan.strategy.model_copy(update={"learning_rate": server} if server else {}),
        }
    )
    return PlanFile(plan, FILE.stored)


def main() -> None:
    """Run the ways and seeds asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the MIT-BIH records")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--ways", nargs="*", default=["rule", "central", "federated"])
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--learning-rate", type=float)
    parser.add_argument("--server-rate", type=float)
    parser.add_argument("--weights", type=float, nargs=5, metavar="W", help="of the classes N, S, V, F and Q")
    parser.add_argument("--by-patient", action="store_true", help="S and V of each patient too")
    given = parser.parse_args()
    file = settled(given.learning_rate, given.server_rate, given.weights)
    people = {name: beats for name, beats in patients(given.data).items() if name in DS1}
    crowds = {name: crowded(given.data, name) for name in ECTOPIC}

    def made(way: str, seed: int) -> Callable[[Sequence[Dataset]], Say]:
        def make(devices: Sequence[Dataset]) -> Say:
            if way == "rule":
                rule = chosen(devices)
                return lambda beats: ruled(rule, beats)
            epochs = way == "central"
            model = (
                central(file, devices, given.epochs, seed) if epochs else federated(file, devices, given.rounds, seed)
            )
            return lambda beats: confusion(model, beats)

        return make

    print(f"# {machine()}; {file.plan.train.model_dump(exclude_defaults=True)}, {file.plan.strategy.learning_rate:g}")
    print(
        f"| way | seed | accuracy | macro-F1 | {' | '.join(f'{name} F1' for name in SHOWN)} | S F1, crowded | CPU s |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for way in given.ways:
        for seed in given.seeds[:1] if way == "rule" else given.seeds:
            began = time.process_time()
            tables, crowd = held_out(people, crowds, made(way, seed))
            cells = " | ".join(f"{value:.3f}" for value in figures(score(np.sum(list(tables.values()), axis=0))))
            dense = figures(score(crowd))[3]
            print(f"| {way} | {seed} | {cells} | {dense:.3f} | {time.process_time() - began:.0f} |", flush=True)
            if given.by_patient:
                for name, table in tables.items():
                    hits, true, said = (np.diag(table), table.sum(axis=1), table.sum(axis=0))
                    each = (f"{c}: {hits[i]} of {true[i]}, {said[i] - hits[i]} false" for i, c in ((1, "S"), (2, "V")))
                    print(f"  {name}  {'; '.join(each)}")


if __name__ == "__main__":
    main()
