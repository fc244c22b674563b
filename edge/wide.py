"""Operations of many devices as one with so many times the channels, where ``vmap`` by itself is slower."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Final

import torch
from torch import Tensor

_ATEN: Final = torch.ops.aten


def group_norm(
    x: Tensor,
    groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    _cudnn: bool = True,  # noqa: FBT001, FBT002 - ATen's
) -> Tensor:
    """ATen's group_norm. Under ``vmap`` each device's channels are groups of their own in one call."""
    return _GroupNorm.apply(x, weight, bias, groups, eps)[0]  # type: ignore[no-any-return,no-untyped-call]  # torch's typing


class _GroupNorm(torch.autograd.Function):
    """Gives what ATen's native_group_norm does: the values, and each group's mean and reciprocal deviation."""

    @staticmethod
    def forward(
        x: Tensor, weight: Tensor | None, bias: Tensor | None, groups: int, eps: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        return _ATEN.native_group_norm(x.contiguous(), weight, bias, *_sizes(x), groups, eps)  # type: ignore[no-any-return]

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
        x, weight, _, ctx.groups, _ = inputs
        ctx.mark_non_differentiable(*output[1:])
        ctx.save_for_backward(x, weight, *output[1:])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, deviation = ctx.saved_tensors
        wanted = [ctx.needs_input_grad[0], ctx.needs_input_grad[1], ctx.needs_input_grad[2]]
        each = _ATEN.native_group_norm_backward(
            gradient.contiguous(), x.contiguous(), mean, deviation, weight, *_sizes(x), ctx.groups, wanted
        )
        return *each, None, None

    @staticmethod
    def vmap(
        info: Any,
        dims: tuple[int | None, ...],
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        groups: int,
        eps: float,
    ) -> tuple[tuple[Tensor, Tensor, Tensor], tuple[int, int, int]]:
        size = info.batch_size
        spread = x.unsqueeze(1).expand(-1, size, *x.shape[1:]) if dims[0] is None else x.movedim(dims[0], 1)
        flat = [_flat(value, dim, size) for value, dim in zip((weight, bias), dims[1:3], strict=True)]
        wide = _GroupNorm.apply(spread.flatten(1, 2), *flat, size * groups, eps)  # type: ignore[no-untyped-call]
        return tuple(value.unflatten(1, (size, -1)) for value in wide), (1, 1, 1)


def _sizes(x: Tensor) -> tuple[int, int, int]:
    return x.shape[0], x.shape[1], math.prod(x.shape[2:])


def _flat(value: Tensor | None, dim: int | None, size: int) -> Tensor | None:
    """A value a channel (D, C) as (D * C,)."""
    if value is None:
        return None
    return (value.expand(size, -1) if dim is None else value.movedim(dim, 0)).flatten()


OPERATIONS: Final[dict[str, Callable[..., Any]]] = {"group_norm": group_norm}
