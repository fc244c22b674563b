"""Operations as a stack of devices runs them, against one device after the other."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from edge.training.plan_runtime import TABLE
from edge.training.stacked_operations import OPERATIONS
from tests.test_plan_rules import CASES

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
        together = OPERATIONS[name](*args)
        alone = torch.stack([TABLE[name](*pick(args, device)) for device in range(DEVICES)])
        np.testing.assert_allclose(together.detach(), alone.detach(), atol=1e-5)
        if together.requires_grad:
            weights = torch.randn(alone.shape)
            for one, other in zip(
                *(torch.autograd.grad((out * weights).sum(), leaves) for out in (together, alone)), strict=True
            ):
                np.testing.assert_allclose(one, other, atol=1e-5)


@pytest.mark.parametrize(
    "more", [(), (1,), (2,), (0,), (1, 2), (1, -100, 0.1)]
)  # reduction, class to ignore, smoothing
@pytest.mark.parametrize("weighted", [True, False])
def test_each_device_has_its_own_loss_over_its_own_labels_and_class_weights(
    more: tuple[Any, ...], *, weighted: bool
) -> None:
    torch.manual_seed(0)
    logits = torch.randn(DEVICES, 7, 4, requires_grad=True)
    labels, weights = torch.randint(0, 4, (DEVICES, 7)), torch.rand(DEVICES, 4) if weighted else None
    together = OPERATIONS["cross_entropy_loss"](logits, labels, weights, *more)
    each = [
        TABLE["cross_entropy_loss"](logits[n], labels[n], None if weights is None else weights[n], *more)
        for n in range(DEVICES)
    ]
    np.testing.assert_allclose(together.detach(), torch.stack(each).detach(), atol=1e-6)
    ours, theirs = (torch.autograd.grad(total.sum(), logits)[0] for total in (together, torch.stack(each)))
    np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_a_size_is_one_devices() -> None:
    x = torch.zeros(DEVICES, 2, 4, 6)
    assert [OPERATIONS["sym_size.int"](x, dim) for dim in (0, 1, 2, -1, -3)] == [2, 4, 6, 6, 2]
