"""What a personal ECG model is made of and judged by, in other ways than ``edge.training.personal`` does: on DS1 alone.

    python benchmarks/ecg_personal_ways.py --data ../shared/data/mitdb --seeds 0 1 2

Patients, global models, beats and scores are those of ``ecg_personal.py --choose``; method, lambda and batches are the
defaults. First ways to make one model of a person's labelled beats, each used where cross-fitting (or, in the first
row, the newest fifth) finds the lower mean loss; then other judges of the model that ``edge.training.personal`` makes,
on the same predictions; then how each fit is trained; then that model with nothing but the first so many beats.
``--only fits`` and ``--only few`` are those last tables alone. "worse off" counts people with more beats wrong than the
global model has, and those beats. Some fifteen minutes.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from broker import machine
from ecg_patients import PLAN
from ecg_personal import PARTS, Person, f1s, person, without
from numpy.typing import NDArray

from edge.core.personal_settings import FOLDS, PersonalSettings
from edge.dataset import Dataset
from edge.sources.wfdb_records import DS1
from edge.training import ec57
from edge.training.dropout import of_inputs_alone
from edge.training.loop import Tether, train
from edge.training.personal import deal, settled
from edge.training.plan_runtime import Program
from schemas.messages import TrainSettings
from schemas.parameters import Parameters
from schemas.plan import Plan

CLASSES = len(PLAN.classes)
HOW = PersonalSettings(method="ditto").training(PLAN.train)
FITTED = of_inputs_alone(PLAN)  # as ``personalise`` trains
FEW = (5, 8, 12, 20, 40)
NEWEST = 0.2
HEADER = (
    "\n| way or judge | macro-F1: first minute | minute asked for | 5 min | first minute and 5 min | beats wrong "
    "| people worse off (beats) | own model used |\n|---|---|---|---|---|---|---|---|"
)

LogP = NDArray[np.float32]  # (n, classes): logarithms of probabilities
Labels = NDArray[np.int64]
Fit = Callable[[Parameters, Dataset, Plan, TrainSettings, np.random.Generator, Tether], Parameters]
Judge = Callable[[LogP, LogP, Labels], bool]  # whether the first, of the personal model, is better than the global's


class Made(NamedTuple):
    """One person's model: what it says of the tested beats, and what both models say of those that judge."""

    tested: LogP
    own: LogP
    shared: LogP
    labels: Labels


def said(model: Parameters, data: Dataset) -> LogP:
    """What a model says of each example."""
    program = Program(PLAN, training=False)
    arrays = [torch.from_numpy(array.copy()) for array in model.arrays().values()]
    inputs = tuple(torch.from_numpy(array) for array in data.inputs)
    with torch.inference_mode():
        logits = program(arrays, inputs, torch.from_numpy(data.labels), torch.ones(CLASSES))[1]
        return torch.log_softmax(logits, dim=1).numpy()


def table(found: LogP, labels: Labels) -> NDArray[np.int64]:
    """The confusion matrix (classes, classes)."""
    pairs = labels * CLASSES + found.argmax(axis=1)
    return np.bincount(pairs, minlength=CLASSES**2).reshape(CLASSES, CLASSES)


def losses(found: LogP, labels: Labels) -> NDArray[np.float64]:
    """Each example's loss (n,)."""
    return -found[np.arange(len(labels)), labels].astype(np.float64)


def macro_f1(found: LogP, labels: Labels) -> float:
    """Over the classes that are there."""
    return float(ec57.macro_f1(range(CLASSES))(table(found, labels).astype(np.float64)))


def surely(own: LogP, shared: LogP, labels: Labels) -> bool:
    """Whether the loss is lower by more than two standard errors of the paired difference."""
    gained = losses(shared, labels) - losses(own, labels)
    return bool(gained.mean() > 2 * gained.std(ddof=1) / np.sqrt(len(gained)))


def by_loss(own: LogP, shared: LogP, labels: Labels) -> bool:
    """Whether the mean loss is lower."""
    return bool(losses(own, labels).mean() < losses(shared, labels).mean())


JUDGES: Mapping[str, Judge] = {
    "mean loss": by_loss,
    "mean loss, two standard errors lower": surely,
    "macro-F1": lambda own, shared, labels: macro_f1(own, labels) > macro_f1(shared, labels),
    "macro-F1, then mean loss": lambda own, shared, labels: (
        (macro_f1(own, labels), -losses(own, labels).mean())
        > (macro_f1(shared, labels), -losses(shared, labels).mean())
    ),
    "accuracy": lambda own, shared, labels: np.trace(table(own, labels)) > np.trace(table(shared, labels)),
    "none: always the person's own": lambda _own, _shared, _labels: True,
}


def folded(
    shared: Parameters,
    own: Dataset,
    fold_of: Labels,
    seed: int,
    how: TrainSettings = HOW,
    plan: Plan = FITTED,
    once: Fit = settled,
) -> tuple[list[Parameters], LogP]:
    """The fits, and what each says of the beats it hasn't seen, in their order."""
    found, fits, folds = np.zeros((len(own), CLASSES), np.float32), [], np.unique(fold_of)
    for fold, drawn in zip(folds, np.random.default_rng(seed).spawn(len(folds)), strict=True):
        seen = own.take(np.flatnonzero(fold_of != fold))
        fits.append(shared.add(once(shared, seen, plan, how, drawn, Tether(shared))))
        found[fold_of == fold] = said(fits[-1], own.take(np.flatnonzero(fold_of == fold)))
    return fits, found


def mean(fits: Sequence[Parameters]) -> Parameters:
    """One model of several."""
    return Parameters(fits[0].manifest, np.mean([fit.flat for fit in fits], axis=0, dtype=np.float32))


def ways(shared: Parameters, own: Dataset, tested: Dataset, seed: int) -> Iterator[tuple[str, Made]]:
    """One person's models, made in each way."""

    def fitted(data: Dataset, *drawn: int) -> Parameters:
        rng = np.random.default_rng((seed, *drawn))
        return shared.add(settled(shared, data, FITTED, HOW, rng, Tether(shared)))

    older, newest = own.split(NEWEST)
    once = fitted(older)
    yield (
        "older four fifths, judged by the newest",
        Made(said(once, tested), said(once, newest), said(shared, newest), newest.labels),
    )
    before = said(shared, own)
    fits, found = folded(shared, own, deal(own.labels), seed)
    alone = [fitted(own, number) for number in range(3)]
    yield "one fit to all", Made(said(alone[0], tested), found, before, own.labels)
    yield "mean weights of three fits to all", Made(said(mean(alone), tested), found, before, own.labels)
    together = np.log(np.mean([np.exp(said(each, tested)) for each in fits], axis=0))
    yield f"mean probabilities of {FOLDS} folds' fits", Made(together, found, before, own.labels)
    yield f"mean weights of {FOLDS} folds' fits", Made(said(mean(fits), tested), found, before, own.labels)
    for folds in (3, 10):
        fits, found = folded(shared, own, deal(own.labels, folds), seed)
        yield f"mean weights of {folds} folds' fits", Made(said(mean(fits), tested), found, before, own.labels)
    at_random = np.random.default_rng(seed).permutation(len(own)) % FOLDS
    fits, found = folded(shared, own, at_random, seed)
    yield f"mean weights of {FOLDS} random folds' fits", Made(said(mean(fits), tested), found, before, own.labels)
    fits, found = folded(shared, own, deal(own.labels), seed, HOW.model_copy(update={"class_weights": "balanced"}))
    yield (
        f"mean weights of {FOLDS} folds' fits, class weights balanced",
        Made(said(mean(fits), tested), found, before, own.labels),
    )


class Case(NamedTuple):
    """Somebody of whom models are made, with one seed."""

    seed: int
    shared: LogP  # of the tested beats
    labels: Labels  # theirs


def scored(cases: Sequence[Case], made: Sequence[Made], judge: Judge) -> tuple[float, float, float, float, float]:
    """Macro-F1 (N, S, V, F), beats wrong, people worse off, their beats, and models used: means over the seeds."""
    tables: dict[int, list[NDArray[np.int64]]] = {}
    sums = np.zeros(4)
    for case, one in zip(cases, made, strict=True):
        better = judge(one.own, one.shared, one.labels)
        after, before = (table(found, case.labels) for found in (one.tested if better else case.shared, case.shared))
        tables.setdefault(case.seed, []).append(after)
        lost = int(np.trace(before) - np.trace(after))
        sums += (after.sum() - np.trace(after), lost > 0, max(lost, 0), better)
    f1 = float(np.mean([f1s(each)[0] for each in tables.values()]))
    wrong, people, beats, used = sums / len(tables)
    return f1, float(wrong), float(people), float(beats), float(used)


def row(name: str, cases: Sequence[Case], made: Mapping[str, Sequence[Made]], judge: Judge) -> str:
    """One way and judge as a line of a table."""
    parts = [scored(cases, made[part], judge) for part in PARTS]
    first, asked, five = (part[0] for part in parts)
    wrong = ", ".join(f"{part[1]:.0f}" for part in parts)
    worse = ", ".join(f"{part[2]:.1f} ({part[3]:.0f})" for part in parts)
    used = ", ".join(f"{part[4]:.1f}" for part in parts)
    f1 = f"{first:.3f} | {asked:.3f} | {five:.3f} | {(first + five) / 2:.3f}"
    return f"| {name} | {f1} | {wrong} | {worse} | {used} |"


def last_batch(
    shared: Parameters, data: Dataset, plan: Plan, settings: TrainSettings, rng: np.random.Generator, tether: Tether
) -> Parameters:
    """What a fit would be that isn't averaged over batches."""
    return train(shared, data, plan, settings, rng, tether=tether).delta


def undropped() -> Plan:
    """The plan whose dropouts drop nothing."""
    operations = (
        each.model_copy(update={"args": (each.args[0], 0.0, *each.args[2:])}) if each.op == "dropout" else each
        for each in PLAN.operations
    )
    return PLAN.model_copy(update={"operations": tuple(operations)})


def fits(people: Mapping[str, Person], shared: Mapping[tuple[int, str], Parameters]) -> None:
    """The table of ways to train a fold's fit."""
    cases = [cased(seed, model, people[name]) for (seed, name), model in shared.items()]
    print(HEADER)
    for dropped, plan in (("as in rounds", PLAN), ("of inputs alone", FITTED), ("nowhere", undropped())):
        for taken, once in (("the last batch", last_batch), ("mean of the second half", settled)):
            made: dict[str, list[Made]] = {part: [] for part in PARTS}
            for (seed, name), model in shared.items():
                for part in PARTS:
                    own = people[name].own(part, model)
                    each, found = folded(model, own, deal(own.labels), seed, plan=plan, once=once)
                    before = said(model, own)
                    made[part].append(Made(said(mean(each), people[name].tested), found, before, own.labels))
            print(row(f"dropout {dropped}, {taken}", cases, made, by_loss), flush=True)


def compare(people: Mapping[str, Person], shared: Mapping[tuple[int, str], Parameters]) -> None:
    """The tables of ways, and of judges."""
    cases = [cased(seed, model, people[name]) for (seed, name), model in shared.items()]
    made: dict[str, dict[str, list[Made]]] = {}
    for (seed, name), model in shared.items():
        tested = people[name].tested
        for part in PARTS:
            for way, one in ways(model, people[name].own(part, model), tested, seed):
                made.setdefault(way, {}).setdefault(part, []).append(one)
    print(HEADER)
    for way, each in made.items():
        print(row(way, cases, each, by_loss))
    for name, judge in JUDGES.items():
        print(row(f"judge: {name}", cases, made[f"mean weights of {FOLDS} folds' fits"], judge))


def cased(seed: int, shared: Parameters, who: Person) -> Case:
    """What the global model says of somebody's tested beats."""
    tested = who.tested
    return Case(seed, said(shared, tested), tested.labels)


def few(people: Mapping[str, Person], shared: Mapping[tuple[int, str], Parameters]) -> None:
    """The table of models of a few beats: the first of the recording, and of the minute asked for."""
    cases = [cased(seed, model, people[name]) for (seed, name), model in shared.items()]
    print("\n| labelled beats | from | macro-F1 | beats wrong | people worse off (beats) | own model used |")
    print("|---|---|---|---|---|---|")
    still = [Made(case.shared, case.shared, case.shared, case.labels) for case in cases]
    f1, wrong, *_ = scored(cases, still, by_loss)
    print(f"| 0 | | {f1:.3f} | {wrong:.0f} | | |")
    for part in PARTS[:2]:
        for most in FEW:
            made = []
            for (seed, name), model in shared.items():
                own = people[name].own(part, model)
                own = own.take(np.arange(min(most, len(own))))
                fits, found = folded(model, own, deal(own.labels), seed)
                made.append(Made(said(mean(fits), people[name].tested), found, said(model, own), own.labels))
            f1, wrong, worse, beats, used = scored(cases, made, by_loss)
            print(f"| {most} | {part} | {f1:.3f} | {wrong:.0f} | {worse:.1f} ({beats:.0f}) | {used:.1f} |", flush=True)


def main() -> None:
    """The tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the MIT-BIH records")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--only", choices=("ways", "fits", "few"), help="one table alone")
    given = parser.parse_args()
    torch.set_num_threads(1)
    people = {name: person(given.data, name) for name in DS1}
    print(f"# {machine()}; plan {PLAN.name}, {given.rounds} rounds, seeds {given.seeds}")
    shared = without(people, given.seeds, given.rounds)
    for name, print_table in {"ways": compare, "fits": fits, "few": few}.items():
        if given.only in (None, name):
            print_table(people, shared)


if __name__ == "__main__":
    main()
