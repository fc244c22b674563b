"""Every operation a plan may use, and the shape of what it gives. The only such list; no framework.

Names are ATen's own, with the overload (``.default`` left out). Each operation gives one tensor, or one whole number;
none writes in place, makes values out of nothing, or reaches outside its arguments. To allow another one, write its
rule and its line in ``RULES``, and a line in ``plan_types``: ``edge.training.plan_runtime`` finds the operation by its
name, and tests hold both against torch's own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Final

from schemas.plan_values import Shape, Value, axis_of, describe, each_of, require, require_dtype, require_plain, tensor

MAX_WHOLE: Final = 2**40
_MOST_PADDED: Final = 3  # dimensions that can be padded otherwise than by a constant
Rule = Callable[..., Value]  # what an operation takes, with shapes for tensors, to what it gives

# Rules take what the ATen operation takes, with shapes for tensors. What doesn't fit raises ValueError or TypeError.


def _same(x: Shape, *_: object, **__: object) -> Shape:
    return tensor(x)


def _broadcast(x: object, y: object, *_: object, **__: object) -> Shape:
    a, b = (value if isinstance(value, Shape) else Shape() for value in (x, y))
    size = max(len(a), len(b))
    pairs = list(zip((1,) * (size - len(a)) + a, (1,) * (size - len(b)) + b, strict=True))
    require(all(1 in pair or pair[0] == pair[1] for pair in pairs), f"{describe(a)} and {describe(b)} don't fit")
    return Shape(max(pair) for pair in pairs)


def _cast(x: Shape, dtype: str, non_blocking: bool = False, copy: bool = False) -> Shape:  # noqa: ARG001, FBT001, FBT002  - ATen's
    require_dtype(dtype)
    return tensor(x)


def _copy(x: Shape) -> Shape:
    return tensor(x)


def _softmax(x: Shape, dim: int, dtype: str | None = None) -> Shape:
    axis_of(tensor(x), dim, extra=0 if x else 1)  # one number has a dimension here
    require_dtype(dtype, None)
    return x


def _plain_softmax(x: Shape, dim: int, half_to_float: bool) -> Shape:  # noqa: FBT001  - ATen's
    require(half_to_float is False, "there are no halves here")
    return _softmax(x, dim)


def _convolution(rank: int) -> Rule:
    def rule(
        x: Shape,
        weight: Shape,
        bias: Shape | None = None,
        stride: Sequence[int] = (1,),
        padding: Sequence[int] | str = (0,),
        dilation: Sequence[int] = (1,),
        groups: int = 1,
    ) -> Shape:
        x, weight = tensor(x, rank + 2), tensor(weight, rank + 2)
        require(groups >= 1 and weight[0] % groups == 0, f"{weight[0]} channels can't be cut into {groups} groups")
        require(x[1] == weight[1] * groups, f"it takes {weight[1] * groups} channels and gets {describe(x)}")
        require(bias is None or bias == weight[:1], f"the bias must have {weight[0]} values")
        strides, dilations = each_of(stride, rank), each_of(dilation, rank)
        spans = [d * (k - 1) + 1 for k, d in zip(weight[2:], dilations, strict=True)]
        require(min(strides + dilations) >= 1, "stride and dilation must be positive")
        if isinstance(padding, str):
            require(padding == "valid" or max(strides) == 1, "padding 'same' needs stride 1")
            pads = [span - 1 if padding == "same" else 0 for span in spans]
        else:
            pads = [2 * pad for pad in each_of(padding, rank)]
        require(min(pads) >= 0, "padding can't be negative")
        dims = zip(x[2:], pads, spans, strides, strict=True)
        return Shape((x[0], weight[0], *((size + pad - span) // step + 1 for size, pad, span, step in dims)))

    return rule


def _max_pool(rank: int) -> Rule:
    def rule(
        x: Shape,
        kernel: Sequence[int],
        stride: Sequence[int] = (),
        padding: Sequence[int] = (0,),
        dilation: Sequence[int] = (1,),
        ceil_mode: bool = False,  # noqa: FBT001, FBT002  - likewise
    ) -> Shape:
        require(rank + 1 <= len(tensor(x)) <= rank + 2, f"it can't pool {describe(x)}")
        require_plain(ceil_mode)
        sizes, pads, dilations = each_of(kernel, rank), each_of(padding, rank), each_of(dilation, rank)
        strides = each_of(stride or kernel, rank)
        require(min(sizes + strides + dilations) >= 1, "window, stride and dilation must be positive")
        pairs = zip(pads, sizes, strict=True)
        require(all(0 <= 2 * pad <= size for pad, size in pairs), "padding must be at most half a window")
        dims = zip(x[-rank:], sizes, strides, pads, dilations, strict=True)
        return Shape((*x[:-rank], *(_pooled(*dim, ceil_mode=ceil_mode) for dim in dims)))

    return rule


def _average_pool(rank: int) -> Rule:
    pool = _max_pool(rank)

    def rule(
        x: Shape,
        kernel: Sequence[int],
        stride: Sequence[int] = (),
        padding: Sequence[int] = (0,),
        ceil_mode: bool = False,  # noqa: FBT001, FBT002  - likewise
        *_: object,
    ) -> Shape:
        return pool(x, kernel, stride, padding, (1,), ceil_mode)  # type: ignore[return-value]  # a pool gives a shape

    return rule


def _pooled(size: int, kernel: int, stride: int, pad: int, dilation: int, *, ceil_mode: bool) -> int:
    room = size + 2 * pad - dilation * (kernel - 1) - 1
    windows = (-(-room // stride) if ceil_mode else room // stride) + 1
    if ceil_mode and (windows - 1) * stride >= size + pad:  # the last window must start inside the values
        windows -= 1
    require(windows >= 1, f"a window of {kernel} is larger than {size} values")
    return windows


def _adaptive(rank: int) -> Rule:
    def rule(x: Shape, size: Sequence[int]) -> Shape:
        require(rank + 1 <= len(tensor(x)) <= rank + 2, f"it can't pool {describe(x)}")
        require(not isinstance(size, Sequence) or len(size) == rank, f"{size} for {rank} dimensions")
        return Shape((*x[:-rank], *each_of(size, rank)))

    return rule


def _linear(x: Shape, weight: Shape, bias: Shape | None = None) -> Shape:
    x, weight = tensor(x), tensor(weight, 2)
    require(x[-1] == weight[1], f"it takes {weight[1]} values and gets {describe(x)}")
    require(bias is None or bias == weight[:1], f"the bias must have {weight[0]} values")
    return Shape((*x[:-1], weight[0]))


def _matmul(x: Shape, y: Shape) -> Shape:
    x, y = tensor(x), tensor(y)
    require(min(len(x), len(y)) >= 2, "it needs matrices")  # noqa: PLR2004  - rows and columns
    require(x[-1] == y[-2], f"{describe(x)} and {describe(y)} can't be multiplied")
    return Shape((*_broadcast(Shape(x[:-2]), Shape(y[:-2])), x[-2], y[-1]))


def _stacked_matmul(rank: int) -> Rule:
    def rule(x: Shape, y: Shape) -> Shape:
        require(tensor(x, rank)[:-2] == tensor(y, rank)[:-2], f"{describe(x)} and {describe(y)} don't fit")
        return _matmul(x, y)

    return rule


def _addmm(bias: Shape, x: Shape, y: Shape, **_: object) -> Shape:
    product = _matmul(tensor(x, 2), tensor(y, 2))
    require(_broadcast(tensor(bias), product) == product, f"{describe(bias)} can't be added to {describe(product)}")
    return product


def _group_norm(x: Shape, groups: int, weight: Shape | None = None, bias: Shape | None = None, *_: object) -> Shape:
    x = tensor(x)
    require(len(x) > 1 and groups >= 1 and x[1] % groups == 0, f"{describe(x)} can't be cut into {groups} groups")
    require(all(v is None or v == x[1:2] for v in (weight, bias)), f"weight and bias must have {x[1]} values")
    return x


def _layer_norm(
    x: Shape, over: Sequence[int], weight: Shape | None = None, bias: Shape | None = None, *_: object
) -> Shape:
    x = tensor(x)
    require(over and x[-len(over) :] == tuple(over), f"it normalises over {over} and gets {describe(x)}")
    require(all(v is None or v == tuple(over) for v in (weight, bias)), f"weight and bias must be {over}")
    return x


def _reduce(x: Shape, dims: Sequence[int] | None = None, keepdim: bool = False, dtype: str | None = None) -> Shape:  # noqa: FBT001, FBT002  - ATen's
    x = tensor(x)
    require_dtype(dtype, None)
    require(dims is None or isinstance(dims, Sequence), f"{dims!r} is no list of dimensions")
    require_plain(keepdim)
    gone = {axis_of(x, dim) for dim in dims or range(len(x))}
    if keepdim:
        return Shape(1 if axis in gone else size for axis, size in enumerate(x))
    return Shape(size for axis, size in enumerate(x) if axis not in gone)


def _flatten(x: Shape, first: int = 0, last: int = -1) -> Shape:
    start, end = axis_of(tensor(x), first), axis_of(x, last)
    require(start <= end, f"it can't flatten from {first} to {last}")
    return Shape((*x[:start], math.prod(x[start : end + 1]), *x[end + 1 :]))


def _reshape(x: Shape, sizes: Sequence[int]) -> Shape:
    known = math.prod(size for size in sizes if size != -1)
    total = math.prod(tensor(x))
    if list(sizes).count(-1) == 1 and known > 0 and total % known == 0:
        return Shape(total // known if size == -1 else size for size in sizes)
    require(known == total and -1 not in sizes, f"{describe(x)} can't become {sizes}")
    return Shape(sizes)


def _permute(x: Shape, dims: Sequence[int]) -> Shape:
    order = [axis_of(tensor(x), dim) for dim in dims]
    require(sorted(order) == list(range(len(x))), f"{dims} doesn't order the dimensions of {describe(x)}")
    return Shape(x[axis] for axis in order)


def _transpose(x: Shape, first: int, second: int) -> Shape:
    sizes = list(tensor(x))
    a, b = axis_of(x, first), axis_of(x, second)
    sizes[a], sizes[b] = sizes[b], sizes[a]
    return Shape(sizes)


def _unsqueeze(x: Shape, dim: int) -> Shape:
    place = axis_of(tensor(x), dim, extra=1)
    return Shape((*x[:place], 1, *x[place:]))


def _squeeze(x: Shape, dims: Sequence[int] | int) -> Shape:
    gone = {axis_of(tensor(x), dim) for dim in (dims if isinstance(dims, Sequence) else [dims])}
    return Shape(size for axis, size in enumerate(x) if not (axis in gone and size == 1))


def _expand(x: Shape, sizes: Sequence[int], **_: object) -> Shape:
    new = len(sizes) - len(tensor(x))
    require(new >= 0, f"{describe(x)} can't be expanded to {sizes}")
    old = (1,) * new + x
    require(
        all(size in {-1, now} or now == 1 for size, now in zip(sizes, old, strict=True)) and -1 not in sizes[:new],
        f"{describe(x)} can't be expanded to {sizes}",
    )
    return Shape(now if size == -1 else size for size, now in zip(sizes, old, strict=True))


def _slice(x: Shape, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1) -> Shape:
    axis = axis_of(tensor(x), dim)
    require(step >= 1, "a slice's step must be positive")
    return Shape((*x[:axis], len(range(x[axis])[start:end:step]), *x[axis + 1 :]))


def _select(x: Shape, dim: int, index: int) -> Shape:
    axis = axis_of(tensor(x), dim)
    require(-x[axis] <= index < x[axis], f"there is no index {index} among {x[axis]}")
    return Shape((*x[:axis], *x[axis + 1 :]))


def _cat(items: Sequence[Shape], dim: int = 0) -> Shape:
    first = tensor(items[0])
    axis = axis_of(first, dim)
    for item in items:
        rest = tensor(item, len(first))
        require(
            rest[:axis] + rest[axis + 1 :] == first[:axis] + first[axis + 1 :],
            f"{describe(first)} and {describe(rest)} can't be joined",
        )
    return Shape((*first[:axis], sum(item[axis] for item in items), *first[axis + 1 :]))


def _stack(items: Sequence[Shape], dim: int = 0) -> Shape:
    return _cat(
        [_unsqueeze(item, axis_of(tensor(items[0]), dim, extra=1)) for item in items], axis_of(items[0], dim, extra=1)
    )


def _pad(x: Shape, pads: Sequence[int], mode: str = "constant", value: float | None = None) -> Shape:
    sizes = list(tensor(x))
    require_plain(value)
    dims = len(pads) // 2
    # Values of the tensor itself are laid around its last dimensions, with one or two before them.
    fits = dims <= len(x) if mode == "constant" else 1 <= dims <= _MOST_PADDED and dims < len(x) <= dims + 2
    require(mode in {"constant", "reflect", "replicate"}, f"there is no padding {mode!r}")
    require(len(pads) % 2 == 0 and fits, f"the {mode} pads {pads} don't fit {describe(x)}")
    require(mode == "constant" or not value, f"{mode} padding takes no value")
    for number, (before, after) in enumerate(zip(pads[::2], pads[1::2], strict=True), 1):
        require(mode != "reflect" or max(before, after) < sizes[-number], "reflected padding is longer than the values")
        sizes[-number] += before + after
    return Shape(sizes)


def _constant_pad(x: Shape, pads: Sequence[int], value: float = 0) -> Shape:
    return _pad(x, pads, "constant", value)


def _glu(x: Shape, dim: int = -1) -> Shape:
    axis = axis_of(tensor(x), dim)
    require(x[axis] % 2 == 0, f"{describe(x)} can't be halved")
    return Shape((*x[:axis], x[axis] // 2, *x[axis + 1 :]))


def _loss(logits: Shape, labels: Shape, weight: Shape | None = None, reduction: int = 1, *_: object) -> Shape:
    batch, classes = tensor(logits, 2)
    require_plain(reduction)
    require(labels == (batch,), f"{describe(tensor(labels))} labels for {batch} examples")
    require(weight is None or weight == (classes,), f"the class weights must be {classes} numbers")
    return Shape(() if reduction else (batch,))


def _size(x: Shape, dim: int) -> int:
    return tensor(x)[axis_of(x, dim)]


def _whole(compute: Callable[[int, int], int]) -> Rule:
    def rule(x: int, y: int) -> int:
        require(isinstance(x, int) and isinstance(y, int), "it needs whole numbers")
        result = compute(x, y)
        require(abs(result) <= MAX_WHOLE, f"{result} is too large")
        return result

    return rule


_SAME: Final = (
    "relu leaky_relu elu gelu silu tanh sigmoid hardtanh hardswish hardsigmoid softplus exp log sqrt rsqrt abs neg "
    "reciprocal pow.Tensor_Scalar clamp rsub.Scalar dropout"
)
_BROADCAST: Final = "add.Tensor sub.Tensor mul.Tensor div.Tensor maximum minimum"

RULES: Final[dict[str, Rule]] = {
    **dict.fromkeys(_SAME.split(), _same),
    **dict.fromkeys(_BROADCAST.split(), _broadcast),
    **dict.fromkeys(("clone", "contiguous"), _copy),
    **dict.fromkeys(("softmax.int", "log_softmax.int"), _softmax),
    **dict.fromkeys(("_softmax", "_log_softmax"), _plain_softmax),
    "to.dtype": _cast,
    **dict.fromkeys(("conv1d", "conv1d.padding"), _convolution(1)),
    **dict.fromkeys(("conv2d", "conv2d.padding"), _convolution(2)),
    **dict.fromkeys(("mean.dim", "sum.dim_IntList", "amax", "amin"), _reduce),
    **dict.fromkeys(("squeeze.dim", "squeeze.dims"), _squeeze),
    **dict.fromkeys(("cross_entropy_loss", "nll_loss", "nll_loss_nd"), _loss),
    "max_pool1d": _max_pool(1),
    "max_pool2d": _max_pool(2),
    "avg_pool1d": _average_pool(1),
    "avg_pool2d": _average_pool(2),
    "adaptive_avg_pool1d": _adaptive(1),
    "adaptive_avg_pool2d": _adaptive(2),
    "linear": _linear,
    "addmm": _addmm,
    "matmul": _matmul,
    "mm": _stacked_matmul(2),
    "bmm": _stacked_matmul(3),
    "group_norm": _group_norm,
    "layer_norm": _layer_norm,
    "glu": _glu,
    "flatten.using_ints": _flatten,
    "reshape": _reshape,
    "permute": _permute,
    "transpose.int": _transpose,
    "t": lambda x: _transpose(tensor(x, 2), 0, 1),
    "unsqueeze": _unsqueeze,
    "expand": _expand,
    "slice.Tensor": _slice,
    "select.int": _select,
    "cat": _cat,
    "stack": _stack,
    "pad": _pad,
    "constant_pad_nd": _constant_pad,
    "sym_size.int": _size,
    "int.add": _whole(lambda x, y: x + y),
    "int.sub": _whole(lambda x, y: x - y),
    "int.mul": _whole(lambda x, y: x * y),
    "int.floordiv": _whole(lambda x, y: x // y),
}

OPERATIONS: Final = frozenset(RULES)
