"""How well ``watch`` tells the exercises of people it has never seen: ten people, of whom two are held out in turn.

    python benchmarks/motion.py --seeds 0 1 2

The people are dealt into five folds by their number. For each fold and seed the coordinator's command runs: eight
virtual devices, one person each, the bundled plan's settings, int4 updates; the last model is scored on the two others'
windows. What all folds' people are told is scored together: accuracy, macro-F1 over the seven exercises. Beside it, in
this process and on the same folds: the same model trained in one place (``central``); each of the eight devices' own
model, of which a held-out person gets every one and the figures are of all answers together (``alone``); and from each
axis's mean, deviation and range in a window a logistic regression, the nearest class mean, and always the commonest
exercise.

Nothing is chosen by who is held out in the table. The regression's penalty is chosen by leaving out each training
person in turn; statistics are standardised by training people's. ``--choose`` shows what training people say of the
numbers of rounds and epochs: with each fold set aside, every other one is held out from the remaining six people.
Prints a table; one JSON object a way and seed goes to stderr. Some minutes a seed.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from broker import machine
from ecg_beats import measure, spread
from numpy.typing import NDArray
from people import Confusion, by_person, central, confusion, score, versions
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, LeaveOneGroupOut
from sklearn.neighbors import NearestCentroid
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from edge.dataset import Dataset, concatenate
from schemas.parameters import Parameters
from schemas.plan_file import find

FILE = find("watch")
PLAN = FILE.plan
HELD_OUT = 2  # people a fold
ROUNDS, EPOCHS = (5, 10, 15, 20), (10, 25, 75)  # that ``--choose`` compares
SEEDED = ("federated", "central", "alone")
WAYS = (*SEEDED, "regression", "nearest mean", "commonest")
PENALTIES = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)  # inverse: scikit-learn's C
Say = Callable[[Dataset], Confusion]
Make = Callable[[Mapping[str, Dataset], Sequence[str]], Say]  # from everybody's windows, and who is held out


def folds(names: Iterable[str]) -> list[tuple[str, ...]]:
    """Who is held out together."""
    ordered = sorted(names)
    return [tuple(ordered[start : start + HELD_OUT]) for start in range(0, len(ordered), HELD_OUT)]


def others(people: Mapping[str, Dataset], held_out: Sequence[str]) -> list[Dataset]:
    """The windows of those who train, one data set a person."""
    return [windows for name, windows in people.items() if name not in held_out]


def statistics_of(windows: Dataset) -> NDArray[np.float32]:
    """Each axis's mean, standard deviation and range in a window (n, 18)."""
    signal = windows.inputs[0]
    return np.concatenate([signal.mean(axis=2), signal.std(axis=2), np.ptp(signal, axis=2)], axis=1)


def tabled(windows: Dataset, said: NDArray[np.int64]) -> Confusion:
    """What was said of windows (n,) beside what is true."""
    table = np.zeros((len(PLAN.classes),) * 2, np.int64)
    np.add.at(table, (windows.labels, said), 1)
    return table


def model_says(model: Parameters) -> Say:
    """What a model of the plan says."""
    return lambda windows: confusion(model, windows, PLAN)


def federated(rounds: int, local_epochs: int, seed: int) -> Make:
    """The coordinator's command, with so many epochs a round."""

    def make(people: Mapping[str, Dataset], held_out: Sequence[str]) -> Say:
        models: dict[int, Parameters] = {}
        rule, devices = f"people:{','.join(held_out)}", len(people) - len(held_out)
        more = ("--held-out", rule, "--epochs", str(local_epochs))
        measure(Path("watch"), seed, rounds, *more, models=models, plan="watch", devices=devices)
        return model_says(models[seed])

    return make


def centrally(epochs: int, seed: int) -> Make:
    """The same model on all windows at once."""
    return lambda people, held_out: model_says(central(FILE, others(people, held_out), epochs, seed))


def alone(people: Mapping[str, Dataset], epochs: int, seed: int) -> Make:
    """Each person's own model, and what all of those who train say."""
    models = {name: central(FILE, [windows], epochs, seed) for name, windows in people.items()}

    def make(people: Mapping[str, Dataset], held_out: Sequence[str]) -> Say:
        own = [models[name] for name in people if name not in held_out]
        return lambda windows: np.sum([confusion(model, windows, PLAN) for model in own], axis=0)

    return make


def regression(people: Mapping[str, Dataset], held_out: Sequence[str]) -> Say:
    """Logistic regression on the statistics, its penalty chosen by leaving out each training person in turn."""
    training = concatenate(others(people, held_out))
    fitted = GridSearchCV(
        make_pipeline(StandardScaler(), LogisticRegression(max_iter=5000)),
        {"logisticregression__C": PENALTIES},
        cv=LeaveOneGroupOut(),
    ).fit(statistics_of(training), training.labels, groups=training.owners)
    return lambda windows: tabled(windows, fitted.predict(statistics_of(windows)))


def nearest_mean(people: Mapping[str, Dataset], held_out: Sequence[str]) -> Say:
    """The exercise whose mean statistics are nearest, each in deviations of the training people's."""
    training = concatenate(others(people, held_out))
    fitted = make_pipeline(StandardScaler(), NearestCentroid()).fit(statistics_of(training), training.labels)
    return lambda windows: tabled(windows, fitted.predict(statistics_of(windows)))


def commonest(people: Mapping[str, Dataset], held_out: Sequence[str]) -> Say:
    """The exercise with most windows, whatever is asked."""
    most = int(np.argmax(np.bincount(concatenate(others(people, held_out)).labels)))
    return lambda windows: tabled(windows, np.full(len(windows), most))


def made(way: str, people: Mapping[str, Dataset], given: argparse.Namespace, seed: int) -> Make:
    """One of ``WAYS``; those that aren't ``SEEDED`` have no use for the seed."""
    if way == "federated":
        return federated(given.rounds, given.local_epochs, seed)
    if way == "central":
        return centrally(given.epochs, seed)
    if way == "alone":
        return alone(people, given.epochs, seed)
    return {"regression": regression, "nearest mean": nearest_mean, "commonest": commonest}[way]


def told(people: Mapping[str, Dataset], make: Make) -> dict[str, Confusion]:
    """What is said of each person by what was made of the other folds' people."""
    tables: dict[str, Confusion] = {}
    for fold in folds(people):
        say = make(people, fold)
        tables |= {name: say(people[name]) for name in fold}
    return tables


def figures(tables: Mapping[str, Confusion]) -> dict[str, Any]:
    """Of all people together, and the accuracy of each."""
    result = score(np.sum(list(tables.values()), axis=0), PLAN)
    return {
        "accuracy": result.accuracy,
        "macro_f1": result.macro_f1 or 0.0,
        "f1": {entry.name: entry.f1 for entry in result.classes},
        "people": {name: score(table, PLAN).accuracy for name, table in tables.items()},
    }


def row(way: str, runs: Sequence[Mapping[str, Any]]) -> str:
    """A way as a line of the table: means and deviations over seeds; then over people, of each one's mean."""
    own = [statistics.mean(run["people"][name] for run in runs) for name in runs[0]["people"]]
    cells = (
        *(spread((run[name] for run in runs), 3) for name in ("accuracy", "macro_f1")),
        spread(own, 3),
        f"{min(own):.3f}",
    )
    return f"| {way} | {' | '.join(cells)} |"


def choose(people: Mapping[str, Dataset], seed: int) -> None:
    """Macro-F1 by number of rounds or epochs, on people held out in turn while each fold is set aside."""
    dealt = folds(people)
    found: dict[str, dict[tuple[str, ...], list[float]]] = {}
    for pair in itertools.combinations(dealt, 2):
        devices = others(people, pair[0] + pair[1])
        by_round = enumerate(versions(FILE, devices, max(ROUNDS), seed), 1)
        models = {f"federated, {number} rounds": model for number, model in by_round if number in ROUNDS}
        models |= {f"central, {epochs} epochs": central(FILE, devices, epochs, seed) for epochs in EPOCHS}
        for (name, model), (aside, held_out) in itertools.product(models.items(), itertools.permutations(pair)):
            table = np.sum([confusion(model, people[person], PLAN) for person in held_out], axis=0)
            told_of = found.setdefault(name, {fold: [] for fold in dealt})
            told_of[aside].append(score(table, PLAN).macro_f1 or 0.0)
    print(f"| set aside | {' | '.join(' and '.join(fold) for fold in dealt)} |")
    print(f"|---|{'---|' * len(dealt)}")
    for name, each in found.items():
        print(f"| {name} | {' | '.join(f'{statistics.mean(each[fold]):.3f}' for fold in dealt)} |")


def main() -> None:
    """Run the seeds asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--local-epochs", type=int, default=PLAN.train.epochs, help="of a device and round")
    parser.add_argument("--ways", nargs="*", choices=WAYS, default=WAYS)
    parser.add_argument("--epochs", type=int, default=75, help="of the models that are trained in one place")
    parser.add_argument(
        "--choose", action="store_true", help="what training people say of rounds and epochs; first seed only"
    )
    given = parser.parse_args()
    people = by_person("watch", PLAN)
    if given.choose:
        print(f"# {machine()}; seed {given.seeds[0]}")
        choose(people, given.seeds[0])
        return
    seeds = ", ".join(map(str, given.seeds))
    print(f"# {machine()}; {given.rounds} rounds of {given.local_epochs} epochs; {given.epochs} epochs; seeds {seeds}")
    print("| way | accuracy | macro-F1 | a person's accuracy | the lowest |")
    print("|---|---|---|---|---|")
    for way in given.ways:
        found = []
        for seed in given.seeds if way in SEEDED else given.seeds[:1]:
            found.append(figures(told(people, made(way, people, given, seed))))
            print(json.dumps({"way": way, "seed": seed, **found[-1]}), file=sys.stderr, flush=True)
        print(row(way, found), flush=True)


if __name__ == "__main__":
    main()
