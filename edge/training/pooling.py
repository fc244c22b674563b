"""Maximum over windows that lie side by side: what plans nearly always ask for, and what ATen is slow at on a CPU.

The values and gradients are those of ATen's max_pool1d and max_pool2d, bit for bit: of equal values the first one gets
the gradient.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, Final

import torch
from torch import Tensor

MAX_WINDOW: Final = 64  # places; a larger one is better walked through


def max_pool(rank: int, otherwise: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """ATen's max_pool over the last ``rank`` dimensions; ``otherwise``, which is ATen's own, for other windows."""

    def pool(
        x: Tensor, kernel: Sequence[int] | int, stride: Sequence[int] | int = (), *rest: Any, **named: Any
    ) -> Tensor:
        window = _each(kernel, rank)
        step = _each(stride, rank) if stride else window
        fits = all(size >= each for size, each in zip(x.shape[-rank:], window, strict=True))
        if rest or named or step != window or not 1 < math.prod(window) <= MAX_WINDOW or not fits:
            return otherwise(x, kernel, stride, *rest, **named)
        return _Maximum.apply(x, window)[0]  # type: ignore[no-any-return,no-untyped-call]  # torch's typing

    return pool


class _Maximum(torch.autograd.Function):
    """Gives the maxima, and from which place of its window each is, as uint8."""

    @staticmethod
    def forward(x: Tensor, window: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        best, *others = _places(x, window)
        place = torch.zeros(0)
        for number, value in enumerate(others, 1):
            later = value > best
            best = torch.maximum(best, value)  # NaN stays NaN
            place = later.to(torch.uint8) if number == 1 else place.masked_fill(later, number)
        return best, place

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, tuple[int, ...]], output: tuple[Tensor, Tensor]) -> None:
        x, ctx.window = inputs
        ctx.shape = x.shape
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(output[1])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, _: Tensor) -> tuple[Tensor, None]:
        (place,) = ctx.saved_tensors
        result = gradient.new_zeros(ctx.shape)
        with torch.no_grad():  # no training asks for a second derivative
            for number, view in enumerate(_places(result, ctx.window)):
                view.copy_(gradient * (place == number))
        return result, None

    @staticmethod
    def vmap(
        _info: Any, dims: tuple[int, None], x: Tensor, window: tuple[int, ...]
    ) -> tuple[tuple[Tensor, Tensor], tuple[int, int]]:
        place = dims[0]
        if place >= x.ndim - len(window):  # else the devices may stay where they are
            x, place = x.movedim(place, 0), 0
        return _Maximum.apply(x, window), (place, place)  # type: ignore[no-untyped-call]  # torch's typing


def _each(sizes: Sequence[int] | int, rank: int) -> tuple[int, ...]:
    """One size for each dimension."""
    each = (sizes,) if isinstance(sizes, int) else tuple(sizes)
    return each * rank if len(each) == 1 else each


def _places(x: Tensor, window: tuple[int, ...]) -> list[Tensor]:
    """Of each place in a window, row by row, the values there in all windows: views (..., windows)."""
    ends = [size // step * step for size, step in zip(x.shape[-len(window) :], window, strict=True)]
    views = []
    for where in itertools.product(*map(range, window)):
        view = x
        for dim, (at, end, step) in enumerate(zip(where, ends, window, strict=True), x.ndim - len(window)):
            view = torch.ops.aten.slice.Tensor(view, dim, at, end, step)
        views.append(view)
    return views
