"""What benchmarks of people held out share, whatever the plan: training on some of them in this process, and scores.

All of them train by ``edge.training.loop``, on one thread: federated as a run of the coordinator has it, but with
updates that aren't compressed; or centrally on everybody's examples at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from coordinator.aggregation import mean
from coordinator.scores import metrics
from edge.dataset import Dataset, concatenate
from edge.sources import load
from edge.training.evaluation import evaluate
from edge.training.loop import Trained, train
from edge.training.plan_fit import fit
from schemas.messages import Counts, Metrics, TrainSettings
from schemas.parameters import Parameters
from schemas.plan import Plan
from schemas.plan_file import PlanFile

Confusion = NDArray[np.int64]  # (classes, classes): rows are what is true, columns what was said


def by_person(data: str, plan: Plan) -> dict[str, Dataset]:
    """Each person's examples by name."""
    torch.set_num_threads(1)
    whole = fit(load(data, plan.data), plan)
    return {str(name): whole.take(np.flatnonzero(whole.owners == name)) for name in np.unique(whole.owners)}


Begin = Callable[[Parameters, int], Parameters]  # where a device, by its place, begins training from a model
TrainAll = Callable[
    [PlanFile, Sequence[Parameters], Sequence[Dataset], Sequence[np.random.Generator]], Sequence[Trained]
]  # what devices make of where each begins
Heard = Callable[[Parameters, np.random.Generator, int], Parameters]  # what the coordinator has of a device's delta
Follow = Callable[[Parameters, Parameters], Parameters]  # the next model: from the one before, by a round's mean delta


def one_by_one(
    file: PlanFile, starts: Sequence[Parameters], devices: Sequence[Dataset], rngs: Sequence[np.random.Generator]
) -> list[Trained]:
    """As real devices train."""
    return [
        train(start, data, file.plan, file.plan.train, rng)
        for start, data, rng in zip(starts, devices, rngs, strict=True)
    ]


def versions(
    file: PlanFile,
    devices: Sequence[Dataset],
    rounds: int,
    seed: int,
    heard: Heard = lambda delta, _rng, _index: delta,
    follow: Follow = Parameters.add,
    *,
    begin: Begin = lambda model, _index: model,
    train_all: TrainAll = one_by_one,
) -> Iterator[Parameters]:
    """The model after each of so many rounds in which every device takes part; weighed as the plan says."""
    model = file.initial(seed)
    for number in range(rounds):
        total = mean.init(model.manifest, file.plan.strategy, mean.MAX_WEIGHT)
        rngs = [np.random.default_rng((seed, number, index)) for index in range(len(devices))]
        starts = [begin(model, index) for index in range(len(devices))]
        for index, done in enumerate(train_all(file, starts, devices, rngs)):
            mean.fold(total, heard(done.delta, rngs[index], index), done.examples)
        model = follow(model, mean.finish(total).scale(file.plan.strategy.learning_rate))
        yield model


def federated(file: PlanFile, devices: Sequence[Dataset], rounds: int, seed: int) -> Parameters:
    """The last of the ``versions``, of one at least."""
    *_, model = versions(file, devices, rounds, seed)
    return model


def central(file: PlanFile, devices: Sequence[Dataset], epochs: int, seed: int) -> Parameters:
    """The same model trained on all examples in one place, by the same optimiser, for so many epochs."""
    settings = TrainSettings.model_validate(file.plan.train.model_dump() | {"epochs": epochs})
    model = file.initial(seed)
    return model.add(train(model, concatenate(devices), file.plan, settings, np.random.default_rng(seed)).delta)


def confusion(model: Parameters, dataset: Dataset, plan: Plan) -> Confusion:
    """What a model says of examples."""
    return np.array(evaluate(model, dataset, plan).confusion, np.int64)


def score(table: Confusion | int, plan: Plan) -> Metrics:
    """The coordinator's own metrics of a confusion matrix."""
    cells = np.asarray(table)
    counts = Counts(examples=int(cells.sum()), loss_sum=0.0, confusion=tuple(map(tuple, cells.tolist())))
    return metrics(counts, plan.classes, plan.report)
