from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from edge.training.plan_runtime import TABLE
from schemas.plan_rules import OPERATIONS, RULES
from schemas.plan_values import Shape

X = (2, 4, 6)
IMAGE = (2, 4, 6, 5)
CASES: dict[str, list[tuple[Any, ...]]] = {
    "conv1d": [(X, (6, 4, 3), (6,), [1], [1]), (X, (4, 2, 3), None, [2], [0], [2], 2), (X, (6, 4, 3))],
    "conv1d.padding": [(X, (6, 4, 3), (6,), [1], "same"), (X, (6, 4, 3), None, [2], "valid")],
    "conv2d": [
        (IMAGE, (6, 4, 3, 2), (6,), [2, 1], [1, 0], [1, 2]),
        (IMAGE, (6, 4, 3, 2), (6,), [1], [1], [1]),
        (IMAGE, (6, 4, 3, 2)),
    ],
    "conv2d.padding": [(IMAGE, (6, 4, 3, 2), None, [1, 1], "same"), (IMAGE, (6, 4, 3, 2), (6,), [1, 1], "valid")],
    "linear": [(X, (5, 6), (5,)), ((2, 6), (5, 6)), ((6,), (5, 6))],
    "addmm": [((5,), (2, 6), (6, 5)), ((2, 5), (2, 6), (6, 5))],
    "matmul": [(X, (2, 6, 3)), (X, (6, 3)), ((2, 6), (6, 3)), ((3, 1, 4, 6), (*X[:1], 6, 2))],
    "mm": [((2, 6), (6, 3))],
    "bmm": [(X, (2, 6, 3))],
    "group_norm": [(X, 2, (4,), (4,), 1e-5, False), (X, 4)],
    "layer_norm": [(X, [6], (6,), (6,), 1e-5, False), (X, [4, 6])],
    "max_pool1d": [(X, [2], [2]), (X, [3], [2], [1], [1], True), (X, [2], [1], [0], [2]), ((4, 6), [2])],
    "max_pool2d": [(IMAGE, [2, 2]), (IMAGE, [3, 2], [2, 1], [1, 1], [1, 1], True), (IMAGE, [2])],
    "avg_pool1d": [(X, [2], [2]), (X, [4], [3], [1], True, False)],
    "avg_pool2d": [(IMAGE, [2, 2]), (IMAGE, [3, 2], [2, 1], [1, 0], True)],
    "adaptive_avg_pool1d": [(X, [1]), (X, [3])],
    "adaptive_avg_pool2d": [(IMAGE, [1, 1]), (IMAGE, [3, 2])],
    "mean.dim": [(X, [2]), (X, [1, -1], True), (X, None)],
    "sum.dim_IntList": [(X, [2]), (X, [0], True), (X, None)],
    "amax": [(X, [2]), (X, [-1], True), (X,)],
    "amin": [(X, [1])],
    "glu": [(X, 1), (X,)],
    "flatten.using_ints": [(X, 1), (X, 0, 1), (IMAGE, 1, 2), (X,)],
    "reshape": [(X, [2, 24]), (X, [-1, 6]), (X, [2, 2, 2, 6]), (X, [2, -1]), (X, [48])],
    "permute": [(X, [0, 2, 1]), (X, [-1, 0, 1])],
    "transpose.int": [(X, 1, 2), (X, -1, 0)],
    "t": [((2, 6),)],
    "unsqueeze": [(X, 1), (X, -1), (X, 0)],
    "squeeze.dim": [((2, 1, 3), 1), (X, 1)],
    "squeeze.dims": [((2, 1, 1), [1, -1]), (X, [0])],
    "expand": [((2, 1, 6), [2, 4, 6]), ((1, 6), [3, -1, 6])],
    "slice.Tensor": [(X, 2, 1, 5), (X, 2, 0, 2**63 - 1, 2), (X, 1, -2, 2**63 - 1), (X,)],
    "select.int": [(X, 1, 0), (X, -1, -1)],
    "cat": [([X, X], 1), ([X, (2, 1, 6), X], -2), ([X],)],
    "stack": [([X, X], 1), ([X, X], -1), ([X],)],
    "pad": [(X, [1, 2]), (X, [1, 2, 0, 3], "constant", 0.5), (X, [2, 1], "reflect"), (X, [2, 1], "replicate")],
    "constant_pad_nd": [(X, [1, 1]), (X, [-1, 0, 2, 2], 1.0)],
    "add.Tensor": [(X, X), (X, (4, 1)), (X, 1), ((6,), X)],
    "sub.Tensor": [(X, (6,)), (X, 0.5)],
    "mul.Tensor": [(X, (2, 1, 1)), (X, 2)],
    "div.Tensor": [(X, X), (X, 2)],
    "maximum": [(X, (6,))],
    "minimum": [(X, X)],
    "rsub.Scalar": [(X, 1.0)],
    "pow.Tensor_Scalar": [(X, 2)],
    "clamp": [(X, 0.0, 1.0)],
    "dropout": [(X, 0.5, True)],
    "to.dtype": [(X, torch.int64)],
    "softmax.int": [(X, 1)],
    "log_softmax.int": [(X, -1)],
    "_softmax": [(X, 1, False)],
    "_log_softmax": [(X, 1, False)],
}
UNARY = (
    "relu leaky_relu elu gelu silu tanh sigmoid hardtanh hardswish hardsigmoid softplus exp log sqrt rsqrt abs neg "
    "reciprocal clone contiguous"
)
CASES |= {name: [(X,)] for name in UNARY.split()}


def tensors(argument: Any) -> Any:
    """Shapes become tensors."""
    if isinstance(argument, list):
        return [tensors(item) for item in argument]
    return torch.rand(argument) if isinstance(argument, tuple) else argument


def shapes(argument: Any) -> Any:
    if isinstance(argument, list):
        return [shapes(item) for item in argument]
    if isinstance(argument, torch.dtype):
        return str(argument).removeprefix("torch.")
    return Shape(argument) if isinstance(argument, tuple) else argument


@pytest.mark.parametrize(("name", "args"), [(name, args) for name, cases in CASES.items() for args in cases])
def test_a_rule_gives_the_shape_that_torch_gives(name: str, args: tuple[Any, ...]) -> None:
    result = TABLE[name](*(tensors(argument) for argument in args))
    assert RULES[name](*(shapes(argument) for argument in args)) == Shape(result.shape)


@pytest.mark.parametrize("name", ["cross_entropy_loss", "nll_loss", "nll_loss_nd"])
@pytest.mark.parametrize("reduction", [0, 1, 2])
def test_a_loss_is_one_number_or_one_an_example(name: str, reduction: int) -> None:
    result = TABLE[name](torch.rand(5, 3), torch.tensor([0, 1, 2, 1, 0]), torch.ones(3), reduction)
    assert RULES[name](Shape((5, 3)), Shape((5,)), Shape((3,)), reduction) == Shape(result.shape)


def test_whole_numbers_are_computed() -> None:
    assert RULES["sym_size.int"](Shape(X), -1) == TABLE["sym_size.int"](torch.rand(X), -1) == 6
    for name in ("int.add", "int.sub", "int.mul", "int.floordiv"):
        assert RULES[name](7, 3) == TABLE[name](7, 3)


def test_every_operation_is_held_against_torch() -> None:
    elsewhere = {name for name in OPERATIONS if name.startswith("int.")}
    elsewhere |= {"sym_size.int", "cross_entropy_loss", "nll_loss", "nll_loss_nd"}
    assert set(CASES) | elsewhere == OPERATIONS


OWN = {"dropout", "max_pool1d", "max_pool2d", "sym_size.int"}  # written over ATen's; tests of their own hold them to it


def test_every_operation_exists_and_none_writes_in_place() -> None:
    for name, run in TABLE.items():
        schema = getattr(run, "_schema", None)
        assert name.startswith("int.") or name in OWN or (schema is not None and not schema.is_mutable), name


def agree(name: str, args: list[Any]) -> None:
    """Where torch runs the operation, the rule gives its shape; what torch refuses is its own affair."""
    run: Callable[..., Tensor] = TABLE[name]
    try:
        expected = tuple(run(*(tensors(argument) for argument in args)).shape)
    except (RuntimeError, IndexError, ValueError):
        return
    assert RULES[name](*(shapes(argument) for argument in args)) == expected


SMALL = st.integers(1, 9)


@settings(max_examples=60, deadline=None)
@given(SMALL, st.integers(1, 5), st.integers(1, 4), st.integers(0, 3), st.integers(1, 3), st.booleans())
def test_pooling_gives_the_shape_that_torch_gives(
    size: int,
    kernel: int,
    stride: int,
    padding: int,
    dilation: int,
    ceil_mode: bool,  # noqa: FBT001  - likewise
) -> None:
    agree("max_pool1d", [(1, 2, size), [kernel], [stride], [padding], [dilation], ceil_mode])
    agree("avg_pool1d", [(1, 2, size), [kernel], [stride], [padding], ceil_mode])


@settings(max_examples=60, deadline=None)
@given(SMALL, st.integers(1, 5), st.integers(1, 4), st.integers(0, 3), st.integers(1, 3), st.sampled_from([1, 2]))
def test_convolution_gives_the_shape_that_torch_gives(
    size: int, kernel: int, stride: int, padding: int, dilation: int, groups: int
) -> None:
    agree("conv1d", [(1, 4, size), (2, 4 // groups, kernel), None, [stride], [padding], [dilation], groups])


@pytest.mark.parametrize("rank", range(1, 7))
@pytest.mark.parametrize("mode", ["constant", "reflect", "replicate", "same"])
@pytest.mark.parametrize("value", [None, 0.5])
def test_pads_are_refused_exactly_where_torch_refuses_them(rank: int, mode: str, value: float | None) -> None:
    for pads in ([1] * count for count in range(15)):
        for before in (1, 2, 3, -1):  # of a dimension of 3
            given = [before, *pads[1:]]
            try:
                expected = tuple(TABLE["pad"](torch.rand([3] * rank), given, mode, value).shape)
            except (RuntimeError, IndexError):
                with pytest.raises(ValueError, match="pad"):
                    RULES["pad"](Shape([3] * rank), given, mode, value)
            else:
                assert RULES["pad"](Shape([3] * rank), given, mode, value) == expected


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 3), min_size=1, max_size=4), st.integers(-5, 5), st.integers(-4, 4), st.integers(1, 3))
def test_slicing_and_turning_give_the_shape_that_torch_gives(sizes: list[int], start: int, dim: int, step: int) -> None:
    for name, args in {
        "slice.Tensor": [dim, start, 2**63 - 1, step],
        "select.int": [dim, start],
        "unsqueeze": [dim],
        "squeeze.dim": [dim],
        "flatten.using_ints": [dim],
        "transpose.int": [dim, 0],
        "softmax.int": [dim],
    }.items():
        try:
            TABLE[name](torch.rand(sizes), *args)
        except (RuntimeError, IndexError):
            continue
        agree(name, [tuple(sizes), *args])


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("conv1d", ((2, 3, 6), (6, 4, 3))),
        ("conv1d", (X, (6, 4, 3), (5,))),
        ("conv1d", (X, (6, 4, 3), None, [0])),
        ("conv1d", (X, (6, 4, 3), None, [1], [-3])),
        ("conv1d", (X, (6, 4, 3), None, [1], [0], [1], 0)),
        ("conv1d", (X, [6, 4, 3])),
        ("linear", (X, (5, 7))),
        ("linear", (X, (5, 7, 6))),
        ("t", (X,)),
        ("mm", (X, (2, 6, 5))),
        ("addmm", ((5,), X, (2, 6, 5))),
        ("matmul", (X, (5, 2))),
        ("matmul", (X, 3)),
        ("bmm", (X, (3, 6, 2))),
        ("bmm", ((2, 3, 4, 6), (2, 3, 6, 5))),
        ("add.Tensor", (X, (5,))),
        ("group_norm", (X, 3)),
        ("group_norm", (X, 2, (5,))),
        ("layer_norm", (X, [5])),
        ("max_pool1d", (X, [7])),
        ("max_pool1d", (X, [2], [0])),
        ("max_pool1d", (X, [2, 2])),
        ("max_pool1d", (X, [2.0])),
        ("conv1d", (X, (6, 4, 3), None, [1.0])),
        ("max_pool2d", (IMAGE, [2, 2], [1, 1, 1])),
        ("avg_pool2d", (IMAGE, [2, 2, 2])),
        ("max_pool1d", (X, [2], [1], [2])),
        ("reshape", (X, [5, -1])),
        ("reshape", (X, [-1, -1])),
        ("reshape", (X, [7])),
        ("expand", (X, [2, 5, 6])),
        ("permute", (X, [0, 1])),
        ("permute", (X, [0, 1, 1])),
        ("select.int", (X, 1, 4)),
        ("transpose.int", (X, 0, 3)),
        ("cat", ([X, (2, 4, 5)], 1)),
        ("cat", ([], 1)),
        ("stack", ([X, (2, 4, 5)],)),
        ("pad", (X, [1])),
        ("pad", (X, [6, 0], "reflect")),
        ("glu", ((*X[:2], 5),)),
        ("slice.Tensor", (X, 0, 0, 1, 0)),
        ("cross_entropy_loss", ((5, 3), (4,))),
        ("cross_entropy_loss", ((5, 3), (5,), (2,))),
        ("int.add", (X, 1)),
        ("int.mul", (2**39, 2**39)),
        ("relu", ([2, 3],)),
        ("adaptive_avg_pool2d", (IMAGE, [2])),
        ("mean.dim", (X, 0)),  # torch takes it for the first, and a rule that takes it for none gives another shape
        ("amax", (X, False)),
        ("sum.dim_IntList", (X, [1], ())),
        ("max_pool1d", (X, [4], [4], [0], [1], ())),
        ("avg_pool1d", (X, [4], [4], [0], ())),
        ("cross_entropy_loss", ((5, 3), (5,), (3,), ())),
        ("to.dtype", (X, -1)),
        ("to.dtype", (X, 11)),
        ("to.dtype", (X, "float64")),
        ("to.dtype", (X, torch.int64, False, False, 4)),
        ("clone", (X, 4)),
        ("contiguous", (X, 3)),
        ("softmax.int", (X, 1, 7)),
        ("softmax.int", (X, 3)),
        ("_softmax", (X, 1, True)),
    ],
)
def test_what_does_not_fit_is_refused(name: str, args: tuple[Any, ...]) -> None:
    with pytest.raises((ValueError, TypeError, IndexError)):
        RULES[name](*(shapes(argument) for argument in args))


@pytest.mark.parametrize(
    ("name", "args", "named"),
    [
        ("sum.dim_IntList", ([1],), {"dtype": -1}),
        ("mean.dim", ([1],), {"dtype": 7}),
        ("clone", (), {"memory_format": 4}),
        ("to.dtype", ("float32",), {"memory_format": 4}),
    ],
)
def test_a_number_is_no_data_type_nor_memory_format(name: str, args: tuple[Any, ...], named: dict[str, int]) -> None:
    """Some numbers would end the process, and others make values of twice the bytes that the cost is told in."""
    with pytest.raises((ValueError, TypeError)):
        RULES[name](Shape(X), *args, **named)
    assert RULES["mean.dim"](Shape(X), [1], dtype="float32") == (X[0], X[2])
    assert RULES["to.dtype"](Shape(X), "int64", copy=True) == X
