"""Which examples a training takes, in which order, and what each class weighs. Pure numpy."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge.dataset import IndexArray, LabelArray
from schemas.counted import counted
from schemas.errors import DataError, PlanError
from schemas.messages import TrainSettings


@dataclass(frozen=True, eq=False, slots=True)
class Batch:
    """Some examples of a pass: those at ``start`` to ``stop`` of its ``order``, indices (n,) into all of them."""

    order: IndexArray  # the same object for all batches of a pass
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start

    @property
    def indices(self) -> IndexArray:
        """The examples."""
        return self.order[self.start : self.stop]


def choose(examples: int, most: int | None, rng: np.random.Generator) -> IndexArray:
    """Which examples a round uses: all, or ``most`` of them drawn without repetition, in order of recording."""
    if not examples:
        raise DataError("there is no example to train on: record or label some first")
    if most is None or most >= examples:
        return np.arange(examples)
    return np.sort(rng.choice(examples, most, replace=False))


def batches(examples: int, size: int, steps: int, rng: np.random.Generator, done: int = 0) -> Iterator[Batch]:
    """``steps`` batches: shuffled passes over all examples, the last batch of a pass may be smaller.

    ``done`` of them came before; ``rng`` is then as it was before the pass that the next one belongs to.
    """
    skip = done % math.ceil(examples / size) * size
    while done < steps:
        order = rng.permutation(examples)
        for start in range(skip, examples, size)[: steps - done]:
            yield Batch(order, start, min(start + size, examples))
            done += 1
        skip = 0


def class_weights(settings: TrainSettings, labels: LabelArray, classes: int) -> NDArray[np.float32]:
    """The loss's weight of each class, (classes,): ones, as given, or balanced.

    Balanced is n / (k n_c) for a class with n_c of n examples among the k classes present here, so that each present
    class counts the same and the mean over examples is 1; absent classes get 1.
    """
    if settings.class_weights == "none":
        return np.ones(classes, np.float32)
    if settings.class_weights == "balanced":
        counts = np.bincount(labels, minlength=classes)
        present = counts > 0
        weights = np.ones(classes, np.float32)
        weights[present] = len(labels) / (present.sum() * counts[present])
        return weights
    if len(settings.class_weights) != classes:
        weights_given = counted(len(settings.class_weights), "class weight")
        raise PlanError(f"{weights_given} for {counted(classes, 'class', 'classes')}: give one for each")
    return np.array(settings.class_weights, np.float32)
