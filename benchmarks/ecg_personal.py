"""What the ECG model gains from a person's own labelled beats: the first minute, or the first five, of each DS2 record.

    python benchmarks/ecg_personal.py --data ../shared/data/mitdb --seeds 0 1 2

Trains the global model as ``ecg_beats.py`` does (the README's command: DS1's 22 patients, a device each, 25 rounds),
then for each of DS2's 22 patients a personal one by ``edge.training.personal``, with its defaults. All of them are
scored on the same beats: those from minute 5 on, of all patients together. F counts, unlike in ``ecg_beats.py``: the
global model has seen hardly anybody's but one patient's. A minute is the first one, or the one of the first five that
the device would ask for: in which the global model takes most beats for something else than N (``edge predict`` names
it).

``--choose`` looks at DS1 alone: the patients are held out in the five folds of ``ecg_cross_validation.py``, and each
method and setting is scored likewise. The defaults are the best of these. Some minutes either way.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import wfdb
from broker import machine
from ecg_beats import measure
from ecg_cross_validation import FOLDS
from ecg_patients import FILE, PLAN, confusion
from numpy.typing import NDArray
from people import Confusion, federated

from edge.beats import ecg
from edge.core.personal_settings import PULL, PersonalSettings, Verdict
from edge.dataset import Dataset
from edge.findings.assessment import predict
from edge.findings.predict import telling_minute
from edge.model_file import Own
from edge.sources.ecg_beats import ALIKE
from edge.sources.wfdb_records import DS1, DS2, read_lead
from edge.training import ec57
from edge.training.personal import personalise
from schemas.parameters import Parameters

SHOWN = ("N", "S", "V", "F")
PLACES = [PLAN.classes.index(name) for name in SHOWN]
PARTS = ("first minute", "minute asked for", "5 min")
TESTED_FROM_S = 300.0
STEPS = (100, 200, 400)
PULLS = (0.03, 0.1, 0.3)
HEADS = (("layers.7",), ("layers.4", "layers.7"))


class Person(NamedTuple):
    """A record's beats, and when each is, in s."""

    beats: Dataset
    at: NDArray[np.float64]

    def own(self, which: str, shared: Parameters) -> Dataset:
        """Those with which the model is made the person's own, ``which`` being one of ``PARTS``."""
        if which == "5 min":
            return self._between(0, TESTED_FROM_S)
        if which == "first minute":
            return self._between(0, 60)
        early = self._between(0, TESTED_FROM_S)
        said = predict(Own(shared), early, PLAN)
        at = 60.0 * (telling_minute(self.at[: len(early)], said != PLAN.classes.index("N")) or 0)
        return self._between(at, at + 60)

    def _between(self, start: float, stop: float) -> Dataset:
        return self.beats.take(np.flatnonzero((self.at >= start) & (self.at < stop)))

    @property
    def tested(self) -> Dataset:
        """Those that are scored."""
        return self.beats.take(np.flatnonzero(self.at >= TESTED_FROM_S))


class Outcome(NamedTuple):
    """What one person's model says of the beats that are scored, and why it was taken."""

    table: Confusion
    verdict: Verdict


def person(data: Path, name: str) -> Person:
    """The labelled beats of a record."""
    signal, rate = read_lead(data / name)
    annotation = wfdb.rdann(str(data / name), "atr")
    symbols = np.array(annotation.symbol)
    beats = np.isin(symbols, list(ecg.AAMI_OF_SYMBOL))
    peaks = annotation.sample[beats].astype(np.int64)
    found = ecg.relate_beats(signal, rate, peaks)
    labels = [PLAN.classes.index(ecg.AAMI_OF_SYMBOL[symbol]) for symbol in symbols[beats][found.kept]]
    inputs, owners = (found.rhythm, found.shape), np.full(len(labels), name)
    dataset = Dataset(inputs, np.array(labels, np.int64), owners, PLAN.classes, found.looks, ALIKE)
    return Person(dataset, peaks[found.kept] / rate)


def outcome(shared: Parameters, who: Person, which: str, how: PersonalSettings, seed: int) -> Outcome:
    """What becomes of the global model with one part of a person's beats."""
    made = personalise(shared, who.own(which, shared), PLAN, PLAN.train, how, np.random.default_rng(seed))
    return Outcome(decided(Own(made.model, made.neighbours), who.tested), made.verdict)


def decided(own: Own, dataset: Dataset) -> Confusion:
    """What a personal model says of examples, together with its owner's labelled ones."""
    pairs = dataset.labels * len(PLAN.classes) + predict(own, dataset, PLAN)
    return np.bincount(pairs, minlength=len(PLAN.classes) ** 2).reshape(len(PLAN.classes), -1)


def f1s(tables: Sequence[Confusion]) -> NDArray[np.float64]:
    """Macro-F1 and the F1 of N, S, V and F (5,), of all people together."""
    gross = np.sum(tables, axis=0).astype(np.float64)
    return np.array([float(ec57.macro_f1(PLACES)(gross)), *(float(ec57.f1(place)(gross)) for place in PLACES)])


def row(name: str, runs: Sequence[NDArray[np.float64]], *more: str) -> str:
    """Means and standard deviations over seeds, as a line of a table."""
    mean, deviation = np.mean(runs, axis=0), np.std(runs, axis=0, ddof=1 if len(runs) > 1 else 0)
    cells = (f"{value:.3f} ± {spread:.3f}" for value, spread in zip(mean, deviation, strict=True))
    return f"| {name} | {' | '.join(cells)} | {' | '.join(more)} |"


def grid(lengths: Sequence[int]) -> Iterator[PersonalSettings]:
    """All that ``--choose`` tries, with so many batches."""
    for steps in lengths:
        yield PersonalSettings(method="fine-tune", steps=steps)
        for pull in PULLS:
            yield PersonalSettings(method="ditto", steps=steps, pull=pull)
        for head in HEADS:
            yield PersonalSettings(method="local-layers", steps=steps, layers=head)


def words(how: PersonalSettings) -> str:
    """A setting's name in a table."""
    more = {"ditto": f", lambda {how.pull:g}", "local-layers": f" {', '.join(how.layers)}"}.get(how.method, "")
    return f"{how.method}{more}, {how.steps} batches"


def without(people: Mapping[str, Person], seeds: Sequence[int], rounds: int) -> dict[tuple[int, str], Parameters]:
    """For each seed and patient of DS1 the global model of the other folds' patients."""
    shared: dict[tuple[int, str], Parameters] = {}
    for seed, fold in itertools.product(seeds, FOLDS):
        model = federated(FILE, [people[name].beats for name in DS1 if name not in fold], rounds, seed)
        shared |= {(seed, name): model for name in fold}
    return shared


def choose(people: Mapping[str, Person], seeds: Sequence[int], rounds: int, lengths: Sequence[int]) -> None:
    """Every setting on DS1, each patient's global model being of the other folds."""
    shared = without(people, seeds, rounds)
    tables = [[confusion(shared[seed, name], people[name].tested) for name in DS1] for seed in seeds]
    print("| method | macro-F1: first minute | minute asked for | 5 min | N | S | V | F | first minute and 5 min |")
    print("|---|---|---|---|---|---|---|---|---|")
    still = np.mean([f1s(each) for each in tables], axis=0)
    print(f"| global | {still[0]:.3f} | {still[0]:.3f} | {cells(still)} | {still[0]:.3f} |", flush=True)
    found = []
    for how in grid(lengths):
        parts = []
        for which in PARTS:
            runs = [
                f1s([outcome(shared[seed, name], people[name], which, how, seed).table for name in DS1])
                for seed in seeds
            ]
            parts.append(np.mean(runs, axis=0))
        found.append((float(parts[0][0] + parts[2][0]) / 2, words(how)))
        minutes = f"{parts[0][0]:.3f} | {parts[1][0]:.3f}"
        print(f"| {words(how)} | {minutes} | {cells(parts[2])} | {found[-1][0]:.3f} |", flush=True)
    print(f"\nbest: {max(found)[1]}")


def cells(values: NDArray[np.float64]) -> str:
    """Figures as cells of a table."""
    return " | ".join(f"{value:.3f}" for value in values)


def assess(
    people: Mapping[str, Person], shared: Mapping[int, Parameters], hows: Sequence[PersonalSettings], *, profile: bool
) -> None:
    """The table of DS2: the global models, and what each way makes of them."""
    print("| model | macro-F1 (N, S, V, F) | N | S | V | F | personal ones used | s a person |")
    print("|---|---|---|---|---|---|---|---|")
    still = {seed: [confusion(model, people[name].tested) for name in DS2] for seed, model in shared.items()}
    print(row("global", [f1s(each) for each in still.values()], "", ""), flush=True)
    for how, which in itertools.product(hows, PARTS):
        began = time.process_time()
        found = {
            seed: [outcome(model, people[name], which, how, seed) for name in DS2] for seed, model in shared.items()
        }
        each_s = (time.process_time() - began) / len(shared) / len(DS2)
        used = np.mean([[one.verdict.personal for one in each] for each in found.values()]) * len(DS2)
        runs = [f1s([one.table for one in each]) for each in found.values()]
        print(row(f"{which}, {words(how)}", runs, f"{used:.1f} of {len(DS2)}", f"{each_s:.2f}"), flush=True)
        if profile:
            by_record(people, still, found)


def by_record(
    people: Mapping[str, Person], still: Mapping[int, Sequence[Confusion]], found: Mapping[int, Sequence[Outcome]]
) -> None:
    """What each record has, and how many of its beats each model gets wrong, means over seeds."""
    print("\n| record | own beats | tested | wrong, global | wrong, used | used |")
    print("|---|---|---|---|---|---|")
    for place, name in enumerate(DS2):
        tables = [each[place] for each in still.values()], [each[place].table for each in found.values()]
        wrong = [np.mean([table.sum() - np.trace(table) for table in some]) for some in tables]
        verdicts = [each[place].verdict for each in found.values()]
        counts = ", ".join(f"{n} {count}" for n, count in people[name].tested.class_counts().items() if count)
        said = f"{sum(one.personal for one in verdicts)} of {len(verdicts)}"
        print(f"| {name} | {verdicts[0].examples} | {counts} | {wrong[0]:.0f} | {wrong[1]:.0f} | {said} |")
    print()


def main() -> None:
    """Choose on DS1, or assess on DS2."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the MIT-BIH records")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--choose", action="store_true", help="try all settings on DS1; DS2 is not looked at")
    parser.add_argument("--steps", type=int, nargs="*", default=STEPS, help="batches that --choose tries")
    parser.add_argument("--by-record", action="store_true", help="what each record wins or loses")
    given = parser.parse_args()
    torch.set_num_threads(1)
    names = DS1 if given.choose else DS2
    people = {name: person(given.data, name) for name in names}
    print(f"# {machine()}; plan {FILE.plan.name}, {given.rounds} rounds, seeds {given.seeds}")
    if given.choose:
        choose(people, given.seeds, given.rounds, given.steps)
        return
    shared: dict[int, Parameters] = {}
    for seed in given.seeds:
        measure(given.data, seed, given.rounds, models=shared)
    hows = (
        PersonalSettings(method="ditto", pull=PULL),
        PersonalSettings(method="fine-tune"),
        PersonalSettings(method="local-layers", layers=HEADS[1]),
    )
    assess(people, shared, hows, profile=given.by_record)


if __name__ == "__main__":
    main()
