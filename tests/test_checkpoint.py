"""A training left after any batch and gone on with from its checkpoint's bytes ends in the same bits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.training import checkpoint
from edge.training.checkpoint import Checkpoint
from edge.training.loop import Event, Trained, train
from schemas.errors import WireError
from schemas.messages import TrainSettings
from schemas.plan import Plan
from schemas.plan_file import PlanFile
from tests.plan_examples import tiny, windows, with_step

torch.set_num_threads(1)
DROPOUT = Plan.build(**with_step(1, op="dropout", args=("%conv1d", 0.5, True)))
START = PlanFile(tiny(), {}).initial(0)
DATA = windows(40)
ABOUT = checkpoint.subject(b"plan", START, DATA, TrainSettings(), 1, "torch")


class Left(Exception):
    """The training was left."""


def whole(chosen: TrainSettings, plan: Plan = DROPOUT) -> Trained:
    return train(START, DATA, plan, chosen, np.random.default_rng(5))


def left(chosen: TrainSettings, after: int, plan: Plan = DROPOUT, resume: Checkpoint | None = None) -> bytes:
    """The bytes of the checkpoint after ``after`` batches, where the training ends."""
    kept = b""

    def leave(event: Event) -> None:
        nonlocal kept
        if event.capture is not None and event.step == after:
            kept = checkpoint.encode(event.capture(), ABOUT)
            raise Left

    with pytest.raises(Left):
        train(START, DATA, plan, chosen, np.random.default_rng(5), leave, resume)
    return kept


def resumed(chosen: TrainSettings, raw: bytes, plan: Plan = DROPOUT) -> tuple[Trained, list[Event]]:
    events: list[Event] = []
    kept = checkpoint.decode(raw, ABOUT)
    torch.manual_seed(99)  # whatever happened in between
    return train(START, DATA, plan, chosen, np.random.default_rng(5), events.append, kept), events


def equal(one: Trained, two: Trained) -> bool:
    return one.delta.equal(two.delta) and (one.examples, one.metrics) == (two.examples, two.metrics)


SETTINGS = st.builds(
    TrainSettings,
    optimizer=st.sampled_from(["sgd", "adam"]),
    learning_rate=st.just(0.01),
    momentum=st.sampled_from([0.0, 0.9]),
    weight_decay=st.sampled_from([0.0, 0.01]),
    proximal=st.sampled_from([0.0, 0.5]),
    epochs=st.integers(1, 3),
    local_steps=st.none() | st.integers(1, 12),
    batch_size=st.sampled_from([7, 16, 40]),
    max_examples=st.none() | st.sampled_from([20, 33]),
)


@settings(max_examples=150, deadline=None)
@given(chosen=SETTINGS, data=st.data(), plan=st.sampled_from([DROPOUT, tiny()]))
def test_a_training_left_after_any_batch_goes_on_to_the_same_bits(
    chosen: TrainSettings, data: st.DataObject, plan: Plan
) -> None:
    """Seen to fail with masks counted from where it goes on, without numpy's generator, without the momentum, without
    Adam's count of steps, and without the loss's sum."""
    straight = whole(chosen, plan)
    first = data.draw(st.integers(1, straight.metrics.steps), "left after")
    raw = left(chosen, first, plan)
    if first < straight.metrics.steps and data.draw(st.booleans(), "left twice"):
        second = data.draw(st.integers(first + 1, straight.metrics.steps), "and again after")
        raw = left(chosen, second, plan, checkpoint.decode(raw, ABOUT))
    assert equal(resumed(chosen, raw, plan)[0], straight)


def test_only_the_batches_after_the_checkpoint_are_done_again() -> None:
    chosen = TrainSettings(epochs=3, batch_size=8)
    _, events = resumed(chosen, left(chosen, 11))
    assert [(event.kind, event.step) for event in events][:2] == [("start", 11), ("batch", 12)]
    assert sum(event.kind == "batch" for event in events) == 4


def test_a_checkpoint_is_a_copy_that_training_does_not_write_to() -> None:
    kept: list[Checkpoint] = []

    def keep(event: Event) -> None:
        if event.capture is not None:
            kept.append(event.capture())

    train(START, DATA, DROPOUT, TrainSettings(batch_size=8), np.random.default_rng(5), keep)
    assert not np.array_equal(kept[0].parameters, kept[-1].parameters)
    assert not np.array_equal(kept[0].optimiser[0], kept[-1].optimiser[0])


@pytest.mark.parametrize(
    "changed",
    [
        {"plan": b"another"},
        {"model": PlanFile(tiny(), {}).initial(1)},
        {"data": windows(41)},
        {"data": windows(40, seed=1)},
        {"settings": TrainSettings(epochs=2)},
        {"seed": 2},
        {"engine": "another torch"},
    ],
)
def test_a_checkpoint_of_something_else_is_not_gone_on_with(changed: dict[str, Any]) -> None:
    raw = left(TrainSettings(), 1)
    about: dict[str, Any] = {"plan": b"plan", "model": START, "data": DATA, "settings": TrainSettings(), "seed": 1}
    about["engine"] = "torch"
    with pytest.raises(WireError, match="another plan, model, data, settings, torch or number of threads"):
        checkpoint.decode(raw, checkpoint.subject(**(about | changed)))


@pytest.mark.parametrize("chosen", [TrainSettings(optimizer="adam"), TrainSettings(local_steps=1, momentum=0.0)])
def test_a_checkpoint_that_does_not_fit_the_training_is_refused(chosen: TrainSettings) -> None:
    kept = checkpoint.decode(left(TrainSettings(epochs=2), 2), ABOUT)
    with pytest.raises(WireError, match="another number"):
        train(START, DATA, DROPOUT, chosen, np.random.default_rng(5), resume=kept)


@settings(max_examples=300, deadline=None)
@given(where=st.integers(0, 20_000), flip=st.integers(1, 255), cut=st.booleans(), more=st.binary(max_size=3))
def test_other_bytes_are_a_wire_error_or_a_whole_checkpoint(where: int, flip: int, cut: bool, more: bytes) -> None:  # noqa: FBT001 - drawn by hypothesis
    """A digest stands around them on disk; without it a flipped number is just another number."""
    raw = bytearray(RAW)
    where %= len(raw)
    if cut:
        del raw[where:]
    else:
        raw[where] ^= flip
    try:
        kept = checkpoint.decode(bytes(raw) + more, ABOUT)
        train(START, DATA, DROPOUT, TrainSettings(), np.random.default_rng(5), resume=kept)
    except WireError:
        return
    assert len(kept.parameters) == START.manifest.size


@given(st.binary(max_size=300))
def test_any_bytes_are_a_wire_error(raw: bytes) -> None:
    with pytest.raises(WireError):
        checkpoint.decode(raw, ABOUT)


def test_a_claimed_size_is_checked_before_anything_is_allocated() -> None:
    huge = RAW.replace(f'"parameters":{START.manifest.size}'.encode(), b'"parameters":268435456')
    assert huge != RAW
    with pytest.raises(WireError, match="instead of"):
        checkpoint.decode(huge, ABOUT)


RAW = left(TrainSettings(), 1)
