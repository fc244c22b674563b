"""A plan runs on this device: its steps over torch's ATen, one table look-up each, with autograd. No code is loaded.

A program is a pure function of its parameters, so that it also works under ``torch.func.vmap``; there its dropout comes
from outside. Check the plan with ``schemas.plan_cost.check`` first: what doesn't fit together, or would cost too much,
is refused there.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor

from edge.pooling import max_pool
from schemas.errors import PlanError
from schemas.plan import CLASS_WEIGHTS, LABELS, REFERENCE, Argument, Operation, Plan
from schemas.plan_rules import OPERATIONS

_WHOLE_NUMBERS: Final[dict[str, Callable[..., Any]]] = {
    "int.add": operator.add,
    "int.sub": operator.sub,
    "int.mul": operator.mul,
    "int.floordiv": operator.floordiv,
}
_DTYPES: Final = {"float32": torch.float32, "int64": torch.int64}


def _resolve(name: str) -> Callable[..., Any]:
    if name in _WHOLE_NUMBERS:
        return _WHOLE_NUMBERS[name]
    family, _, overload = name.partition(".")
    return getattr(getattr(torch.ops.aten, family), overload or "default")  # type: ignore[no-any-return]


def _dropout(value: Tensor, probability: float, training: bool) -> Tensor:  # noqa: FBT001 - ATen's
    """Drawn in the order of the values, however they lie in memory."""
    return torch.ops.aten.dropout.default(value.contiguous(), probability, training)  # type: ignore[no-any-return]


Table = Mapping[str, Callable[..., Any]]  # what runs each operation, by its name

TABLE: Final[dict[str, Callable[..., Any]]] = {
    **{name: _resolve(name) for name in OPERATIONS},
    "dropout": _dropout,
    "max_pool1d": max_pool(1, _resolve("max_pool1d")),
    "max_pool2d": max_pool(2, _resolve("max_pool2d")),
    "sym_size.int": Tensor.size,  # ATen's own has no batching rule
}


class Dropout(NamedTuple):
    """A dropout step: the value it gives, and the probability that an element is dropped."""

    out: str
    probability: float

    def draw(self, shape: Sequence[int], generator: torch.Generator) -> Tensor:
        """What it multiplies its argument of this shape by, float32; the numbers that ATen's dropout draws."""
        kept = 1 - self.probability
        if kept in {0, 1}:
            return torch.full(tuple(shape), float(kept))
        return torch.empty(tuple(shape)).bernoulli_(kept, generator=generator).div_(kept)


class _Step:
    """One operation, ready to run on the list of all values so far."""

    __slots__ = ("args", "finished", "kwargs", "operation", "run")

    def __init__(
        self, operation: Operation, places: dict[str, int], table: Table, *, training: bool, outside: bool
    ) -> None:
        self.operation = operation
        self.run = table[operation.op]
        args = list(operation.args)
        if operation.op == "dropout" and training and outside:
            self.run, args[1:] = torch.mul, [f"{REFERENCE}{_mask(operation.out)}"]
        elif operation.op == "dropout":
            args[2:] = [training]
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
    ``class_weights`` float32 (C,), it gives ``(loss scalar, logits (B, C))``. With ``outside_dropout``, training takes
    what each of ``dropouts`` is to multiply by as ``masks``; else dropout draws from torch's own generator.
    """

    def __init__(self, plan: Plan, *, training: bool, outside_dropout: bool = False, table: Table = TABLE) -> None:
        """Raises ``PlanError`` where dropout is to come from outside and the plan doesn't say its probability."""
        self.dropouts = _dropouts(plan) if training and outside_dropout else ()
        names = [*(p.name for p in plan.parameters), *(entry.name for entry in plan.inputs), LABELS, CLASS_WEIGHTS]
        names += [_mask(dropout.out) for dropout in self.dropouts]
        places = {name: place for place, name in enumerate(names)}
        self._steps = []
        last_use: dict[int, _Step] = {}
        for operation in plan.operations:
            step = _Step(operation, places, table, training=training, outside=outside_dropout)
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
        """Run all steps."""
        values: list[Any] = [*parameters, *inputs, labels, class_weights, *masks]
        for step in self._steps:
            values.append(step(values))
            for place in step.finished:
                values[place] = None  # lets its memory go, where autograd doesn't hold it
        loss, logits = self._outputs
        return values[loss], values[logits]


def _dropouts(plan: Plan) -> tuple[Dropout, ...]:
    found = []
    for operation in plan.operations:
        if operation.op == "dropout":
            probability = operation.args[1] if len(operation.args) > 1 else None
            if not isinstance(probability, int | float):
                raise PlanError(f"the plan's dropout {operation.out!r} doesn't say with which probability")
            found.append(Dropout(operation.out, float(probability)))
    return tuple(found)


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
