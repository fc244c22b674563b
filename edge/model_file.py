"""A model as a device keeps it for its owner and as ``coordinator export`` writes it: safetensors, no code in it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from edge.training.neighbours import Neighbours
from schemas.errors import DataError, PlanError, StateError
from schemas.parameters import Parameters
from schemas.plan import Plan

_BROKEN: Final = (SafetensorError, ValueError, TypeError, KeyError)  # what safetensors raises on other bytes
_LABELLED: Final = ("labelled/looks", "labelled/kinds", "labelled/kind_of")  # beside parameters, whose names have no /

Tensors = Mapping[str, NDArray[Any]]


class Own(NamedTuple):
    """A model that is its owner's own, and the labelled examples that decide with it. A global one has none."""

    parameters: Parameters
    neighbours: Neighbours | None = None


def to_bytes(model: Parameters) -> bytes:
    """The model under its parameters' names, as float32."""
    return save(dict(model.arrays()))


def own_to_bytes(own: Own) -> bytes:
    """The same, and the labelled examples beside it."""
    if own.neighbours is None:
        return to_bytes(own.parameters)
    labelled = (own.neighbours.looks, own.neighbours.kinds, own.neighbours.kind_of)
    return save(dict(own.parameters.arrays()) | dict(zip(_LABELLED, labelled, strict=True)))


def from_bytes(raw: bytes, plan: Plan, name: str = "the file") -> Parameters:
    """The model in ``raw``, in the plan's order; ``name`` is what errors call it.

    Raises ``StateError`` where it is none, or damaged, ``PlanError`` where it is of another plan. A value that isn't
    finite would make every example one of the first class, which of beats is the usual one.
    """
    return _parameters(_tensors(raw, name), plan, name)


def own_from_bytes(raw: bytes, plan: Plan, name: str = "the file") -> Own:
    """What ``own_to_bytes`` wrote, or a model alone. Raises what ``from_bytes`` does."""
    tensors = dict(_tensors(raw, name))
    labelled: dict[str, NDArray[Any]] = {key: tensors.pop(key) for key in _LABELLED if key in tensors}
    return Own(_parameters(tensors, plan, name), _neighbours(labelled, plan, name) if labelled else None)


def _tensors(raw: bytes, name: str) -> Tensors:
    try:
        return load(raw)
    except _BROKEN:
        raise StateError(f"{name} is no model: give a .safetensors file that `coordinator export` wrote") from None


def _parameters(tensors: Tensors, plan: Plan, name: str) -> Parameters:
    wanted = {parameter.name: parameter.shape for parameter in plan.parameters}
    if {key: array.shape for key, array in tensors.items()} != wanted:
        raise PlanError(f"{name} is of another plan than {plan.name!r}: choose its own with --plan")
    if any(array.dtype != np.float32 or not np.isfinite(array).all() for array in tensors.values()):
        raise StateError(f"{name} is damaged, since its values aren't finite float32 numbers: export it again")
    return Parameters.from_arrays({key: tensors[key] for key in wanted})


def _neighbours(labelled: Tensors, plan: Plan, name: str) -> Neighbours:
    try:
        found = Neighbours(*(labelled[key] for key in _LABELLED))
    except (KeyError, DataError):
        found = None
    if found is None or len(found.kind_of) != len(plan.classes):
        raise StateError(f"{name} has damaged labelled examples: `edge run` makes another of the next global model")
    return found
