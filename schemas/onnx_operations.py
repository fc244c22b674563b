"""How each operation of a plan is written in ONNX's. The only such table; see ``plan_onnx``.

A writer takes what the ATen operation takes and ends with ``give``. What it can't say raises ``Unsupported``; the tests
hold each of them to PyTorch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from schemas.onnx_graph import Graph, require
from schemas.onnx_layers import (
    Write,
    adaptive_pool,
    addmm,
    average_pool,
    convolution,
    group_norm,
    layer_norm,
    linear,
    max_pool,
)

_END: Final = 2**63 - 1  # of a slice that goes on to the end
_MODES: Final = {"constant": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}


def _axis(dim: int, rank: int) -> int:
    return dim % rank


def _simple(op: str, **attributes: object) -> Write:
    def write(graph: Graph, x: Any, **_: object) -> None:
        graph.give(op, graph.value(x), **attributes)

    return write


def _same(graph: Graph, x: Any, *_: object, **__: object) -> None:
    graph.give("Identity", graph.value(x))


def _parametric(op: str, name: str, default: float) -> Write:
    def write(graph: Graph, x: Any, value: float = default, *rest: object) -> None:
        require(all(one == 1 for one in rest), f"{op} with a scale")
        graph.give(op, graph.value(x), **{name: float(value)})

    return write


def _gelu(graph: Graph, x: Any, approximate: str = "none") -> None:
    graph.give("Gelu", graph.value(x), approximate=approximate)


def _silu(graph: Graph, x: Any) -> None:
    graph.give("Mul", graph.value(x), graph.node("Sigmoid", graph.value(x)))


def _rsqrt(graph: Graph, x: Any) -> None:
    graph.give("Reciprocal", graph.node("Sqrt", graph.value(x)))


def _softplus(graph: Graph, x: Any, beta: float = 1, threshold: float = 20) -> None:
    require((beta, threshold) == (1, 20), "a softplus of another beta or threshold than 1 and 20")
    graph.give("Softplus", graph.value(x))


def _to_dtype(graph: Graph, x: Any, dtype: str, *_: object, **__: object) -> None:
    require(dtype == "float32", f"numbers of type {dtype}")
    graph.give("Identity", graph.value(x))


def _clamp(graph: Graph, x: Any, low: float | None = None, high: float | None = None) -> None:
    bounds = ["" if bound is None else graph.constant(bound) for bound in (low, high)]
    graph.give("Clip", graph.value(x), *bounds)


def _hardtanh(graph: Graph, x: Any, low: float = -1, high: float = 1) -> None:
    _clamp(graph, x, low, high)


def _power(graph: Graph, x: Any, exponent: float) -> None:
    graph.give("Pow", graph.value(x), graph.constant(exponent))


def _softmax(op: str) -> Write:
    def write(graph: Graph, x: Any, dim: int, *_: object, **__: object) -> None:
        graph.give(op, graph.value(x), axis=dim)

    return write


def _arithmetic(op: str, *, turned: bool = False) -> Write:
    def write(graph: Graph, x: Any, y: Any, alpha: float = 1) -> None:
        a, b = graph.value(x), graph.value(y)
        if turned:  # y - alpha * x
            a, b = b, a
        if alpha != 1:
            b = graph.node("Mul", b, graph.constant(alpha))
        graph.give(op, a, b)

    return write


def _matmul(graph: Graph, x: Any, y: Any) -> None:
    graph.give("MatMul", graph.value(x), graph.value(y))


def _reduce(op: str) -> Write:
    def write(graph: Graph, x: Any, dims: Any = None, keepdim: bool = False, **_: object) -> None:  # noqa: FBT001, FBT002
        axes = dims or range(len(graph.shape(x)))
        graph.give(op, graph.value(x), graph.whole(list(axes)), keepdims=int(keepdim))

    return write


def _glu(graph: Graph, x: Any, dim: int = -1) -> None:
    half = graph.shape(x)[dim] // 2
    axis, middle = graph.whole(dim), graph.whole(half)
    left = graph.node("Slice", graph.value(x), graph.whole(0), middle, axis)
    right = graph.node("Slice", graph.value(x), middle, graph.whole(2 * half), axis)
    graph.give("Mul", left, graph.node("Sigmoid", right))


def _flatten(graph: Graph, x: Any, first: int = 0, last: int = -1) -> None:
    shape = graph.shape(x)
    start, end = _axis(first, len(shape)), _axis(last, len(shape))
    graph.give("Reshape", graph.value(x), graph.whole([*(0 for _ in shape[:start]), -1, *shape[end + 1 :]]))


def _reshape(graph: Graph, x: Any, sizes: Any) -> None:
    graph.give("Reshape", graph.value(x), graph.whole(sizes))


def _permute(graph: Graph, x: Any, dims: Sequence[int]) -> None:
    rank = len(graph.shape(x))
    graph.give("Transpose", graph.value(x), perm=[_axis(dim, rank) for dim in dims])


def _transpose(graph: Graph, x: Any, first: int = 0, second: int = 1) -> None:
    order = list(range(len(graph.shape(x))))
    order[first], order[second] = order[second], order[first]
    graph.give("Transpose", graph.value(x), perm=order)


def _unsqueeze(graph: Graph, x: Any, dim: int) -> None:
    graph.give("Unsqueeze", graph.value(x), graph.whole(dim))


def _squeeze(graph: Graph, x: Any, dims: Any) -> None:
    shape = graph.shape(x)
    axes = {_axis(dim, len(shape)) for dim in (dims if isinstance(dims, Sequence) else [dims])}
    gone = sorted(axis for axis in axes if shape[axis] == 1)
    if gone:
        graph.give("Squeeze", graph.value(x), graph.whole(gone))
    else:
        graph.give("Identity", graph.value(x))


def _expand(graph: Graph, x: Any, sizes: Any, **_: object) -> None:
    graph.give("Expand", graph.value(x), graph.whole([1 if size == -1 else size for size in sizes]))


def _slice(graph: Graph, x: Any, dim: int = 0, start: Any = None, end: Any = None, step: int = 1) -> None:
    bounds = [graph.number(0 if start is None else start), graph.number(_END if end is None else end)]
    graph.give("Slice", graph.value(x), *bounds, graph.whole(dim), graph.whole(step))


def _select(graph: Graph, x: Any, dim: int, index: Any) -> None:
    chosen = graph.node("Squeeze", graph.number(index), graph.whole(0))
    graph.give("Gather", graph.value(x), chosen, axis=dim)


def _cat(graph: Graph, items: Sequence[Any], dim: int = 0) -> None:
    graph.give("Concat", *map(graph.value, items), axis=dim)


def _stack(graph: Graph, items: Sequence[Any], dim: int = 0) -> None:
    axis = _axis(dim, len(graph.shape(items[0])) + 1)
    graph.give("Concat", *(graph.node("Unsqueeze", graph.value(x), graph.whole(axis)) for x in items), axis=axis)


def _pad(graph: Graph, x: Any, pads: Sequence[int], mode: str = "constant", value: float | None = None) -> None:
    rank = len(graph.shape(x))
    before, after = [0] * rank, [0] * rank
    for number, (left, right) in enumerate(zip(pads[::2], pads[1::2], strict=True), 1):
        before[-number], after[-number] = left, right
    require(mode in _MODES, f"padding of the mode {mode}")
    graph.give("Pad", graph.value(x), graph.whole(before + after), graph.constant(value or 0.0), mode=_MODES[mode])


def _constant_pad(graph: Graph, x: Any, pads: Sequence[int], value: float = 0.0) -> None:
    _pad(graph, x, pads, "constant", value)


def _size(graph: Graph, x: Any, dim: int) -> None:
    start = _axis(dim, len(graph.shape(x)))
    graph.give("Shape", graph.value(x), start=start, end=start + 1)


def _whole(op: str) -> Write:
    def write(graph: Graph, x: Any, y: Any) -> None:
        graph.give(op, graph.number(x), graph.number(y))

    return write


def _floor_divide(graph: Graph, x: Any, y: Any) -> None:
    """ONNX rounds a quotient to 0, and its remainder has the divisor's sign: without that it divides evenly."""
    a, b = graph.number(x), graph.number(y)
    graph.give("Div", graph.node("Sub", a, graph.node("Mod", a, b)), b)


TABLE: Final[dict[str, Write]] = {
    "relu": _simple("Relu"),
    "tanh": _simple("Tanh"),
    "sigmoid": _simple("Sigmoid"),
    "exp": _simple("Exp"),
    "log": _simple("Log"),
    "sqrt": _simple("Sqrt"),
    "abs": _simple("Abs"),
    "neg": _simple("Neg"),
    "reciprocal": _simple("Reciprocal"),
    "hardswish": _simple("HardSwish"),
    "hardsigmoid": _simple("HardSigmoid", alpha=1 / 6, beta=0.5),
    "leaky_relu": _parametric("LeakyRelu", "alpha", 0.01),
    "elu": _parametric("Elu", "alpha", 1.0),
    "gelu": _gelu,
    "silu": _silu,
    "rsqrt": _rsqrt,
    "softplus": _softplus,
    "hardtanh": _hardtanh,
    "clamp": _clamp,
    "pow.Tensor_Scalar": _power,
    "to.dtype": _to_dtype,
    **dict.fromkeys(("dropout", "clone", "contiguous"), _same),
    **dict.fromkeys(("softmax.int", "_softmax"), _softmax("Softmax")),
    **dict.fromkeys(("log_softmax.int", "_log_softmax"), _softmax("LogSoftmax")),
    "add.Tensor": _arithmetic("Add"),
    "sub.Tensor": _arithmetic("Sub"),
    "mul.Tensor": _arithmetic("Mul"),
    "div.Tensor": _arithmetic("Div"),
    "maximum": _arithmetic("Max"),
    "minimum": _arithmetic("Min"),
    "rsub.Scalar": _arithmetic("Sub", turned=True),
    **dict.fromkeys(("conv1d", "conv1d.padding"), convolution(1)),
    **dict.fromkeys(("conv2d", "conv2d.padding"), convolution(2)),
    "max_pool1d": max_pool(1),
    "max_pool2d": max_pool(2),
    "avg_pool1d": average_pool(1),
    "avg_pool2d": average_pool(2),
    "adaptive_avg_pool1d": adaptive_pool(1),
    "adaptive_avg_pool2d": adaptive_pool(2),
    "mean.dim": _reduce("ReduceMean"),
    "sum.dim_IntList": _reduce("ReduceSum"),
    "amax": _reduce("ReduceMax"),
    "amin": _reduce("ReduceMin"),
    "linear": linear,
    "addmm": addmm,
    **dict.fromkeys(("matmul", "mm", "bmm"), _matmul),
    "group_norm": group_norm,
    "layer_norm": layer_norm,
    "glu": _glu,
    "flatten.using_ints": _flatten,
    "reshape": _reshape,
    "permute": _permute,
    **dict.fromkeys(("transpose.int", "t"), _transpose),
    "unsqueeze": _unsqueeze,
    **dict.fromkeys(("squeeze.dim", "squeeze.dims"), _squeeze),
    "expand": _expand,
    "slice.Tensor": _slice,
    "select.int": _select,
    "cat": _cat,
    "stack": _stack,
    "pad": _pad,
    "constant_pad_nd": _constant_pad,
    "sym_size.int": _size,
    "int.add": _whole("Add"),
    "int.sub": _whole("Sub"),
    "int.mul": _whole("Mul"),
    "int.floordiv": _floor_divide,
}
