"""What a plan costs, and the caps a device sets on that before it runs anything. Both ends use it.

``coordinator plan check`` refuses what a device with the default limits refuses.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from schemas.counted import counted
from schemas.errors import PlanError
from schemas.plan import Operation, Plan
from schemas.plan_shapes import infer, resolve
from schemas.plan_values import Shape, Value, each_of

FLOAT_BYTES = 4
# A training step holds every result until the backward pass, and its gradient beside it.
FORWARD_AND_BACKWARD = 2
# Parameters, the round's start, their gradient, and up to two moments of the optimiser.
COPIES_OF_PARAMETERS = 5
# Operations whose result shares its argument's memory, and its gradient that of the argument's gradient: not so
# ``expand``, of which the backward pass makes each value's own.
VIEWS = frozenset(
    {
        "flatten.using_ints",
        "permute",
        "transpose.int",
        "t",
        "unsqueeze",
        "squeeze.dim",
        "squeeze.dims",
        "slice.Tensor",
        "select.int",
    }
)
_POOLED = {"max_pool1d": 1, "max_pool2d": 2, "avg_pool1d": 1, "avg_pool2d": 2}  # dimensions of a window
# Arguments that the work of an operation follows from, counted from its first.
_IN_PLACE = {
    **dict.fromkeys(("conv1d", "conv2d", "linear", "matmul", "mm", "bmm"), 2),
    **dict.fromkeys(_POOLED, 2),
    "addmm": 3,
}


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one training step at a batch size. Scratch space of the framework's kernels is not in it."""

    memory: int  # bytes held at the end of the forward pass, parameters and optimiser included
    operations: int  # floating-point operations, forward and backward


@dataclass(frozen=True, slots=True)
class Limits:
    """The most a device does for one training step."""

    memory: int = 2**30  # bytes
    operations: int = 2**40  # some minutes on a Raspberry Pi 4


def cost(plan: Plan, batch: int) -> Cost:
    """The cost of one training step with ``batch`` examples, by a dry run. Raises ``PlanError`` as ``infer`` does."""
    values = infer(plan, batch)
    held = sum(_elements(values[operation.out]) for operation in plan.operations if operation.op not in VIEWS)
    inputs = batch * sum(math.prod(entry.shape) for entry in plan.inputs)
    work = sum(_work(operation, values) for operation in plan.operations)
    return Cost(
        memory=FLOAT_BYTES * (FORWARD_AND_BACKWARD * held + inputs + COPIES_OF_PARAMETERS * plan.manifest().size),
        operations=3 * work,  # the backward pass does about twice the forward's work
    )


def check(plan: Plan, batch: int, limits: Limits) -> Cost:
    """The cost at ``batch``; ``PlanError`` where it is over a limit."""
    found, step = cost(plan, batch), f"a training step of {counted(batch, 'example')}"
    if found.memory > limits.memory:
        raise PlanError(
            f"{step} would take about {found.memory / 2**20:.0f} MiB; this device allows "
            f"{limits.memory / 2**20:.0f} MiB: use a smaller batch or model"
        )
    if found.operations > limits.operations:
        raise PlanError(
            f"{step} would take {found.operations / 1e9:.1f} billion operations; this "
            f"device allows {limits.operations / 1e9:.1f} billion: use a smaller batch or model"
        )
    return found


def verdict(plan: Plan, batch: int) -> str:
    """What a device with the usual limits says of a plan, in a sentence; ``PlanError`` where it would decline it."""
    found = check(plan, batch, Limits())
    return (
        f"plan {plan.name}: {len(plan.operations)} operations, all allowed; a step with {counted(batch, 'example')} "
        f"takes {found.memory / 1e6:.1f} MB and {found.operations / 1e6:.0f} million operations"
    )


def _elements(value: Value) -> int:
    return math.prod(value) if isinstance(value, Shape) else 1


def _work(operation: Operation, values: Mapping[str, Value]) -> int:
    """Operations of one step: two for each multiply-add, one an element of the larger side for everything else.

    Raises ``PlanError`` where what that depends on isn't given in its place: by keyword it could hide.
    """
    out = _elements(values[operation.out])
    used = [value for value in (values[name] for name in operation.references()) if isinstance(value, Shape)]
    family = operation.op.partition(".")[0]
    if len(operation.args) < _IN_PLACE.get(family, 0):
        raise PlanError(
            f"the plan's {operation.op} must have its first {_IN_PLACE[family]} arguments in order, not by name: "
            "export it again with this version"
        )
    if family in {"conv1d", "conv2d", "linear"}:
        return 2 * out * math.prod(used[1][1:])
    if family in {"matmul", "mm", "bmm"}:
        return 2 * out * used[0][-1]
    if family == "addmm":
        return 2 * out * used[1][-1]
    if family in _POOLED:
        return out * math.prod(each_of(resolve(operation.args[1], values), _POOLED[family]))
    return max((out, *map(_elements, used)))
