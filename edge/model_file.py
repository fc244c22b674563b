"""A model as a device keeps it for its owner and as ``coordinator export`` writes it: safetensors, no code in it."""

from __future__ import annotations

from typing import Final

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from schemas.errors import PlanError, StateError
from schemas.parameters import Parameters
from schemas.plan import Plan

_BROKEN: Final = (SafetensorError, ValueError, TypeError, KeyError)  # what safetensors raises on other bytes


def to_bytes(model: Parameters) -> bytes:
    """The model under its parameters' names, as float32."""
    return save(dict(model.arrays()))


def from_bytes(raw: bytes, plan: Plan, name: str = "the file") -> Parameters:
    """The model in ``raw``, in the plan's order; ``name`` is what errors call it.

    Raises ``StateError`` where it is none, or damaged, ``PlanError`` where it is of another plan. A value that isn't
    finite would make every example one of the first class, which of beats is the usual one.
    """
    try:
        tensors = load(raw)
    except _BROKEN:
        raise StateError(f"{name} is no model: give a .safetensors file that `coordinator export` wrote") from None
    wanted = {parameter.name: parameter.shape for parameter in plan.parameters}
    if {key: array.shape for key, array in tensors.items()} != wanted:
        raise PlanError(f"{name} is of another plan than {plan.name!r}: choose its own with --plan")
    if any(array.dtype != np.float32 or not np.isfinite(array).all() for array in tensors.values()):
        raise StateError(f"{name} is damaged, since its values aren't finite float32 numbers: export it again")
    return Parameters.from_arrays({key: tensors[key] for key in wanted})
