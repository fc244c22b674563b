from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any
from unittest import TestCase

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.dataset import Dataset
from edge.training.checkpoint import Checkpoint
from edge.training.loop import Event, Observer, Trained, Training, ignore, train
from edge.training.stacked_training import Stack, train_stacked, width
from schemas.errors import PlanError, TrainingError
from schemas.messages import TrainSettings
from schemas.plan import Plan
from schemas.plan_file import PlanFile
from tests.other_memory import PLACE, another_memory
from tests.plan_examples import fields, tiny, windows

torch.set_num_threads(1)
CLOSE = 1e-5

# Steps between the convolution and the mean over time, which take and give (B, 4, time).
BETWEEN: dict[str, tuple[str, tuple[Any, ...]]] = {
    "relu": ("relu", ()),
    "dropout": ("dropout", (0.4, True)),
    "every element dropped": ("dropout", (1.0, True)),
    "none dropped": ("dropout", (0.0, True)),
    "group norm": ("group_norm", (2, None, None, 1e-5, False)),
    "group norm of a channel's own": ("group_norm", (4, "%conv.bias", "%conv.bias", 1e-5, False)),
    "pairs": ("max_pool1d", ((2,), (2,))),
    "overlapping": ("max_pool1d", ((3,), (1,))),
    "average": ("avg_pool1d", ((2,), (2,))),
    "tanh": ("tanh", ()),
    "softmax": ("softmax.int", (1,)),
}


def plan_with(names: Sequence[str]) -> Plan:
    """The tiny plan with these steps in place of its ReLU."""
    conv, _, mean, *rest = fields()["operations"]
    steps, value = [conv], "conv1d"
    for number, name in enumerate(names):
        op, args = BETWEEN[name]
        steps.append({"out": f"step{number}", "op": op, "args": (f"%{value}", *args)})
        value = f"step{number}"
    return tiny(operations=(*steps, {**mean, "args": (f"%{value}", (2,))}, *rest))


def stacked(
    plan: Plan,
    data: Sequence[Dataset],
    chosen: TrainSettings,
    most: int = 4,
    watch: Callable[[int], Observer] = lambda _: ignore,
    resume: Sequence[Checkpoint | None] = (),
    accelerator: str = "cpu",
) -> list[Trained | Exception]:
    """What becomes of each device, trained together."""
    start, stack = PlanFile(plan, {}).initial(0), Stack(plan, chosen.batch_size, accelerator)
    begun: list[Training] = []
    found: dict[Training, Trained | Exception] = {}

    def each() -> Iterator[Training]:
        for seed, own in enumerate(data):
            checkpoint = resume[seed] if resume else None
            about = start, own, plan, chosen, np.random.default_rng(seed), stack.layout, watch(seed), checkpoint
            begun.append(Training(*about, accelerator=accelerator))
            yield begun[-1]

    train_stacked(each(), stack, most, found.__setitem__)
    assert len(found) == len(data)
    return [found[training] for training in begun]


def alone(plan: Plan, data: Dataset, chosen: TrainSettings, seed: int, watch: Observer = ignore) -> Trained:
    return train(PlanFile(plan, {}).initial(0), data, plan, chosen, np.random.default_rng(seed), watch)


def assert_same(one: Trained, other: Trained | Exception) -> None:
    assert isinstance(other, Trained), other
    np.testing.assert_allclose(other.delta.flat, one.delta.flat, atol=CLOSE)
    assert (other.examples, other.metrics.steps) == (one.examples, one.metrics.steps)
    assert other.metrics.loss == pytest.approx(one.metrics.loss, abs=CLOSE)


a_rate = st.sampled_from([0.001, 0.01, 0.05])
some_settings = st.builds(
    TrainSettings,
    optimizer=st.sampled_from(["sgd", "adam"]),
    learning_rate=a_rate,
    momentum=st.sampled_from([0.0, 0.9]),
    weight_decay=st.sampled_from([0.0, 0.01]),
    proximal=st.sampled_from([0.0, 0.5]),
    epochs=st.integers(1, 3),
    local_steps=st.none() | st.integers(1, 7),
    batch_size=st.integers(1, 9),
    class_weights=st.sampled_from(["none", "balanced", (1.0, 2.0, 0.5)]),
    max_examples=st.none() | st.integers(1, 12),
)


# Always the same examples: where a ReLU or a maximum is a tie to rounding, the two ways go on differently, and both are
# right. Adam makes a whole step of the least difference.
@settings(max_examples=20, deadline=None, derandomize=True)
@given(
    st.lists(st.sampled_from(sorted(BETWEEN)), max_size=3, unique=True),
    st.lists(st.integers(1, 20), min_size=1, max_size=6),
    some_settings,
    st.integers(1, 5),
)
def test_devices_trained_together_get_what_each_gets_alone(
    steps: list[str], counts: list[int], chosen: TrainSettings, most: int
) -> None:
    """Whatever the plan, the settings, and each device's number of examples, the last short batch included."""
    plan = plan_with(steps)
    data = [windows(count, seed) for seed, count in enumerate(counts)]
    together = stacked(plan, data, chosen, most)
    for seed, own in enumerate(data):
        assert_same(alone(plan, own, chosen, seed), together[seed])


def test_steps_are_really_taken_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Five devices of 20, 20, 20, 10 and 20 examples in batches of 10: nine batches, in three steps."""
    sizes: list[int] = []
    step = Stack.step

    def count(stack: Stack, trainings: Sequence[Training]) -> Any:
        sizes.append(len(trainings))
        return step(stack, trainings)

    monkeypatch.setattr(Stack, "step", count)
    data = [windows(examples) for examples in (20, 20, 20, 10, 20)]
    stacked(tiny(), data, TrainSettings(batch_size=10), most=4)
    assert sizes == [4, 4, 1]


def test_a_device_whose_numbers_go_wrong_fails_alone() -> None:
    data = [windows(20, seed) for seed in range(4)]
    data[2] = replace(data[2], inputs=(data[2].inputs[0] * np.float32(1e30),))
    chosen = TrainSettings(batch_size=8, epochs=3, learning_rate=0.05)
    together = stacked(tiny(), data, chosen)
    assert isinstance(together[2], TrainingError)
    assert "the loss became" in str(together[2])
    for seed in (0, 1, 3):
        assert_same(alone(tiny(), data[seed], chosen, seed), together[seed])


class Leave(Exception):
    """This device's training is not wanted any more."""


def test_a_device_that_is_left_leaves_the_others_as_they_are() -> None:
    def watch(seed: int) -> Observer:
        def leave(event: Event) -> None:
            if seed == 1 and event.step == 2:
                raise Leave

        return leave

    data, chosen = [windows(20, seed) for seed in range(4)], TrainSettings(batch_size=5)
    together = stacked(tiny(), data, chosen, watch=watch)
    assert isinstance(together[1], Leave)
    for seed in (0, 2, 3):
        assert_same(alone(tiny(), data[seed], chosen, seed), together[seed])


@pytest.mark.parametrize(("place", "memory"), [("cpu", nullcontext), (PLACE, another_memory)])
def test_a_checkpoint_taken_in_company_is_gone_on_with_alone_and_the_other_way_round(
    place: str, memory: Callable[[], AbstractContextManager[None]]
) -> None:
    """Wherever the company's are. Seen to fail there with a checkpoint that isn't brought back."""
    plan, chosen = plan_with(["dropout"]), TrainSettings(optimizer="adam", batch_size=6, epochs=2)
    data = [windows(20, seed) for seed in range(3)]

    def keeping(kept: dict[int, Checkpoint], step: int) -> Callable[[int], Observer]:
        def watch(seed: int) -> Observer:
            def keep(event: Event) -> None:
                if event.step == step and event.capture is not None:
                    kept[seed] = event.capture()

            return keep

        return watch

    company: dict[int, Checkpoint] = {}
    solitude: dict[int, Checkpoint] = {}
    with memory():
        together = stacked(plan, data, chosen, watch=keeping(company, 3), accelerator=place)
    whole = [alone(plan, own, chosen, seed, keeping(solitude, 5)(seed)) for seed, own in enumerate(data)]
    start = PlanFile(plan, {}).initial(0)
    for seed, own in enumerate(data):
        went_on = train(start, own, plan, chosen, np.random.default_rng(seed), resume=company[seed])
        assert_same(whole[seed], went_on)
    with memory():
        mixed = stacked(plan, data, chosen, resume=[solitude[0], None, company[2]], accelerator=place)
    for one, other, first in zip(whole, mixed, together, strict=True):
        assert_same(one, other)
        assert_same(one, first)


def test_a_training_that_was_left_after_its_last_batch_has_nothing_left_to_do() -> None:
    kept: list[Checkpoint] = []

    def keep(event: Event) -> None:
        if event.kind == "batch" and event.step == event.steps and event.capture is not None:
            kept.append(event.capture())

    data, chosen = windows(20), TrainSettings(batch_size=8)
    whole = alone(tiny(), data, chosen, 0, keep)
    (again,) = stacked(tiny(), [data], chosen, resume=kept)
    assert_same(whole, again)


def test_what_torch_can_not_do_together_is_done_one_by_one_and_said_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise RuntimeError("Batching rule not implemented\nfor this")

    data, chosen = [windows(20, seed) for seed in range(3)], TrainSettings(batch_size=8)
    plan = plan_with(["dropout"])
    monkeypatch.setattr(torch.func, "vmap", refuse)
    with caplog.at_level(logging.WARNING):
        together = stacked(plan, data, chosen)
    for seed, own in enumerate(data):
        assert_same(alone(plan, own, chosen, seed), together[seed])
    told = "plan tiny is trained on one device after the other: Batching rule not implemented"
    assert [record.getMessage() for record in caplog.records] == [told]


def test_parameters_that_are_one_number_or_are_not_used_are_trained_together_too(
    caplog: pytest.LogCaptureFixture,
) -> None:
    conv, _, *rest = fields()["operations"]
    more = (
        {"name": "scale", "shape": (), "init": {"kind": "constant", "value": 1.5}},
        {"name": "idle", "shape": (3,), "init": {"kind": "constant", "value": 0.5}},
    )
    scaled = {"out": "relu", "op": "mul.Tensor", "args": ("%conv1d", "%scale")}
    plan = tiny(parameters=(*fields()["parameters"], *more), operations=(conv, scaled, *rest))
    data, chosen = [windows(20, seed) for seed in range(3)], TrainSettings(batch_size=8, weight_decay=0.1)
    for seed, (own, other) in enumerate(zip(data, stacked(plan, data, chosen), strict=True)):
        assert_same(alone(plan, own, chosen, seed), other)
    assert not caplog.records


def test_dropout_may_be_of_one_number() -> None:
    *steps, loss = fields()["operations"]
    dropped = {"out": "loss", "op": "dropout", "args": ("%whole", 0.5, True)}
    plan = tiny(operations=(*steps, {**loss, "out": "whole"}, dropped))
    data, chosen = [windows(20, seed) for seed in range(3)], TrainSettings(batch_size=8)
    for seed, (own, other) in enumerate(zip(data, stacked(plan, data, chosen), strict=True)):
        assert_same(alone(plan, own, chosen, seed), other)


def of_eight(*, dropping: bool) -> Plan:
    """A plan for batches of eight: whoever has another number of examples left over can't go on with it."""
    conv, _, *rest = fields()["operations"]
    fixed = {"out": "fixed", "op": "reshape", "args": ("%conv1d", (8, 4, 8))}
    last: dict[str, Any] = {"out": "relu", "op": "relu", "args": ("%fixed",)}
    if dropping:
        last |= {"op": "dropout", "args": ("%fixed", 0.5, True)}
    return tiny(operations=(conv, fixed, last, *rest))


@pytest.mark.parametrize("dropping", [True, False])
def test_a_plan_that_can_not_take_a_devices_batch_fails_there_alone(*, dropping: bool) -> None:
    plan, data = of_eight(dropping=dropping), [windows(examples, examples) for examples in (16, 20, 16, 20)]
    together = stacked(plan, data, TrainSettings(batch_size=8))
    for seed in (0, 2):
        assert_same(alone(plan, data[seed], TrainSettings(batch_size=8), seed), together[seed])
    for seed in (1, 3):
        assert isinstance(together[seed], PlanError if dropping else RuntimeError)


def test_a_device_with_batches_of_a_size_of_its_own_is_not_starved() -> None:
    """Others come and go for two hundred steps; it takes one in ten of them at least."""
    order: list[int] = []

    def watch(seed: int) -> Observer:
        return lambda event: order.append(seed) if event.kind == "batch" else None

    data = [windows(7), *(windows(20, seed) for seed in range(1, 60))]
    stacked(tiny(), data, TrainSettings(batch_size=10, local_steps=4), most=3, watch=watch)
    ends = [place for place, seed in enumerate(order) if seed == 0]
    assert ends[-1] < 2 * 4 * 10


@pytest.mark.parametrize("accelerator", ["cpu", "cuda"])
def test_a_larger_plan_is_trained_on_fewer_devices_at_once(accelerator: str) -> None:
    assert 1 <= width(tiny(), 60_000, accelerator) < width(tiny(), 2_000, accelerator) <= width(tiny(), 1, accelerator)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_the_accelerator_nothing_is_begun() -> None:
    with pytest.raises(TrainingError, match="no CUDA"):
        Stack(tiny(), 1, "cuda")


@settings(max_examples=10, deadline=None, derandomize=True)
@given(st.lists(st.sampled_from(sorted(BETWEEN)), max_size=3, unique=True), some_settings, st.integers(1, 4))
def test_an_accelerator_with_a_memory_of_its_own_gives_what_the_cpu_gives(
    steps: list[str], chosen: TrainSettings, most: int
) -> None:
    """Together and, with one at a time, alone. Seen to fail with any move of ``Stack`` or ``Training`` left out."""
    plan, data = plan_with(steps), [windows(count, seed) for seed, count in enumerate((20, 13, 20))]
    here = stacked(plan, data, chosen, most)
    with another_memory(), TestCase().assertNoLogs("edge.training.stacked_training"):
        there = stacked(plan, data, chosen, most, accelerator=PLACE)
    for one, other in zip(here, there, strict=True):
        assert isinstance(one, Trained)
        assert_same(one, other)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_a_gpu_gives_what_the_cpu_gives() -> None:
    plan, chosen = plan_with(["dropout", "group norm", "pairs"]), TrainSettings(batch_size=6)
    data = [windows(20, seed) for seed in range(5)]
    for seed, (own, other) in enumerate(zip(data, stacked(plan, data, chosen, accelerator="cuda"), strict=True)):
        assert_same(alone(plan, own, chosen, seed), other)
