from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from edge.training.pooling import max_pool

ATEN: dict[int, Callable[..., Tensor]] = {
    1: torch.ops.aten.max_pool1d.default,
    2: torch.ops.aten.max_pool2d.default,
}


def pooled(pool: Callable[..., Tensor], x: Tensor, window: list[int], stride: list[int]) -> tuple[Tensor, Tensor]:
    """The values, and the gradient of their sum with weights 1, 2, 3, ..."""
    leaf = x.clone().requires_grad_()
    out = pool(leaf, window, stride)
    (gradient,) = torch.autograd.grad((out * torch.arange(1.0, out.numel() + 1).view(out.shape)).sum(), leaf)
    return out.detach(), gradient


@given(
    st.sampled_from([1, 2]),
    st.lists(st.integers(1, 4), min_size=1, max_size=2),
    st.sampled_from(["stated", "left out"]),
    st.data(),
)
def test_values_and_gradients_are_atens_bit_for_bit(
    rank: int, window: list[int], strides: str, data: st.DataObject
) -> None:
    """Equal values in a window included, of which the first gets the gradient."""
    window = window[:rank]
    sizes = data.draw(st.lists(st.integers(4, 9), min_size=rank, max_size=rank))
    shape = (*data.draw(st.lists(st.integers(1, 3), min_size=2, max_size=2)), *sizes)
    x = torch.randint(-2, 3, shape, generator=torch.Generator().manual_seed(sum(shape))).float()
    stride = window if strides == "stated" else []
    mine, theirs = (pooled(pool, x, window, stride) for pool in (max_pool(rank, ATEN[rank]), ATEN[rank]))
    assert torch.equal(mine[0], theirs[0])
    assert torch.equal(mine[1], theirs[1])


@pytest.mark.parametrize("rank", [1, 2])
def test_a_window_may_be_a_number(rank: int) -> None:
    x = torch.randn(2, 3, 6, 6)[:, :, : 6 if rank == 2 else 1].squeeze(2)
    for rest in ((2,), (3, 3), (2, 1)):
        assert torch.equal(max_pool(rank, ATEN[rank])(x, *rest), ATEN[rank](x, *rest))


@pytest.mark.parametrize("rest", [([2], [1]), ([3], [2], [1]), ([2], [2], [0], [1], True), ([70], [70])])
def test_other_windows_are_left_to_aten(rest: tuple[list[int], ...]) -> None:
    seen: list[tuple[object, ...]] = []

    def otherwise(*args: object) -> Tensor:
        seen.append(args)
        return torch.zeros(())

    max_pool(1, otherwise)(torch.zeros(1, 1, 80), *rest)
    assert seen[0][1:] == rest


def test_what_is_not_a_number_stays_so() -> None:
    x = torch.tensor([[[1.0, float("nan"), 2.0, 3.0]]])
    assert max_pool(1, ATEN[1])(x, [2]).isnan().tolist() == [[[True, False]]]
