"""What the benchmarks of ``ecg-beats`` share: patients, ways to train on some of them in this process, and scores.

All of them train the bundled plan by ``edge.training``, on one thread: federated as a run of the coordinator has it,
but with updates that aren't compressed; centrally on all patients' beats at once; or not at all, by a rule of three
thresholds that reads the same features.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
import wfdb
from numpy.typing import NDArray

from coordinator.aggregation import mean
from coordinator.plan_file import PlanFile, find
from coordinator.scores import metrics
from edge import ecg
from edge.beat_features import BEFORE, QRS, features
from edge.dataset import Dataset, concatenate
from edge.dominant_beat import follow
from edge.evaluation import evaluate
from edge.plan_fit import fit
from edge.sources import load
from edge.sources.wfdb_records import LEAD
from edge.training import train
from edge.weak_labels import CLASSES as SAID
from edge.weak_labels import Rule
from schemas.messages import Counts, Metrics, TrainSettings
from schemas.parameters import Parameters

FILE = find("ecg-beats")
PLAN = FILE.plan
SHOWN = ("N", "S", "V")
Confusion = NDArray[np.int64]  # (5, 5): rows are what is true, columns what was said

# Thresholds of the rule that are tried: ``edge.weak_labels`` says what they are of.
STRANGE = (1.0, 1.5, 2.0, 2.5)
EARLY = (0.75, 0.8, 0.85, 0.9)
CHANGING = (0.3, 0.5, 0.8, 9.0)


def patients(data: Path) -> dict[str, Dataset]:
    """Each record's beats by its name."""
    torch.set_num_threads(1)
    whole = fit(load(str(data), PLAN.data), PLAN)
    return {str(name): whole.take(np.flatnonzero(whole.owners == name)) for name in np.unique(whole.owners)}


def crowded(data: Path, name: str) -> Dataset:
    """A record's S beats, each with the beat before and the one after it, as though there were no others.

    So ectopic beats are most of the beats, as in some people, but in none of DS1.
    """
    header = wfdb.rdheader(str(data / name))
    lead = header.sig_name.index(LEAD) if LEAD in header.sig_name else 0
    signal = wfdb.rdrecord(str(data / name), channels=[lead]).p_signal[:, 0]
    annotation = wfdb.rdann(str(data / name), "atr")
    beats = np.isin(annotation.symbol, list(ecg.AAMI_OF_SYMBOL))
    peaks = annotation.sample[beats]
    labels = np.array([PLAN.classes.index(ecg.AAMI_OF_SYMBOL[s]) for s in np.array(annotation.symbol)[beats]], np.int64)
    starts = np.rint(peaks * (ecg.RATE / header.fs)).astype(np.int64) - BEFORE
    early = np.pad(labels == PLAN.classes.index("S"), 1)
    kept = early[:-2] | early[1:-1] | early[2:]
    before = ecg.intervals(peaks, header.fs)[kept]
    inputs = features(follow(ecg.condition(signal, header.fs), starts[kept], ecg.WINDOW, before, QRS), before)
    return Dataset(inputs, labels[kept], np.full(int(kept.sum()), name), PLAN.classes)


def federated(devices: Sequence[Dataset], rounds: int, seed: int, file: PlanFile = FILE) -> Parameters:
    """The model after so many rounds in which every device takes part."""
    model = file.initial(seed)
    for number in range(rounds):
        total = mean.init(model.manifest, file.plan.strategy, 1)
        for index, dataset in enumerate(devices):
            rng = np.random.default_rng((seed, number, index))
            done = train(model, dataset, file.plan, file.plan.train, rng)
            mean.fold(total, done.delta, done.examples)
        model = model.add(mean.finish(total).scale(file.plan.strategy.learning_rate))
    return model


def central(devices: Sequence[Dataset], epochs: int, seed: int, file: PlanFile = FILE) -> Parameters:
    """The same model trained on all beats in one place, by the same optimiser, for as many epochs."""
    settings = TrainSettings.model_validate(file.plan.train.model_dump() | {"epochs": epochs})
    model = file.initial(seed)
    return model.add(train(model, concatenate(devices), file.plan, settings, np.random.default_rng(seed)).delta)


def confusion(model: Parameters, dataset: Dataset) -> Confusion:
    """What a model says of a patient's beats."""
    return np.array(evaluate(model, dataset, PLAN).confusion, np.int64)


def ruled(rule: Rule, dataset: Dataset) -> Confusion:
    """What the rule says of a patient's beats."""
    labels, _ = rule.label(*dataset.inputs)
    table = np.zeros((len(PLAN.classes), len(PLAN.classes)), np.int64)
    np.add.at(table, (dataset.labels, np.array([PLAN.classes.index(name) for name in SAID])[labels]), 1)
    return table


def chosen(devices: Sequence[Dataset]) -> Rule:
    """The rule with the thresholds that are best, by macro-F1, on these patients."""
    rules = [Rule(*thresholds) for thresholds in itertools.product(STRANGE, EARLY, CHANGING)]
    return max(rules, key=lambda rule: score(sum(ruled(rule, beats) for beats in devices)).macro_f1 or 0.0)


def score(table: Confusion | int) -> Metrics:
    """The coordinator's own metrics of a confusion matrix."""
    cells = np.asarray(table)
    counts = Counts(examples=int(cells.sum()), loss_sum=0.0, confusion=tuple(map(tuple, cells.tolist())))
    return metrics(counts, PLAN.classes, PLAN.report)


def figures(result: Metrics) -> tuple[float, ...]:
    """Accuracy, macro-F1, and the F1 of N, S and V."""
    f1 = {entry.name: entry.f1 or 0.0 for entry in result.classes}
    return result.accuracy, result.macro_f1 or 0.0, *(f1[name] for name in SHOWN)


def interval(tables: Mapping[str, Confusion], repeats: int = 2000) -> NDArray[np.float64]:
    """The 2.5th and 97.5th percentile (2, 5) of the figures over draws of as many patients with replacement."""
    stacked = np.stack(list(tables.values()))
    rng = np.random.default_rng(0)
    draws = rng.integers(0, len(stacked), (repeats, len(stacked)))
    return np.quantile([figures(score(stacked[draw].sum(axis=0))) for draw in draws], [0.025, 0.975], axis=0)
