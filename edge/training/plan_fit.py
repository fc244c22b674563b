"""Whether a device's data is what a plan was made for; its labels renumbered in the plan's order. Pure numpy."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from edge.dataset import Dataset
from schemas.errors import PlanError, TrainingError
from schemas.plan import Plan


def fit(data: Dataset, plan: Plan) -> Dataset:
    """``data`` with the plan's classes. Raises ``PlanError`` saying what doesn't fit.

    A class's number follows from its name. Where the data has only numbers for names (0, 1, ...), those are the plan's.
    """
    shapes = tuple(entry.shape for entry in plan.inputs)
    if data.shapes != shapes:
        raise PlanError(f"the plan takes examples of {_describe(shapes)}; the data here has {_describe(data.shapes)}")
    if data.classes == plan.classes:
        return data
    numbers = {name: number for number, name in enumerate(plan.classes)}
    if not set(data.classes) <= numbers.keys() and all(name.isdigit() for name in data.classes):
        numbers = {str(number): number for number in range(len(plan.classes))}
    present = {data.classes[label] for label in np.unique(data.labels)}
    if unknown := sorted(present - numbers.keys()):
        raise PlanError(
            f"the data here has examples of class {', '.join(unknown[:5])}; the plan knows {', '.join(plan.classes)}"
        )
    renumber = np.array([numbers.get(name, 0) for name in data.classes], np.int64)  # absent classes' number is unused
    return replace(data, labels=renumber[data.labels], classes=plan.classes)


def _describe(shapes: tuple[tuple[int, ...], ...]) -> str:
    return " and ".join("x".join(map(str, shape)) for shape in shapes)


def class_of(logits: NDArray[np.float32]) -> NDArray[np.int64]:
    """The class (n,) that logits (n, C) say. Raises ``TrainingError`` where they aren't finite.

    Among such the first class would seem the largest, so that a damaged model would find every beat normal.
    """
    if not np.isfinite(logits).all():
        raise TrainingError("what the model gives isn't finite: it is damaged or has diverged; use another version")
    found: NDArray[np.int64] = logits.argmax(axis=1)
    return found
