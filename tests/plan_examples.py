"""Small plans and data for the tests of planning and training."""

from __future__ import annotations

from typing import Any

import numpy as np

from edge.dataset import Dataset
from schemas.plan import Plan

CLASSES = ("calm", "brisk", "wild")


def fields(**changes: Any) -> dict[str, Any]:
    """What a two-layer plan over windows of 2x8 is built from."""
    return {
        "name": "tiny",
        "data": "windows",
        "inputs": ({"name": "window", "shape": (2, 8)},),
        "classes": CLASSES,
        "report": ("calm", "brisk"),
        "parameters": (
            {"name": "conv.weight", "shape": (4, 2, 3), "init": {"kind": "uniform", "bound": 0.4}},
            {"name": "conv.bias", "shape": (4,), "init": {"kind": "constant", "value": 0.0}},
            {"name": "out.weight", "shape": (3, 4), "init": {"kind": "uniform", "bound": 0.5}},
            {"name": "out.bias", "shape": (3,), "init": {"kind": "constant", "value": 0.0}},
        ),
        "operations": (
            {"out": "conv1d", "op": "conv1d", "args": ("%window", "%conv.weight", "%conv.bias", (1,), (1,))},
            {"out": "relu", "op": "relu", "args": ("%conv1d",)},
            {"out": "mean", "op": "mean.dim", "args": ("%relu", (2,))},
            {"out": "logits", "op": "linear", "args": ("%mean", "%out.weight", "%out.bias")},
            {"out": "loss", "op": "cross_entropy_loss", "args": ("%logits", "%labels", "%class_weights")},
        ),
        "loss": "loss",
        "logits": "logits",
        **changes,
    }


def tiny(**changes: Any) -> Plan:
    """That plan."""
    return Plan.build(**fields(**changes))


def with_step(place: int, **changes: Any) -> dict[str, Any]:
    """Its fields with one step changed."""
    steps = list(fields()["operations"])
    steps[place] = {**steps[place], **changes}
    return fields(operations=tuple(steps))


def windows(examples: int = 60, seed: int = 0) -> Dataset:
    """Windows of 2x8 whose class is how strongly they swing."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, len(CLASSES), examples)
    inputs = rng.normal(size=(examples, 2, 8)) * (1 + 2 * labels[:, None, None])
    return Dataset((inputs.astype(np.float32),), labels, np.full(examples, "ada"), CLASSES)
