"""Operations under ``vmap``, as a stack of devices runs them, against one device after the other."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from edge import wide
from edge.plan_runtime import TABLE
from tests.test_plan_rules import CASES

STACKED = TABLE | wide.OPERATIONS
DEVICES = 3


def tensors(value: Any) -> Any:
    """A case's arguments with a random tensor of each device for each shape."""
    if isinstance(value, tuple) and all(isinstance(size, int) for size in value):
        return torch.randn(DEVICES, *value)
    if isinstance(value, list) and value and isinstance(value[0], tuple):
        return [tensors(item) for item in value]
    return value


def pick(value: Any, device: int) -> Any:
    """One device's arguments."""
    if isinstance(value, Tensor):
        return value[device]
    return [pick(item, device) for item in value] if isinstance(value, list) else value


@pytest.mark.parametrize("name", sorted(set(CASES) - {"dropout"}))  # which comes from outside in a stack
def test_every_operation_runs_for_many_devices_at_once(name: str) -> None:
    torch.manual_seed(0)
    for case in CASES[name]:
        args = [tensors(each) for each in case]
        leaves = [
            leaf for arg in args for leaf in (arg if isinstance(arg, list) else [arg]) if isinstance(leaf, Tensor)
        ]
        for leaf in leaves:
            leaf.requires_grad_()
        dims = tuple(
            0 if any(isinstance(one, Tensor) for one in (a if isinstance(a, list) else [a])) else None for a in args
        )
        together = torch.func.vmap(STACKED[name], in_dims=dims)(*args)
        alone = torch.stack([TABLE[name](*pick(args, device)) for device in range(DEVICES)])
        np.testing.assert_allclose(together.detach(), alone.detach(), atol=1e-5)
        if together.requires_grad:
            weights = torch.randn(alone.shape)
            for one, other in zip(
                *(torch.autograd.grad((out * weights).sum(), leaves) for out in (together, alone)), strict=True
            ):
                np.testing.assert_allclose(one, other, atol=1e-5)


@pytest.mark.parametrize("place", [0, 1, 2])
def test_group_norm_takes_devices_that_lie_anywhere(place: int) -> None:
    x, weight = torch.randn(DEVICES, 2, 4, 6), torch.randn(DEVICES, 4)
    run = torch.func.vmap(lambda one, w: wide.group_norm(one, 2, w), in_dims=(place, 0))
    each = torch.stack([torch.group_norm(one, 2, w) for one, w in zip(x, weight, strict=True)])
    np.testing.assert_allclose(run(x.movedim(0, place), weight), each, atol=1e-5)


def test_group_norm_takes_what_all_devices_share() -> None:
    x, weight = torch.randn(2, 4, 6), torch.randn(DEVICES, 4)
    together = torch.func.vmap(lambda w: wide.group_norm(x, 2, w, torch.ones(4)))(weight)
    each = torch.stack([torch.group_norm(x, 2, w, torch.ones(4)) for w in weight])
    np.testing.assert_allclose(together, each, atol=1e-5)
