"""Convolutions, poolings, norms and matrices with a bias, in ONNX's operations; see ``onnx_operations``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from schemas.onnx_graph import Graph, require

Write = Callable[..., None]


def _each(value: Sequence[int] | int, count: int) -> list[int]:
    items = list(value) if isinstance(value, Sequence) else [value]
    return items * count if len(items) == 1 else items


def convolution(rank: int) -> Write:
    """``conv1d`` and ``conv2d``."""

    def write(
        graph: Graph,
        x: Any,
        weight: Any,
        bias: Any = None,
        stride: Any = (1,),
        padding: Any = (0,),
        dilation: Any = (1,),
        groups: int = 1,
    ) -> None:
        dilations = _each(dilation, rank)
        if isinstance(padding, str):
            kernel = graph.shape(weight)[2:]
            spare = [d * (k - 1) if padding == "same" else 0 for k, d in zip(kernel, dilations, strict=True)]
            before, after = [total // 2 for total in spare], [total - total // 2 for total in spare]
        else:
            before = after = _each(padding, rank)
        inputs = [graph.value(one) for one in (x, weight, bias) if one is not None]
        strides = _each(stride, rank)
        graph.give("Conv", *inputs, strides=strides, pads=before + after, dilations=dilations, group=groups)

    return write


def _pooled(graph: Graph, x: Any, rank: int, op: str, **attributes: Any) -> None:
    """A pooling; ONNX's wants a batch and channels before the ``rank`` dimensions."""
    shape = graph.shape(x)
    if len(shape) == rank + 2:
        graph.give(op, graph.value(x), **attributes)
        return
    zero = graph.whole(0)
    pooled = graph.node(op, graph.node("Unsqueeze", graph.value(x), zero), **attributes)
    graph.give("Squeeze", pooled, zero)


def max_pool(rank: int) -> Write:
    """``max_pool1d`` and ``max_pool2d``."""

    def write(
        graph: Graph,
        x: Any,
        kernel: Any,
        stride: Any = (),
        padding: Any = (0,),
        dilation: Any = (1,),
        ceil_mode: bool = False,  # noqa: FBT001, FBT002  - ATen's
    ) -> None:
        about = _windows(rank, kernel, stride, padding, ceil_mode=ceil_mode)
        _pooled(graph, x, rank, "MaxPool", dilations=_each(dilation, rank), **about)

    return write


def average_pool(rank: int) -> Write:
    """``avg_pool1d`` and ``avg_pool2d``."""

    def write(
        graph: Graph,
        x: Any,
        kernel: Any,
        stride: Any = (),
        padding: Any = (0,),
        ceil_mode: bool = False,  # noqa: FBT001, FBT002  - likewise
        count_padding: bool = True,  # noqa: FBT001, FBT002  - likewise
        divisor: int | None = None,
    ) -> None:
        require(divisor is None, "an average pooling with a divisor of its own")
        require(not ceil_mode, "an average pooling with ceil_mode")
        about = _windows(rank, kernel, stride, padding, ceil_mode=False)
        _pooled(graph, x, rank, "AveragePool", count_include_pad=int(count_padding), **about)

    return write


def _windows(rank: int, kernel: Any, stride: Any, padding: Any, *, ceil_mode: bool) -> dict[str, Any]:
    return {
        "kernel_shape": _each(kernel, rank),
        "strides": _each(stride or kernel, rank),
        "pads": _each(padding, rank) * 2,
        "ceil_mode": int(ceil_mode),
    }


def adaptive_pool(rank: int) -> Write:
    """``adaptive_avg_pool1d`` and ``adaptive_avg_pool2d``, to a size that divides evenly."""

    def write(graph: Graph, x: Any, size: Any) -> None:
        given, wanted = graph.shape(x)[-rank:], _each(size, rank)
        pairs = list(zip(given, wanted, strict=True))
        require(all(had % want == 0 for had, want in pairs), f"pooling {list(given)} values to {wanted}")
        kernel = [had // want for had, want in pairs]
        _pooled(graph, x, rank, "AveragePool", **_windows(rank, kernel, kernel, (0,), ceil_mode=False))

    return write


def linear(graph: Graph, x: Any, weight: Any, bias: Any = None) -> None:
    """``linear``."""
    turned = graph.node("Transpose", graph.value(weight), perm=[1, 0])
    if bias is None:
        graph.give("MatMul", graph.value(x), turned)
    else:
        graph.give("Add", graph.node("MatMul", graph.value(x), turned), graph.value(bias))


def addmm(graph: Graph, bias: Any, x: Any, y: Any, beta: float = 1, alpha: float = 1) -> None:
    """``addmm``."""
    graph.give("Gemm", graph.value(x), graph.value(y), graph.value(bias), alpha=float(alpha), beta=float(beta))


def group_norm(
    graph: Graph, x: Any, groups: int, weight: Any = None, bias: Any = None, eps: float = 1e-5, *_: object
) -> None:
    """Each group as one channel of an instance normalisation, which also takes flat channels; then back."""
    shape = graph.shape(x)
    value = graph.value(x)
    flat = graph.node("Reshape", value, graph.whole([0, groups, -1]))
    plain = graph.constant(np.ones(groups)), graph.constant(np.zeros(groups))
    normal = graph.node("InstanceNormalization", flat, *plain, epsilon=float(eps))
    steps: list[tuple[str, Any]] = [("Mul", weight), ("Add", bias)]
    steps = [(op, one) for op, one in steps if one is not None]
    back = graph.node("Shape", value)
    if not steps:
        graph.give("Reshape", normal, back)
        return
    normal = graph.node("Reshape", normal, back)
    along = graph.whole([shape[1], *(1 for _ in shape[2:])])
    for number, (op, one) in enumerate(steps, 1):
        factor = graph.node("Reshape", graph.value(one), along)
        normal = graph.node(op, normal, factor, last=number == len(steps))


def layer_norm(
    graph: Graph, x: Any, over: Sequence[int], weight: Any = None, bias: Any = None, eps: float = 1e-5, *_: object
) -> None:
    """``layer_norm``."""
    scale = graph.constant(np.ones(tuple(over))) if weight is None else graph.value(weight)
    rest = () if bias is None else (graph.value(bias),)
    graph.give("LayerNormalization", graph.value(x), scale, *rest, axis=-len(over), epsilon=float(eps))
