"""The dry run of a plan: shapes and kinds instead of tensors, by a rule for each operation. No framework, microseconds.

torch's own dry run, on its ``meta`` device, has to import a second's and 80 MB worth of its compiler first, which
a Raspberry Pi would pay in every trainer process. Tests hold these rules against it, operation by operation. Both ends
use them: ``coordinator plan check`` refuses exactly what a device refuses.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

from schemas.errors import PlanError
from schemas.plan import CLASS_WEIGHTS, LABELS, REFERENCE, Argument, Operation, Plan
from schemas.plan_rules import RULES
from schemas.plan_types import TYPES, Kind
from schemas.plan_values import Shape, Value, describe

MAX_VALUES: Final = 2**40  # of one result: above all memory, below any trouble with large numbers


def infer(plan: Plan, batch: int) -> dict[str, Value]:
    """Every value in the plan at a batch size, by name: a tensor's shape, or a whole number.

    Raises ``PlanError`` for the first step that can't run, and where loss and logits aren't what a plan must give.
    """
    values: dict[str, Value] = {LABELS: Shape((batch,)), CLASS_WEIGHTS: Shape((len(plan.classes),))}
    values |= {parameter.name: Shape(parameter.shape) for parameter in plan.parameters}
    values |= {entry.name: Shape((batch, *entry.shape)) for entry in plan.inputs}
    kinds: dict[str, Value | Kind] = {**dict.fromkeys(values, Kind.FLOAT), LABELS: Kind.WHOLE}
    for number, operation in enumerate(plan.operations, 1):
        try:
            result = _apply(operation, values)
            kinds[operation.out] = _kind(operation, kinds) if isinstance(result, Shape) else result
        except (TypeError, ValueError, IndexError, ArithmeticError) as error:
            where = f"step {number} of the plan ({operation.op}{f' in {operation.layer}' if operation.layer else ''})"
            raise PlanError(f"{where} can't run at a batch of {batch}: {error}") from None
        values[operation.out] = result
    if values[plan.loss] != Shape(()):
        raise PlanError(f"the loss {plan.loss!r} must be one number, not {describe(values[plan.loss])}")
    for what, name in (("loss", plan.loss), ("logits", plan.logits)):
        if kinds[name] is Kind.WHOLE:
            raise PlanError(
                f"the {what} {name!r} must hold floats, not whole numbers (int64): nothing is learned from those"
            )
    wanted = Shape((batch, len(plan.classes)))
    if values[plan.logits] != wanted:
        raise PlanError(
            f"the logits {plan.logits!r} must have one row an example and one column a class, {describe(wanted)} "
            f"at a batch of {batch}; they have {describe(values[plan.logits])}"
        )
    return values


def outline(plan: Plan) -> dict[str, str]:
    """What every value in the plan looks like for any batch size B, for people: ``Bx16x64``, ``2B``, ``one number``."""
    two, three = infer(plan, 2), infer(plan, 3)
    return {name: _outline(two[name], three[name]) for name in two}


def _outline(two: Value, three: Value) -> str:
    """A value at any batch size, from two of them."""
    if isinstance(two, Shape) and isinstance(three, Shape):
        return "x".join(_line(a, b) for a, b in zip(two, three, strict=True)) or describe(two)
    return f"the whole number {_line(int(two), int(three))}"  # type: ignore[arg-type]  # both are numbers then


def _line(two: int, three: int) -> str:
    slope = three - two
    base = two - 2 * slope
    terms = [str(base)] if base or not slope else []
    terms += [f"{slope if slope != 1 else ''}B"] if slope else []
    return "+".join(terms)


def _apply(operation: Operation, values: dict[str, Value]) -> Value:
    args = [resolve(argument, values) for argument in operation.args]
    result = RULES[operation.op](*args, **{key: resolve(item, values) for key, item in operation.kwargs.items()})
    if isinstance(result, Shape) and (min(result, default=1) < 1 or math.prod(result) > MAX_VALUES):
        raise ValueError(f"the result would be {describe(result)}")
    return result


def _kind(operation: Operation, kinds: dict[str, Value | Kind]) -> Kind:
    args = [resolve(argument, kinds) for argument in operation.args]
    return TYPES[operation.op](*args, **{key: resolve(item, kinds) for key, item in operation.kwargs.items()})


def resolve(argument: Argument, values: Mapping[str, Value | Kind]) -> Any:
    """What an argument stands for: itself, or among ``values`` what it refers to, in a list too."""
    if isinstance(argument, tuple):
        return [resolve(item, values) for item in argument]
    if isinstance(argument, str) and argument.startswith(REFERENCE):
        return values[argument[len(REFERENCE) :]]
    return argument
