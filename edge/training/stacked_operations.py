"""A plan's operations on many devices' values at once: a tensor has a row for each device, before its own dimensions.

Some have a form of their own here, those that small models spend their time in: it gives the same numbers to rounding,
and costs no more to call than one device's. Any other runs under ``torch.func.vmap``, a call for the operation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Final

import torch
from torch import Tensor

from edge.training.plan_runtime import TABLE, WHOLE_NUMBERS

_ATEN: Final = torch.ops.aten
_ELEMENTWISE: Final = (
    "relu leaky_relu elu gelu silu tanh sigmoid hardtanh hardswish hardsigmoid softplus exp log sqrt rsqrt abs neg "
    "reciprocal pow.Tensor_Scalar clamp rsub.Scalar clone"
)
_MEAN: Final = 1  # ATen's number for a loss's reduction


def _mapped(name: str) -> Callable[..., Any]:
    """The operation under ``vmap``; of its arguments the tensors, and lists of them, are the devices'."""
    one = TABLE[name]

    def run(*arguments: Any, **named: Any) -> Any:
        rows = tuple(map(_row, arguments)), {key: _row(value) for key, value in named.items()}
        return torch.func.vmap(lambda args, kwargs: one(*args, **kwargs), in_dims=rows)(arguments, named)

    return run


def _convolution(name: str) -> Callable[..., Any]:
    """``vmap`` puts a bias along as many dimensions as the stride has numbers; one number stands for two in a plan."""
    mapped = _mapped(name)

    def run(*arguments: Any, **named: Any) -> Any:
        return mapped(*map(_pair, arguments), **{key: _pair(value) for key, value in named.items()})

    return run


def _pair(argument: Any) -> Any:
    return [*argument] * 2 if isinstance(argument, list | tuple) and len(argument) == 1 else argument


def _row(argument: Any) -> int | None:
    several = isinstance(argument, list | tuple) and any(isinstance(each, Tensor) for each in argument)
    return 0 if several or isinstance(argument, Tensor) else None


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    flat = x.reshape(len(x), math.prod(x.shape[1:-1]), x.shape[-1])  # (devices, rows, values)
    turned = weight.transpose(1, 2)
    product = torch.bmm(flat, turned) if bias is None else torch.baddbmm(bias.unsqueeze(1), flat, turned)
    return product.view(*x.shape[:-1], weight.shape[1])


def _cat(tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
    return torch.cat(list(tensors), dim if dim < 0 else dim + 1)


def _size(x: Tensor, dim: int) -> int:
    return x.size(dim if dim < 0 else dim + 1)


def _group_norm(
    x: Tensor,
    groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    _cudnn: bool = True,  # noqa: FBT001, FBT002 - ATen's
) -> Tensor:
    """All devices' channels are those of one; ``vmap`` takes the batches apart."""
    wide = x.transpose(0, 1).flatten(1, 2)  # (B, devices * C, ...)
    scale, shift = (None if each is None else each.flatten() for each in (weight, bias))
    normal = torch.group_norm(wide, len(x) * groups, scale, shift, eps)
    return normal.view(len(wide), len(x), *x.shape[2:]).transpose(0, 1)


def _cross_entropy(
    logits: Tensor, labels: Tensor, weights: Tensor | None = None, reduction: int = _MEAN, *others: Any, **named: Any
) -> Tensor:
    """Each device's weighted mean over its examples: what trains all bundled plans. (devices, B, C) to (devices,)."""
    if weights is None or logits.ndim != 3 or labels.is_floating_point() or reduction != _MEAN or others or named:  # noqa: PLR2004
        return _mapped("cross_entropy_loss")(logits, labels, weights, reduction, *others, **named)  # type: ignore[no-any-return]
    own = weights.gather(1, labels)
    # A softmax over few classes side by side is several times as slow as one over rows of examples.
    told = logits.transpose(1, 2).log_softmax(1).gather(1, labels.unsqueeze(1)).squeeze(1)
    return -(told * (own / own.sum(1, keepdim=True))).sum(1)


OPERATIONS: Final[dict[str, Callable[..., Any]]] = {
    **{name: TABLE[name] if name in WHOLE_NUMBERS else _mapped(name) for name in TABLE},
    **{name: TABLE[name] for name in _ELEMENTWISE.split()},
    **{name: _convolution(name) for name in ("conv2d", "conv2d.padding")},
    "linear": _linear,
    "cat": _cat,
    "sym_size.int": _size,
    "group_norm": _group_norm,
    "cross_entropy_loss": _cross_entropy,
}
