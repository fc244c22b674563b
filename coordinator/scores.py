"""From what devices counted to what a global model scores. Counts add up exactly, so scores are of all beats at once.

Averaging the devices' own scores would not be that: a device with three ectopic beats would weigh as much as one
with three thousand.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import NDArray

from schemas.counted import counted
from schemas.errors import Reject, WireError
from schemas.messages import ClassMetrics, Counts, Metrics


def add(counts: Sequence[Counts]) -> Counts:
    """The sum over devices, the same in any order: integers exactly, the loss rounded once.

    Raises ``WireError`` where there is nothing to add or the confusion matrices differ in size.
    """
    if not counts:
        raise WireError(Reject.OUT_OF_RANGE, "no device counted anything")
    if len({len(each.confusion) for each in counts}) != 1:
        raise WireError(Reject.WRONG_SHAPE, "devices counted different numbers of classes")
    columns = zip(*(each.confusion for each in counts), strict=True)
    confusion = tuple(tuple(sum(cells) for cells in zip(*rows, strict=True)) for rows in columns)
    return Counts(
        examples=sum(each.examples for each in counts),
        loss_sum=math.fsum(each.loss_sum for each in counts),
        confusion=confusion,
    )


def metrics(counts: Counts, classes: Sequence[str], report: Collection[str]) -> Metrics:
    """Accuracy, loss, and each class's sensitivity, PPV and F1, all between 0 and 1; macro-F1 over ``report``.

    ``classes`` names the confusion matrix's rows and columns. A class without examples has no sensitivity and no F1
    and is left out of the macro-F1; one that has examples and is never predicted counts there with 0. Of one class
    alone, as a reconstruction has it, only the loss says something.
    Raises ``WireError`` where there is no example or the matrix doesn't fit ``classes``.
    """
    if len(counts.confusion) != len(classes):
        found = counted(len(counts.confusion), "class", "classes")
        raise WireError(Reject.WRONG_SHAPE, f"counts of {found}; the plan has {len(classes)}")
    if not counts.examples:
        raise WireError(Reject.OUT_OF_RANGE, "no held-out example was counted")
    confusion = np.array(counts.confusion, np.int64)
    each = tuple(_one_class(confusion, index, name) for index, name in enumerate(classes))
    reported = [entry.f1 for entry in each if entry.name in report and entry.f1 is not None and len(classes) > 1]
    return Metrics(
        examples=counts.examples,
        loss=counts.loss_sum / counts.examples,
        accuracy=int(confusion.trace()) / counts.examples,
        macro_f1=math.fsum(reported) / len(reported) if reported else None,
        classes=each,
        confusion=counts.confusion,
    )


def _one_class(confusion: NDArray[np.int64], index: int, name: str) -> ClassMetrics:
    hits, true, predicted = (
        int(n) for n in (confusion[index, index], confusion[index].sum(), confusion[:, index].sum())
    )
    return ClassMetrics(
        name=name,
        examples=true,
        sensitivity=hits / true if true else None,
        ppv=hits / predicted if predicted else None,
        f1=2 * hits / (true + predicted) if true else None,
    )
