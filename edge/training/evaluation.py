"""How a model does on held-out examples, as counts that add up exactly over devices."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from edge.dataset import Dataset
from edge.training.neighbours import Neighbours
from edge.training.plan_runtime import Program
from schemas.errors import DataError, TrainingError
from schemas.messages import LARGEST, Counts
from schemas.parameters import Parameters
from schemas.plan import Plan

BATCH = 256  # examples at a time


def evaluate(
    parameters: Parameters,
    data: Dataset,
    plan: Plan,
    batch: int = BATCH,
    on_batch: Callable[[], None] = lambda: None,
    neighbours: Neighbours | None = None,
) -> Counts:
    """Confusion matrix, sum of the unweighted loss, and number of examples. ``on_batch`` stops it by raising.

    ``neighbours`` decide with the model, of a plan that tells classes apart, on examples whose looks are known.

    Raises ``DataError`` where there is no example, and ``TrainingError`` where the model's loss isn't finite, or more
    than counts may say.
    """
    if not len(data):
        raise DataError("there is no held-out example to evaluate on")
    classes = len(plan.classes)
    program = Program(plan, training=False)
    arrays = [torch.from_numpy(array.copy()) for array in parameters.arrays().values()]
    weights = torch.ones(classes)
    confusion = np.zeros(classes * classes, np.int64)
    loss_sum = 0.0
    with torch.inference_mode():
        for start in range(0, len(data), batch):
            inputs = tuple(torch.from_numpy(array[start : start + batch]) for array in data.inputs)
            labels = torch.from_numpy(data.labels[start : start + batch])
            loss, logits = program(arrays, inputs, labels, weights)
            if neighbours is not None and data.looks is not None:
                logits = logits + torch.from_numpy(neighbours.evidence(data.looks[start : start + batch]))
                loss = torch.nn.functional.cross_entropy(logits, labels)
            loss_sum += loss.item() * len(labels)
            pairs = labels * classes + logits.argmax(dim=1)
            confusion += np.bincount(pairs.numpy(), minlength=classes * classes)
            on_batch()
    if not loss_sum <= LARGEST:
        mean = loss_sum / len(data)
        raise TrainingError(f"the model's loss on the held-out examples is {mean:.3g}: the global model has diverged")
    rows = confusion.reshape(classes, classes).tolist()
    return Counts(examples=len(data), loss_sum=max(loss_sum, 0.0), confusion=tuple(map(tuple, rows)))
