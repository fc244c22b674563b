"""Plans as ONNX models: what ONNX Runtime makes of them is what PyTorch makes of them."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.findings.onnx_runtime import Session
from edge.training.plan_runtime import Program
from schemas.errors import PlanError
from schemas.onnx_operations import TABLE
from schemas.parameters import Parameters
from schemas.plan import Plan
from schemas.plan_file import bundled, find
from schemas.plan_onnx import to_onnx
from schemas.plan_rules import OPERATIONS, RULES
from schemas.plan_values import Shape, Value
from tests.plan_examples import tiny, with_step
from tests.test_plan_rules import CASES
from tests.test_plan_rules import shapes as ruled

torch.set_num_threads(1)
LOSSES = {"cross_entropy_loss", "nll_loss", "nll_loss_nd"}
# What is said to be out of reach, by operation: a part of the sentence.
REFUSED = {"adaptive_avg_pool": "values to", "avg_pool": "ceil_mode", "to.dtype": "numbers of type int64"}


def logits(plan: Plan, parameters: Parameters, inputs: tuple[np.ndarray[Any, Any], ...]) -> np.ndarray[Any, Any]:
    arrays = [torch.from_numpy(array.copy()) for array in parameters.arrays().values()]
    count = len(inputs[0])
    with torch.inference_mode():
        program = Program(plan, training=False)
        labels, weights = torch.zeros(count, dtype=torch.int64), torch.ones(len(plan.classes))
        return program(arrays, [torch.from_numpy(array) for array in inputs], labels, weights)[1].numpy()


@pytest.mark.parametrize("name", bundled())
def test_a_bundled_plan_gives_the_same_logits(name: str) -> None:
    """Seen to fail with another epsilon in the group norm, and with a bias left out."""
    file = find(name)
    rng = np.random.default_rng(5)
    fields = {
        key: rng.normal(0, 0.2, array.shape).astype(np.float32) for key, array in file.initial(0).arrays().items()
    }
    parameters = Parameters.from_arrays(fields)
    session = Session(file.plan, parameters)

    @settings(max_examples=6, deadline=None)
    @given(st.integers(1, 300), st.floats(0.01, 10), st.integers(0, 2**32 - 1))
    def same(count: int, scale: float, seed: int) -> None:
        draw = np.random.default_rng(seed)
        inputs = tuple(draw.normal(0, scale, (count, *one.shape)).astype(np.float32) for one in file.plan.inputs)
        expected = logits(file.plan, parameters, inputs)
        np.testing.assert_allclose(session(inputs), expected, rtol=1e-5, atol=1e-5 * max(1, np.abs(expected).max()))

    same()


def shape_of(value: Value) -> Shape:
    assert isinstance(value, Shape)
    return value


def around(name: str, args: tuple[Any, ...]) -> Plan:
    """A plan whose logits come from one step, with its tensors as parameters."""
    shapes: list[tuple[int, ...]] = []

    def reference(argument: Any) -> Any:
        if isinstance(argument, tuple):
            shapes.append(argument)
            return f"%x{len(shapes) - 1}"
        if isinstance(argument, list):
            return tuple(map(reference, argument))
        return "int64" if argument is torch.int64 else argument

    step = {"out": "y", "op": name, "args": tuple(map(reference, args))}
    size = math.prod(shape_of(RULES[name](*map(ruled, args))))
    parameters = tuple(
        {"name": key, "shape": shape, "init": {"kind": "uniform", "bound": 1.0}}
        for key, shape in {**{f"x{place}": shape for place, shape in enumerate(shapes)}, "weights": (size,)}.items()
    )
    rest = (
        {"out": "flat", "op": "reshape", "args": ("%y", (size,))},
        {"out": "weighted", "op": "mul.Tensor", "args": ("%flat", "%weights")},  # no two places count alike
        {"out": "sum", "op": "sum.dim_IntList", "args": ("%weighted", None)},
        {"out": "row", "op": "reshape", "args": ("%sum", (1, 1))},
        {"out": "logits", "op": "mul.Tensor", "args": ("%window", "%row")},
        {"out": "loss", "op": "cross_entropy_loss", "args": ("%logits", "%labels", "%class_weights")},
    )
    return tiny(
        inputs=({"name": "window", "shape": (3,)},), parameters=parameters, operations=(step, *rest), report=("calm",)
    )


@pytest.mark.parametrize(("name", "args"), [(name, args) for name, cases in CASES.items() for args in cases])
def test_an_operation_gives_the_same_values_or_is_refused_by_its_name(name: str, args: tuple[Any, ...]) -> None:
    """Seen to fail with ``after`` and ``before`` of a padding exchanged, and with a slice's step left out."""
    plan = around(name, args)
    rng = np.random.default_rng(3)
    parameters = Parameters.from_arrays(
        {one.name: rng.uniform(0.1, 1, one.shape).astype(np.float32) for one in plan.parameters}
    )
    window = (np.arange(6).reshape(2, 3).astype(np.float32) / np.float32(10),)
    for words in (text for key, text in REFUSED.items() if name.startswith(key) and refused(name, args)):
        with pytest.raises(PlanError, match=rf"step 1 \({re.escape(name)}\) can't be written as ONNX: .*{words}"):
            Session(plan, parameters)
        return
    found = Session(plan, parameters)(window)
    np.testing.assert_allclose(found, logits(plan, parameters, window), rtol=1e-5, atol=1e-5)


def refused(name: str, args: tuple[Any, ...]) -> bool:
    """Whether a case of an operation in ``REFUSED`` is one of those that can't be written."""
    uneven = name.startswith("adaptive") and any(had % want for had, want in zip(args[0][2:], args[1], strict=True))
    return uneven or name == "to.dtype" or (name.startswith("avg_pool") and len(args) > 4 and args[4])


def test_the_batch_stays_open_where_sizes_are_reckoned_with() -> None:
    steps = (
        {"out": "batch", "op": "sym_size.int", "args": ("%window", 0)},
        {"out": "twice", "op": "int.mul", "args": ("%batch", 2)},
        {"out": "less", "op": "int.sub", "args": ("%twice", 1)},
        {"out": "half", "op": "int.floordiv", "args": ("%less", -2)},
        {"out": "again", "op": "int.mul", "args": ("%half", -1)},
        {"out": "rows", "op": "reshape", "args": ("%window", ("%again", 16))},
        {"out": "logits", "op": "slice.Tensor", "args": ("%rows", 1, 0, 3)},
        {"out": "loss", "op": "cross_entropy_loss", "args": ("%logits", "%labels", "%class_weights")},
    )
    plan = tiny(operations=steps)
    parameters = Parameters.from_arrays({p.name: np.zeros(p.shape, np.float32) for p in plan.parameters})
    window = np.random.default_rng(1).normal(size=(5, 2, 8)).astype(np.float32)
    assert np.array_equal(Session(plan, parameters)((window,)), window.reshape(5, 16)[:, :3])


def test_every_operation_but_the_losses_has_its_counterpart() -> None:
    assert set(TABLE) == OPERATIONS - LOSSES


def test_arguments_in_a_form_that_is_not_known_are_refused_by_the_step() -> None:
    """Seen to fail with a ``TypeError``."""
    wrong = Plan.build(**with_step(1, op="leaky_relu", kwargs={"negative_slope": 0.2}))
    parameters = Parameters.from_arrays({p.name: np.zeros(p.shape, np.float32) for p in wrong.parameters})
    with pytest.raises(PlanError, match=r"step 2 \(leaky_relu\) can't be written as ONNX: its arguments"):
        to_onnx(wrong, parameters)


def test_logits_that_need_a_loss_are_refused() -> None:
    plan = tiny()
    parameters = Parameters.from_arrays({p.name: np.zeros(p.shape, np.float32) for p in plan.parameters})
    assert to_onnx(plan, parameters)
    wrong = Plan.build(**with_step(2, op="nll_loss_nd", args=("%relu", "%labels", None, 0)))
    with pytest.raises(PlanError):
        to_onnx(wrong, parameters)
