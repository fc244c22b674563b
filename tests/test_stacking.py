from __future__ import annotations

import pytest

from edge.core.jobs import Describe, Together, Train, Warm, read_request
from edge.dataspec import DataSpec
from edge.trainer.stacking import Stacking, alike, request, sharing
from schemas.messages import TrainSettings

PLAN, MODEL = b"a plan", b"m" * 1000


def training(key: str, model: bytes = MODEL, plan: bytes = PLAN, epochs: int = 1, checkpoint: bytes = b"") -> Train:
    return Train(
        key=key,
        plan=plan,
        model=model,
        data=DataSpec(path="here"),
        settings=TrainSettings(epochs=epochs),
        seed=1,
        codec="int8",
        checkpoint=checkpoint,
    )


FIRST = training("first")
DESCRIBE = Describe(key="d", data=DataSpec(path="here"), recipe="windows")


@pytest.mark.parametrize(
    "other",
    [
        training("b", model=b"another"),
        training("b", plan=b"another"),
        training("b", epochs=2),
        training("first"),  # answers go by the key
        DESCRIBE,
        Warm(key="w"),
    ],
)
def test_what_differs_in_plan_model_or_settings_is_not_done_together(other: Train | Describe | Warm) -> None:
    assert alike(FIRST, [other, training("c")], 1) == [1]
    assert alike(other, [training("c")], 1) == ([0] if other == FIRST else [])


def test_a_training_beside_layers_of_its_own_is_done_alone_whatever_the_accelerator() -> None:
    """What trains many at once knows one model for all. Seen to fail where it is stacked, and where cuda has it so."""
    mine, other = (FIRST.model_copy(update={"key": key, "local": ("head",), "own": b"own"}) for key in ("a", "b"))
    assert alike(mine, [other], 1) == []
    assert alike(FIRST, [mine, training("c")], 1) == [1]
    assert list(request([mine], Stacking(accelerator="cuda"))) == list(mine.frames())


def test_each_child_takes_its_share_of_what_is_alike() -> None:
    others = [training(str(number)) for number in range(9)]
    assert alike(FIRST, others, 1) == list(range(9))
    assert alike(FIRST, others, 2) == [0, 1, 2, 3]
    assert alike(FIRST, others, 20) == []
    assert alike(FIRST, others[5:], 2, [*others[:5], DESCRIBE]) == [0, 1, 2, 3]  # what the other child has left
    assert len(alike(FIRST, [training(str(number)) for number in range(3000)], 1)) == 1023


def test_plan_and_model_go_to_the_child_once_and_all_else_for_each_device() -> None:
    jobs = [FIRST, training("b", checkpoint=b"so far"), training("c")]
    frames = list(request(jobs, Stacking(width=7)))
    assert [frames.count(blob) for blob in (PLAN, MODEL, b"so far")] == [1, 1, 1]
    waiting = iter(frames)
    receive = lambda _most: next(waiting)  # noqa: E731 - the shape of a connection's
    about, *members = [read_request(receive) for _ in range(4)]
    assert isinstance(about, Together)
    assert (about.jobs, about.width, about.accelerator, about.model) == (3, 7, "cpu", MODEL)
    bare = [job.model_copy(update={"plan": b"", "model": b""}) for job in jobs]
    assert members == bare


def test_one_job_goes_as_it_is_unless_only_a_batch_knows_the_accelerator() -> None:
    assert tuple(request([FIRST], None)) == tuple(request([FIRST], Stacking())) == FIRST.frames()
    assert tuple(request([DESCRIBE], Stacking(accelerator="cuda"))) == DESCRIBE.frames()
    assert b"cuda" in next(request([FIRST], Stacking(accelerator="cuda")))


def test_equal_plans_and_models_that_wait_are_held_once() -> None:
    again = training("b", model=bytes(bytearray(MODEL)), plan=bytes(bytearray(PLAN)))
    assert again.model is not FIRST.model
    kept = sharing(again, FIRST)
    assert isinstance(kept, Train)
    assert (kept.model is FIRST.model, kept.plan is FIRST.plan) == (True, True)
    other = training("c", model=b"another")
    assert sharing(other, FIRST) is other
    assert sharing(DESCRIBE, FIRST) is DESCRIBE
