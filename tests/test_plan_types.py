"""Which operations take floats and which whole numbers, held against torch for every operation and every mixture."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from edge.training.plan_runtime import TABLE, Program
from edge.training.stacked_operations import OPERATIONS as STACKED
from schemas.errors import PlanError
from schemas.plan_file import PlanFile
from schemas.plan_rules import OPERATIONS
from schemas.plan_shapes import infer
from schemas.plan_types import TYPES, Kind
from tests.plan_examples import fields, tiny, windows
from tests.test_plan_rules import CASES as SHAPES
from tests.test_plan_rules import X

LOSSES = ("cross_entropy_loss", "nll_loss", "nll_loss_nd")
CASES: dict[str, list[tuple[Any, ...]]] = {
    **SHAPES,
    **{name: [((5, 3), (5,), (3,)), ((5, 3), (5,))] for name in LOSSES},
    "sub.Tensor": [(X, X), (X, 2), (X, 0.5)],
    "add.Tensor": [(X, X), (X, 2), (X, 0.5)],
    "mul.Tensor": [(X, X), (X, 2), (X, 0.5), (2, X)],
    "rsub.Scalar": [(X, 1.0), (X, 1), (X, 1, 0.5), (X, 1.0, 0.5)],
    "pow.Tensor_Scalar": [(X, 2), (X, -1), (X, 0.5), (X, -1.0)],
    "clamp": [(X, 0, 1), (X, 0.0), (X, None, 1), (X, 0, 2.5)],
    "hardtanh": [(X,), (X, -0.5, 0.5)],
    "pad": [(X, [1, 1], mode) for mode in ("constant", "reflect", "replicate")],
    "to.dtype": [(X, torch.int64), (X, torch.float32)],
    "softmax.int": [(X, 1), (X, 1, torch.float32), (X, 1, torch.int64)],
    "log_softmax.int": [(X, 1), (X, 1, torch.float32), (X, 1, torch.int64)],
}
NAMED: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = [
    *(
        (name, (X, other), {"alpha": alpha})
        for name in ("add.Tensor", "sub.Tensor")
        for other in (X, 2, 0.5)
        for alpha in (2, 0.5)
    ),
    *(
        (name, (X, [1]), {"dtype": dtype})
        for name in ("sum.dim_IntList", "mean.dim")
        for dtype in (torch.float32, torch.int64)
    ),
    ("gelu", (X,), {"approximate": "tanh"}),
    *(("rsub.Scalar", (X,), {"other": other, "alpha": alpha}) for other in (1, 0.5) for alpha in (2, 0.5)),
    *(("clamp", (X,), {"min": low}) for low in (0, 0.5)),
    *(("pow.Tensor_Scalar", (X,), {"exponent": power}) for power in (2, -1, 0.5)),
    ("linear", (X, (5, 6)), {"bias": (5,)}),
]
# torch multiplies and pools whole numbers too, on some machines and in some windows, and sums inputs into them.
STRICTER = {
    name
    for name in OPERATIONS
    if name.startswith(("conv", "linear", "addmm", "matmul", "mm", "bmm", "max_pool", "avg_pool"))
} | {"sum.dim_IntList", "dropout"}


def filled(argument: Any, kinds: Iterator[Kind]) -> Any:
    """A tensor of the next kind for each shape."""
    if isinstance(argument, list):
        return [filled(item, kinds) for item in argument]
    if not isinstance(argument, tuple):
        return argument
    return torch.rand(argument) if next(kinds) is Kind.FLOAT else torch.ones(argument, dtype=torch.int64)


def ruled(argument: Any) -> Any:
    """What a rule sees of it."""
    if isinstance(argument, list):
        return [ruled(item) for item in argument]
    if isinstance(argument, Tensor):
        return Kind(str(argument.dtype).removeprefix("torch."))
    return str(argument).removeprefix("torch.") if isinstance(argument, torch.dtype) else argument


def learning(argument: Any) -> Any:
    """The same with floats of which there is a gradient."""
    if isinstance(argument, list):
        return [learning(item) for item in argument]
    floats = isinstance(argument, Tensor) and argument.is_floating_point()
    return argument.clone().requires_grad_() if floats else argument


def stacked(argument: Any) -> Any:
    if isinstance(argument, list):
        return [stacked(item) for item in argument]
    return torch.stack([argument, argument]) if isinstance(argument, Tensor) else argument


def in_torch(name: str, args: list[Any], named: dict[str, Any]) -> Kind | None:
    """What torch gives in evaluation, in training and for a stack of devices; None where it refuses in any of them."""
    class_weights = args[2:] if name in LOSSES else []  # which nothing learns
    given = learning(args[: len(args) - len(class_weights)]) + class_weights
    try:
        with torch.inference_mode():
            found = {TABLE[name](*args, **named).dtype}
        result = TABLE[name](*given, **{key: learning(value) for key, value in named.items()})
        if result.requires_grad:
            result.sum().backward()
        found.add(result.dtype)
        if name != "dropout":  # which comes from outside in a stack
            found.add(STACKED[name](*map(stacked, args), **{key: stacked(each) for key, each in named.items()}).dtype)
    except (RuntimeError, TypeError):
        return None
    (dtype,) = found
    return Kind(str(dtype).removeprefix("torch."))


def by_rule(name: str, args: list[Any], named: dict[str, Any]) -> Kind | None:
    try:
        return TYPES[name](*map(ruled, args), **{key: ruled(value) for key, value in named.items()})
    except ValueError:
        return None


def shapes_in(argument: Any) -> int:
    return sum(map(shapes_in, argument)) if isinstance(argument, list) else int(isinstance(argument, tuple))


def mixtures() -> Iterator[tuple[str, tuple[Any, ...], dict[str, Any], tuple[Kind, ...]]]:
    nothing: dict[str, Any] = {}
    plain = ((name, args, nothing) for name, cases in CASES.items() for args in cases)
    for name, args, named in (*plain, *NAMED):
        for kinds in itertools.product(Kind, repeat=shapes_in([*args, *named.values()])):
            yield name, args, named, kinds


@pytest.mark.parametrize("name", sorted(set(CASES)))
def test_a_rule_says_of_every_mixture_of_kinds_what_torch_does(name: str) -> None:
    for case, args, named, kinds in mixtures():
        if case != name:
            continue
        left = iter(kinds)
        given = [filled(argument, left) for argument in args]
        by_name = {key: filled(argument, left) for key, argument in named.items()}
        told, done = by_rule(name, given, by_name), in_torch(name, given, by_name)
        refused = told is None and (Kind.WHOLE in kinds or torch.int64 in named.values())
        assert told == done or (refused and name in STRICTER), (args, named, kinds)


def test_every_operation_that_gives_a_tensor_has_a_rule() -> None:
    assert set(TYPES) == OPERATIONS - {"sym_size.int", "int.add", "int.sub", "int.mul", "int.floordiv"}


@pytest.mark.parametrize(
    ("op", "args", "says"),
    [
        ("linear", ("%ones", "%out.weight"), "linear.* its input holds whole numbers"),
        ("linear", ("%mean", "%whole"), "linear.* its weight holds whole numbers"),
        ("softmax.int", ("%labels", 0), "softmax.int.* its self holds whole numbers"),
        ("gelu", ("%labels",), "gelu.* must hold floats: cast it before"),
        ("layer_norm", ("%ones", (4,)), "layer_norm.* its input holds whole numbers"),
        ("group_norm", ("%relu", 2, "%four"), "group_norm.* its weight holds whole numbers"),
        ("mean.dim", ("%labels", (0,)), "mean.dim.* its self holds whole numbers"),
        ("pow.Tensor_Scalar", ("%labels", -1), "no negative powers"),
        ("cross_entropy_loss", ("%logits", "%floats"), "its target holds floats"),
    ],
)
def test_a_plan_that_feeds_whole_numbers_where_floats_belong_is_refused(
    op: str, args: tuple[Any, ...], says: str
) -> None:
    *steps, loss = fields()["operations"]
    casts = (
        {"out": "whole", "op": "to.dtype", "args": ("%out.weight", "int64")},
        {"out": "four", "op": "to.dtype", "args": ("%conv.bias", "int64")},
        {"out": "floats", "op": "to.dtype", "args": ("%labels", "float32")},
        {"out": "column", "op": "unsqueeze", "args": ("%labels", 1)},
        {"out": "ones", "op": "expand", "args": ("%column", (-1, 4))},
    )
    with pytest.raises(PlanError, match=says):
        infer(tiny(operations=(*steps, *casts, {"out": "wrong", "op": op, "args": args}, loss)), 5)


@pytest.mark.parametrize("output", ["loss", "logits"])
def test_what_a_plan_gives_must_be_floats(output: str) -> None:
    last = {"out": "whole", "op": "to.dtype", "args": (f"%{output}", "int64")}
    with pytest.raises(PlanError, match=rf"the {output} 'whole' must hold floats"):
        infer(tiny(operations=(*fields()["operations"], last), **{output: "whole"}), 5)


UNARY = "relu gelu silu tanh neg elu softplus sigmoid hardtanh hardswish"
STEPS: list[tuple[str, tuple[Any, ...]]] = [
    *((name, ()) for name in UNARY.split()),
    ("to.dtype", ("float32",)),
    ("to.dtype", ("int64",)),
    ("mul.Tensor", (2,)),
    ("mul.Tensor", (0.5,)),
    ("add.Tensor", ("%class_weights",)),
    ("clamp", (0,)),
    ("clamp", (0.5,)),
    ("softmax.int", (1,)),
    ("layer_norm", ((3,),)),
    ("group_norm", (3,)),
    ("linear", ("%square",)),
    ("maximum", ("%labels_column",)),
]


@settings(max_examples=80, deadline=None)
@given(st.lists(st.sampled_from(STEPS), max_size=4))
def test_a_plan_is_refused_where_its_first_training_step_would_fail(chain: list[tuple[str, tuple[Any, ...]]]) -> None:
    """What is made of the labels by a chain of steps is added to the logits."""
    *steps, loss = fields()["operations"]
    steps += [
        {"out": "labels_column", "op": "unsqueeze", "args": ("%labels", 1)},
        {"out": "square", "op": "matmul", "args": ("%out.weight", "%turned")},
        {"out": "made0", "op": "expand", "args": ("%labels_column", (-1, 3))},
    ]
    steps.insert(-2, {"out": "turned", "op": "t", "args": ("%out.weight",)})
    for number, (op, args) in enumerate(chain):
        steps.append({"out": f"made{number + 1}", "op": op, "args": (f"%made{number}", *args)})
    steps.append({"out": "sum", "op": "add.Tensor", "args": ("%logits", f"%made{len(chain)}")})
    plan = tiny(operations=(*steps, {**loss, "args": ("%sum", "%labels", "%class_weights")}), logits="sum")
    data = windows(6)
    values = [
        torch.from_numpy(array.copy()).requires_grad_() for array in PlanFile(plan, {}).initial(0).arrays().values()
    ]
    inputs = [torch.from_numpy(array) for array in data.inputs]
    try:
        Program(plan, training=True)(values, inputs, torch.from_numpy(data.labels), torch.ones(3))[0].backward()  # type: ignore[no-untyped-call]  # torch's typing
    except RuntimeError:
        with pytest.raises(PlanError, match="whole numbers"):
            infer(plan, 6)
    else:
        infer(plan, 6)
