"""What a plan costs, from the shapes it states, and the caps a device sets on that before it runs anything.

Both ends use it: ``coordinator plan check`` to warn the operator, a device to refuse. A device first verifies the
stated shapes (``edge.plan_runtime.rehearse``), so a plan can't lie about its cost.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from schemas.errors import PlanError
from schemas.plan import CLASS_WEIGHTS, LABELS, BatchShape, Operation, Plan
from schemas.plan_operations import VIEWS

FLOAT_BYTES = 4
# A training step holds every result until the backward pass, and its gradient beside it.
FORWARD_AND_BACKWARD = 2
# Parameters, the round's start, their gradient, and up to two moments of the optimiser.
COPIES_OF_PARAMETERS = 5


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
    """The cost of one training step with ``batch`` examples, from the plan's stated shapes."""
    shapes = value_shapes(plan, batch)
    held = sum(
        math.prod(shapes[operation.out])
        for operation in plan.operations
        if operation.shape is not None and operation.op not in VIEWS
    )
    inputs = batch * sum(math.prod(entry.shape) for entry in plan.inputs)
    parameters = plan.manifest().size
    work = sum(_work(operation, shapes) for operation in plan.operations if operation.shape is not None)
    return Cost(
        memory=FLOAT_BYTES * (FORWARD_AND_BACKWARD * held + inputs + COPIES_OF_PARAMETERS * parameters),
        operations=3 * work,  # the backward pass does about twice the forward's work
    )


def check(plan: Plan, batch: int, limits: Limits) -> Cost:
    """The cost at ``batch``; ``PlanError`` where it is over a limit."""
    found = cost(plan, batch)
    if found.memory > limits.memory:
        raise PlanError(
            f"a training step of {batch} examples would take about {found.memory / 2**20:.0f} MiB; this device allows "
            f"{limits.memory / 2**20:.0f} MiB: use a smaller batch or model"
        )
    if found.operations > limits.operations:
        raise PlanError(
            f"a training step of {batch} examples would take {found.operations / 1e9:.1f} billion operations; this "
            f"device allows {limits.operations / 1e9:.1f} billion: use a smaller batch or model"
        )
    return found


def resolve(shape: BatchShape, batch: int) -> tuple[int, ...]:
    """A stated shape at a batch size."""
    return tuple(dim if dim > 0 else -dim * batch for dim in shape)


def value_shapes(plan: Plan, batch: int) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor in the plan at a batch size, by name; a whole number counts as a scalar."""
    shapes: dict[str, tuple[int, ...]] = {LABELS: (batch,), CLASS_WEIGHTS: (len(plan.classes),)}
    shapes |= {parameter.name: parameter.shape for parameter in plan.parameters}
    shapes |= {entry.name: (batch, *entry.shape) for entry in plan.inputs}
    shapes |= {operation.out: resolve(operation.shape or (), batch) for operation in plan.operations}
    return shapes


def _work(operation: Operation, shapes: Mapping[str, tuple[int, ...]]) -> int:
    """Operations of one step: two for each multiply-add, one an element of the larger side for everything else."""
    out = math.prod(shapes[operation.out])
    used = [shapes[name] for name in operation.references()]
    family = operation.op.partition(".")[0]
    if family in {"conv1d", "conv2d", "linear"} and len(used) > 1:
        weight = used[1]
        return 2 * out * math.prod(weight[1:])
    if family in {"matmul", "mm", "bmm"} and used and used[0]:
        return 2 * out * used[0][-1]
    if family == "addmm" and len(used) > 1 and used[1]:
        return 2 * out * used[1][-1]
    if family in {"max_pool1d", "max_pool2d", "avg_pool1d", "avg_pool2d"} and len(operation.args) > 1:
        window = operation.args[1] if isinstance(operation.args[1], tuple) else (operation.args[1],)
        return out * math.prod(int(size) for size in window if isinstance(size, int))
    return max((math.prod(shape) for shape in (shapes[operation.out], *used)), default=0)
