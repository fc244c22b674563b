"""A plan runs on this device: its steps over torch's ATen, one table look-up each, with autograd. No code is loaded.

A program is a pure function of its arguments, dropout's masks among them. Check the plan with
``schemas.plan_cost.check`` first: what doesn't fit together, or would cost too much, is refused there.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import torch
from torch import Tensor

from edge.training.pooling import max_pool
from schemas.errors import PlanError
from schemas.plan import CLASS_WEIGHTS, LABELS, REFERENCE, Argument, Operation, Plan
from schemas.plan_rules import OPERATIONS

WHOLE_NUMBERS: Final[dict[str, Callable[..., Any]]] = {
    "int.add": operator.add,
    "int.sub": operator.sub,
    "int.mul": operator.mul,
    "int.floordiv": operator.floordiv,
}
_DTYPES: Final = {"float32": torch.float32, "int64": torch.int64}


def _resolve(name: str) -> Callable[..., Any]:
    if name in WHOLE_NUMBERS:
        return WHOLE_NUMBERS[name]
    family, _, overload = name.partition(".")
    return getattr(getattr(torch.ops.aten, family), overload or "default")  # type: ignore[no-any-return]


Table = Mapping[str, Callable[..., Any]]  # what runs each operation, by its name

TABLE: Final[dict[str, Callable[..., Any]]] = {
    **{name: _resolve(name) for name in OPERATIONS},
    "max_pool1d": max_pool(1, _resolve("max_pool1d")),
    "max_pool2d": max_pool(2, _resolve("max_pool2d")),
    "sym_size.int": Tensor.size,  # ATen's own has no batching rule
}


class _Step:
    """One operation, ready to run on the list of all values so far."""

    __slots__ = ("args", "finished", "kwargs", "operation", "run")

    def __init__(self, operation: Operation, places: dict[str, int], table: Table, *, training: bool) -> None:
        self.operation = operation
        self.run = table[operation.op]
        args = list(operation.args)
        if operation.op == "dropout" and training:
            self.run, args[1:] = torch.mul, [f"{REFERENCE}{_mask(operation.out)}"]
        elif operation.op == "dropout":
            args[2:] = [False]
        self.args = tuple(_bind(argument, places) for argument in args)
        self.kwargs = {key: _bind(value, places) for key, value in operation.kwargs.items()}
        self.finished: tuple[int, ...] = ()  # places of values that no later step uses

    def __call__(self, values: list[Any]) -> Any:
        args = [argument(values) for argument in self.args]
        if not self.kwargs:
            return self.run(*args)
        return self.run(*args, **{key: value(values) for key, value in self.kwargs.items()})


class Program:
    """A plan made ready to run, in training or in evaluation (dropout off).

    Called with the parameters in the plan's order, the inputs (B, *shape), ``labels`` int64 (B,) and
    ``class_weights`` float32 (C,), it gives ``(loss scalar, logits (B, C))``. Training takes what each dropout, in the
    plan's order, multiplies its argument by as ``masks``; ``edge.training.dropout`` draws them.
    """

    def __init__(self, plan: Plan, *, training: bool, table: Table = TABLE) -> None:
        names = [*(p.name for p in plan.parameters), *(entry.name for entry in plan.inputs), LABELS, CLASS_WEIGHTS]
        if training:
            names += [_mask(operation.out) for operation in plan.operations if operation.op == "dropout"]
        places = {name: place for place, name in enumerate(names)}
        self._steps = []
        last_use: dict[int, _Step] = {}
        for operation in plan.operations:
            step = _Step(operation, places, table, training=training)
            last_use |= {places[name]: step for name in operation.references()}
            places[operation.out] = len(places)
            last_use[places[operation.out]] = step
            self._steps.append(step)
        self._outputs = places[plan.loss], places[plan.logits]
        for place, step in last_use.items():
            if place not in self._outputs:
                step.finished += (place,)

    def __call__(
        self,
        parameters: Sequence[Tensor],
        inputs: Sequence[Tensor],
        labels: Tensor,
        class_weights: Tensor,
        masks: Sequence[Tensor] = (),
    ) -> tuple[Tensor, Tensor]:
        """Run all steps.

        Raises ``RuntimeError`` for what torch can't do, and ``PlanError`` for arguments it doesn't take, of which the
        dry run sees the shapes alone.
        """
        values: list[Any] = [*parameters, *inputs, labels, class_weights, *masks]
        for number, step in enumerate(self._steps, 1):
            try:
                values.append(step(values))
            except (TypeError, ValueError, IndexError, ArithmeticError) as error:
                reason = str(error).partition("\n")[0]
                raise PlanError(f"step {number} of the plan ({step.operation.op}) can't run: {reason}") from error
            for place in step.finished:
                values[place] = None  # lets its memory go, where autograd doesn't hold it
        loss, logits = self._outputs
        return values[loss], values[logits]


def _mask(out: str) -> str:
    return f"dropout of {out}"  # no value in a plan has a space in its name


def _bind(argument: Argument, places: dict[str, int]) -> Callable[[list[Any]], Any]:
    """How to get an argument's value from the list of values: by its place, or a constant."""
    if isinstance(argument, tuple):
        if any(isinstance(item, str) for item in argument):
            bound = tuple(_bind(item, places) for item in argument)
            return lambda values: [item(values) for item in bound]
        constants = list(argument)
        return lambda _values: constants
    if isinstance(argument, str):
        if argument.startswith(REFERENCE):
            return operator.itemgetter(places[argument[len(REFERENCE) :]])
        word = _DTYPES.get(argument, argument)
        return lambda _values: word
    return lambda _values: argument
