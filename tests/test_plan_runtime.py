from __future__ import annotations

import gc
import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from edge.training.dropout import Layout
from edge.training.plan_runtime import Program
from schemas.errors import PlanError
from schemas.plan import Plan
from schemas.plan_file import PlanFile, find
from tests.plan_examples import fields, tiny, windows, with_step

torch.set_num_threads(1)
DROPOUT = with_step(1, op="dropout", args=("%conv1d", 0.5, True))


def values(plan: Plan, seed: int = 0) -> list[Tensor]:
    arrays = PlanFile(plan, {}).initial(seed).arrays().values()
    return [torch.from_numpy(array.copy()) for array in arrays]


def run(
    plan: Plan, *, training: bool = True, parameters: list[Tensor] | None = None, masks: Sequence[Tensor] = ()
) -> tuple[Tensor, Tensor]:
    data = windows(6)
    inputs = [torch.from_numpy(array) for array in data.inputs]
    program = Program(plan, training=training)
    labels, weights = torch.from_numpy(data.labels), torch.tensor([1.0, 2.0, 3.0])
    return program(parameters or values(plan), inputs, labels, weights, masks)


def test_it_computes_what_torch_computes_by_hand() -> None:
    weight, bias, out, out_bias = values(tiny())
    data = windows(6)
    hidden = functional.conv1d(torch.from_numpy(data.inputs[0]), weight, bias, padding=1).relu().mean(2)
    logits = functional.linear(hidden, out, out_bias)
    loss = functional.cross_entropy(logits, torch.from_numpy(data.labels), torch.tensor([1.0, 2.0, 3.0]))
    assert torch.equal(run(tiny())[0], loss)
    assert torch.equal(run(tiny())[1], logits)


def test_gradients_reach_every_parameter() -> None:
    parameters = [value.requires_grad_() for value in values(tiny())]
    run(tiny(), parameters=parameters)[0].backward()  # type: ignore[no-untyped-call]  # torch's typing
    assert all(value.grad is not None and value.grad.abs().sum() > 0 for value in parameters)


def test_dropout_follows_the_mode_and_not_the_plan() -> None:
    """A plan that says false drops in training too: what it was exported in is nobody's concern."""
    for stated in (True, False):
        plan = Plan.build(**with_step(1, op="dropout", args=("%conv1d", 0.5, stated)))
        kept = run(plan, training=False)[1]
        ones = torch.ones(Layout(plan, 6).shapes(6)[0])
        assert torch.equal(run(plan, masks=[ones])[1], kept)
        assert not torch.equal(run(plan, masks=[2 * ones])[1], kept)


def test_words_and_named_arguments_reach_torch() -> None:
    plan = Plan.build(**with_step(1, op="gelu", args=("%conv1d",), kwargs={"approximate": "tanh"}))
    other = Plan.build(**with_step(1, op="gelu", args=("%conv1d",)))
    assert not torch.equal(run(plan)[1], run(other)[1])
    whole = Plan.build(**with_step(1, op="to.dtype", args=("%conv1d", "float32")))
    assert run(whole)[1].dtype == torch.float32


@pytest.mark.parametrize(
    ("op", "args"),
    [
        ("cross_entropy_loss", ("%logits", "%over")),  # of classes that there aren't
        ("max_pool1d", ("%conv1d", "none")),
    ],
)
def test_what_only_the_run_can_see_is_wrong_with_the_plan_and_names_the_step(op: str, args: tuple[str, ...]) -> None:
    """torch says so with a ``IndexError`` or the like, which would end the process."""
    *steps, loss = fields()["operations"]
    if op == "max_pool1d":
        steps[1] = {"out": "relu", "op": op, "args": args}
    else:
        over = {"out": "over", "op": "add.Tensor", "args": ("%labels", 9)}
        steps, loss = [*steps, over], {**loss, "op": op, "args": args}
    with pytest.raises(PlanError, match=rf"step \d of the plan \({op}\) can't run: "):
        run(tiny(operations=(*steps, loss)))


@pytest.mark.parametrize("batch", [1, 2, 104])
def test_the_layout_of_the_inputs_does_not_matter(batch: int) -> None:
    """torch keeps images with the channels last where it can, and a view of those isn't always possible."""
    file = find("digits")
    images = torch.randn(batch, 1, 28, 28)
    labels, weights = torch.zeros(batch, dtype=torch.int64), torch.ones(10)
    parameters = [torch.from_numpy(array.copy()) for array in file.initial(0).arrays().values()]
    program = Program(file.plan, training=False)
    with torch.inference_mode():
        plain = program(parameters, [images], labels, weights)[1]
        last = program(parameters, [images.contiguous(memory_format=torch.channels_last)], labels, weights)[1]
    np.testing.assert_allclose(plain, last, atol=1e-5)


def test_results_are_let_go_when_no_step_needs_them_any_more() -> None:
    """In evaluation nothing else holds them, so that a deep net takes its widest layers' memory and no more."""
    program = Program(tiny(), training=False)
    seen: list[weakref.ref[Tensor]] = []
    steps: Any = program._steps
    run_relu = steps[1].run

    def spy(value: Tensor) -> Any:
        seen.append(weakref.ref(value))
        return run_relu(value)

    def late(*args: Any) -> Any:
        gc.collect()
        assert seen[0]() is None
        return torch.ops.aten.linear.default(*args)

    steps[1].run, steps[3].run = spy, late
    with torch.inference_mode():
        data = windows(4)
        program(values(tiny()), [torch.from_numpy(data.inputs[0])], torch.from_numpy(data.labels), torch.ones(3))
    assert seen


@pytest.mark.parametrize("name", ["ecg-beats", "watch"])
def test_it_works_under_vmap_for_per_example_gradients(name: str) -> None:
    file = find(name)
    program = Program(file.plan, training=False)
    parameters = tuple(torch.from_numpy(array.copy()) for array in file.initial(0).arrays().values())
    inputs = tuple(torch.randn(4, *entry.shape) for entry in file.plan.inputs)
    labels = torch.tensor([0, 1, 2, 3])
    weights = torch.ones(len(file.plan.classes))

    def loss(values: tuple[Tensor, ...], example: tuple[Tensor, ...], label: Tensor) -> Tensor:
        return program(values, [array[None] for array in example], label[None], weights)[0]

    each = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0, 0))(parameters, inputs, labels)
    mean = torch.func.grad(lambda values: program(values, inputs, labels, weights)[0])(parameters)
    for one, together in zip(each, mean, strict=True):
        np.testing.assert_allclose(one.mean(0), together, atol=1e-5)
