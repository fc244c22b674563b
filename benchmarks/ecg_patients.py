"""What the benchmarks of ``ecg-beats`` share: patients, scores, and a way to tell beats without training.

That is a rule of three thresholds that reads the same features. ``people.py`` has the ways to train.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import people
import wfdb
from numpy.typing import NDArray
from people import Confusion

from edge.beats import ecg
from edge.beats.beat_features import BEFORE, QRS, features
from edge.beats.dominant_beat import follow
from edge.beats.weak_labels import CLASSES as SAID
from edge.beats.weak_labels import Rule
from edge.dataset import Dataset
from edge.sources.wfdb_records import LEAD
from schemas.messages import Metrics
from schemas.parameters import Parameters
from schemas.plan_file import find

FILE = find("ecg-beats")
PLAN = FILE.plan
SHOWN = ("N", "S", "V")

# Thresholds of the rule that are tried: ``edge.beats.weak_labels`` says what they are of.
STRANGE = (1.0, 1.5, 2.0, 2.5)
EARLY = (0.75, 0.8, 0.85, 0.9)
CHANGING = (0.3, 0.5, 0.8, 9.0)


def patients(data: Path) -> dict[str, Dataset]:
    """Each record's beats by its name."""
    return people.by_person(str(data), PLAN)


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


def confusion(model: Parameters, dataset: Dataset) -> Confusion:
    """What a model says of a patient's beats."""
    return people.confusion(model, dataset, PLAN)


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
    return people.score(table, PLAN)


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
