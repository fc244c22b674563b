"""An ONNX graph in the making: what the writers of ``onnx_operations`` write into. Pure.

Values go by the plan's names. Shapes are those of ``plan_shapes``, but for the batch, which stays open. Source: ONNX,
"Operators", opset 20 (IR version 9).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from schemas.parameters import Parameters
from schemas.plan import REFERENCE, Argument, Operation, Plan
from schemas.plan_shapes import infer
from schemas.plan_values import Shape, Value

if TYPE_CHECKING:
    import onnx

OPSET: Final = 20
IR_VERSION: Final = 9  # the first that has this opset
LOGITS: Final = "logits"
BATCH: Final = "batch"  # the open dimension's name


class Unsupported(Exception):
    """This form of an operation has no counterpart here; its text says which part of it."""


def require(whether: object, text: str) -> None:
    """Raises ``Unsupported`` with ``text`` unless ``whether``."""
    if not whether:
        raise Unsupported(text)


class Graph:
    """An ONNX graph in the making. Values go by the plan's names, those in between by numbers."""

    def __init__(self, plan: Plan, library: Any) -> None:
        """``library`` is the package ``onnx``."""
        self._onnx = library
        self._shapes = infer(plan, 2)
        self._nodes: list[onnx.NodeProto] = []
        self._constants: dict[str, NDArray[Any]] = {}
        self._count = 0
        self._out = ""

    def begin(self, operation: Operation) -> None:
        """What is written from here on makes this operation's value."""
        self._out = operation.out

    def node(self, op: str, *inputs: str, last: bool = False, **attributes: object) -> str:
        """Write a node and give its value's name; ``last``: that is the operation's."""
        name = _value(self._out) if last else self._fresh()
        self._nodes.append(self._onnx.helper.make_node(op, list(inputs), [name], **attributes))
        return name

    def give(self, op: str, *inputs: str, **attributes: object) -> None:
        """Write the node that makes the operation's value."""
        self.node(op, *inputs, last=True, **attributes)

    def constant(self, values: object, dtype: type[np.generic] = np.float32) -> str:
        """A value that is always the same."""
        name = self._fresh()
        self._constants[name] = np.asarray(values, dtype)
        return name

    def whole(self, numbers: Sequence[Argument] | int) -> str:
        """Whole numbers (n,), int64, some of them values of the plan's own."""
        items = [numbers] if isinstance(numbers, int) else list(numbers)
        if not any(isinstance(item, str) for item in items):
            return self.constant(items, np.int64)
        parts = [_value(i[1:]) if isinstance(i, str) else self.constant([i], np.int64) for i in items]
        return parts[0] if len(parts) == 1 else self.node("Concat", *parts, axis=0)

    def value(self, argument: Argument) -> str:
        """A tensor: one of the plan's values, or a number."""
        if isinstance(argument, str) and argument.startswith(REFERENCE):
            name = argument[len(REFERENCE) :]
            if isinstance(self._shapes[name], Shape):
                return _value(name)
            return self.node("Cast", _value(name), to=self._onnx.TensorProto.FLOAT)
        if not isinstance(argument, int | float):
            raise Unsupported(f"{argument!r} is no tensor")
        return self.constant(argument)

    def number(self, argument: Argument) -> str:
        """A whole number as a tensor (1,), int64."""
        return self.whole((argument,))

    def shape(self, argument: Argument) -> Shape:
        """The shape of one of the plan's values at a batch of 2."""
        found: Value | None = None
        if isinstance(argument, str) and argument.startswith(REFERENCE):
            found = self._shapes[argument[len(REFERENCE) :]]
        if not isinstance(found, Shape):
            raise Unsupported(f"{argument!r} is no tensor")
        return found

    @property
    def result(self) -> Shape:
        """The shape of the operation's own value at a batch of 2."""
        return self.shape(f"{REFERENCE}{self._out}")

    def model(self, plan: Plan, parameters: Parameters, needed: frozenset[str]) -> bytes:
        """The file."""
        helper, numpy_helper, floats = self._onnx.helper, self._onnx.numpy_helper, self._onnx.TensorProto.FLOAT
        arrays = {_value(name): array for name, array in parameters.arrays().items() if name in needed}
        self._nodes.append(helper.make_node("Identity", [_value(plan.logits)], [LOGITS]))
        inputs = [helper.make_tensor_value_info(one.name, floats, [BATCH, *one.shape]) for one in plan.inputs]
        named = [helper.make_node("Identity", [one.name], [_value(one.name)]) for one in plan.inputs]
        graph = helper.make_graph(
            [*named, *self._nodes],
            "plan",
            inputs,
            [helper.make_tensor_value_info(LOGITS, floats, [BATCH, len(plan.classes)])],
            [numpy_helper.from_array(array, name) for name, array in (arrays | self._constants).items()],
        )
        opset = helper.make_opsetid("", OPSET)
        model = helper.make_model(graph, producer_name="fedbeat", opset_imports=[opset], ir_version=IR_VERSION)
        about = {"name": plan.name, "classes": json.dumps(plan.classes), "digest": parameters.digest()}
        helper.set_model_props(model, about)
        written: bytes = model.SerializeToString()
        return written

    def _fresh(self) -> str:
        self._count += 1
        return f"#{self._count}"


def _value(name: str) -> str:
    """What a value of the plan is called in the graph: no input is, nor what is numbered."""
    return f"%{name}"
