"""What a trainer child hears beside its work, when it tells how far it is, and what it makes of errors."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import pytest

from edge.core.jobs import MAX_TEXT, Cancel, Done, Failure, Progressed, Request, Together, Train, Warm
from edge.dataspec import DataSpec
from edge.trainer.frames import Frames
from edge.trainer.inbox import Batch, Cancelled, Inbox, Watch, explained
from edge.training.checkpoint import Checkpoint
from edge.training.loop import Event
from schemas.errors import DataError, ModelError, PlanError, Reject, TrainingError, WireError
from schemas.messages import TrainSettings
from schemas.plan_file import PlanFile
from tests.plan_examples import tiny, windows
from tests.trainer_ends import ends

Kind = Literal["start", "batch", "epoch"]
PLAN = tiny().to_bytes()
STEPS = 100
LIMIT_S = 60.0


def training(key: str = "job", **more: Any) -> Train:
    about = {"key": key, "plan": PLAN, "model": b"m", "data": DataSpec(path="x"), "seed": 1, "codec": "int8"}
    return Train.model_validate({**about, "settings": TrainSettings(), **more})


class Bench:
    """A training that is watched, on a clock of its own."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, checkpoint_s: float = 0.0) -> None:
        self.now, self.step = 1000.0, 0
        self.told: list[Progressed] = []
        monkeypatch.setattr("edge.trainer.inbox.time.monotonic", lambda: self.now)
        self.agent, child = ends()
        self.inbox = Inbox(child, leave=lambda _code: None)
        self.job = training(checkpoint_s=checkpoint_s)
        model = PlanFile(tiny(), {}).initial(0)
        self.watch = Watch(self.job, model, windows(), "engine", self.inbox, self.told.append)

    def cancel(self, *, keep: bool) -> None:
        """The agent says so, and the child has heard it."""
        send(self.agent, Cancel(key="job", keep=keep), Warm(key="heard"))
        assert self.inbox.next() == Warm(key="heard")

    def batch(self, after_s: float) -> list[float]:
        """So much later a batch is done; what was told of that: 1 with a checkpoint, 0 without."""
        return self.event("batch", after_s, capture)

    def event(self, kind: Kind, after_s: float, capture: Callable[[], Checkpoint] | None = None) -> list[float]:
        self.now += after_s
        self.step += 1
        before = len(self.told)
        self.watch(Event(kind, 0, self.step, STEPS, 0.5, capture))
        assert all(one.fraction == self.step / STEPS for one in self.told[before:])
        return [bool(one.checkpoint) for one in self.told[before:]]


def capture() -> Checkpoint:
    shuffle = np.random.default_rng(0).bit_generator.state
    return Checkpoint(1, np.zeros(3, np.float32), (), 0.0, 0, 0.0, shuffle)


def send(agent: Frames, *requests: Request) -> None:
    for request in requests:
        for frame in request.frames():
            agent.send(frame)


def test_how_far_it_is_is_told_at_once_and_then_once_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each goes through the agent's one thread. Seen to fail with every batch told."""
    bench = Bench(monkeypatch)
    assert [bench.batch(seconds) for seconds in (0.0, 0.5, 0.4, 0.1, 0.9, 5.0)] == [[0], [], [], [0], [], [0]]


def test_a_checkpoint_is_taken_as_often_as_the_owner_wants_and_counts_as_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seen to fail with one for every batch after the first that was due."""
    bench = Bench(monkeypatch, checkpoint_s=10.0)
    seconds = (0.0, 9.5, 0.5, 0.5, 9.0, 0.5)
    assert [bench.batch(each) for each in seconds] == [[False], [False], [True], [], [False], [True]]
    assert bench.event("epoch", 10.0) == [False]  # where there is nothing to capture it waits for the next batch
    assert bench.batch(0.0) == [True]


def test_without_the_owners_wish_none_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(monkeypatch)
    assert [bench.batch(3600.0) for _ in range(3)] == [[False]] * 3


@pytest.mark.parametrize("kind", ["start", "epoch", "batch"])
def test_a_cancelled_training_ends_at_whatever_comes_next_without_a_word(
    monkeypatch: pytest.MonkeyPatch, kind: Kind
) -> None:
    """Seen to fail with a report of what nobody waits for, with a checkpoint of it, and with a batch more."""
    bench = Bench(monkeypatch)
    bench.cancel(keep=False)
    with pytest.raises(Cancelled):
        bench.event(kind, 10.0, capture if kind == "batch" else None)
    assert bench.told == []


def test_a_suspended_training_ends_after_the_next_batch_with_a_checkpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seen to fail where it ended at once, with nothing kept."""
    bench = Bench(monkeypatch)
    bench.cancel(keep=True)
    assert bench.event("epoch", 10.0) == []
    with pytest.raises(Cancelled):
        bench.batch(0.0)
    assert [bool(one.checkpoint) for one in bench.told] == [True]


class Left:
    """How a child has left, once it has."""

    def __init__(self) -> None:
        self.codes: list[int] = []
        self._left = threading.Event()

    def __call__(self, code: int) -> None:
        self.codes.append(code)
        self._left.set()

    def code(self) -> int:
        assert self._left.wait(LIMIT_S)
        return self.codes[0]


def test_a_child_whose_agent_hangs_up_leaves_its_work_at_once() -> None:
    """Seen to fail where it was let go on: it trained for nobody, for hours maybe."""
    agent, child = ends()
    left = Left()
    Inbox(child, left)
    agent.close()
    assert left.code() == 0


@pytest.mark.parametrize("batch", [False, True])
def test_a_child_that_is_sent_what_is_no_job_leaves_and_says_so(
    caplog: pytest.LogCaptureFixture, *, batch: bool
) -> None:
    """In a batch what is no training isn't either. Seen to fail where it was taken for one."""
    agent, child = ends()
    left = Left()
    Inbox(child, left)
    if batch:
        send(agent, Together(key="all", plan=PLAN, model=b"m", jobs=2), training("one"), Warm(key="two"))
    else:
        agent.send(b'{"job": "lunch"}')
    assert left.code() == 1
    assert "the agent sent what is no job" in caplog.text


def test_trainings_of_a_batch_come_with_its_plan_and_model_and_no_earlier_jobs_cancel() -> None:
    """Seen to fail where a cancel that came too late hit the next job of that key."""
    agent, child = ends()
    inbox = Inbox(child, lambda _code: None)
    together = Together(key="all", plan=PLAN, model=b"theirs", jobs=2)
    bare = [training(key, plan=b"", model=b"") for key in ("one", "two")]
    send(agent, Cancel(key="two"), together, *bare, Cancel(key="one"), Warm(key="behind"))
    batch, behind = inbox.next(), inbox.next()
    assert isinstance(batch, Batch)
    assert behind == Warm(key="behind")
    assert [(job.key, job.plan, job.model) for job in batch.jobs] == [
        ("one", PLAN, b"theirs"),
        ("two", PLAN, b"theirs"),
    ]
    inbox.check("two")
    with pytest.raises(Cancelled):
        inbox.check("one")


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (PlanError("no plan"), "plan"),
        (ModelError("steps lead elsewhere"), "model"),
        (TrainingError("not finite"), "training"),
        (WireError(Reject.MALFORMED, "no codec"), "training"),
        (DataError("no recordings"), "data"),
        (RuntimeError("CUDA out of memory"), "training"),
        (MemoryError(), "training"),
        (PermissionError(13, "Permission denied", "100.dat"), "data"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else value,
)
def test_an_error_of_a_job_is_its_answer_by_what_has_to_be_seen_to(error: Exception, kind: str) -> None:
    """An agent fetches a model again, and not a plan. Seen to fail without each of these."""
    answer = explained("job", error)
    assert isinstance(answer, Failure)
    assert (answer.key, answer.kind) == ("job", kind)


def test_a_failure_is_told_in_one_short_line() -> None:
    """Seen to fail with an error of torch's that has its stack in it, and with one that no message holds."""
    long = explained("job", PlanError("x" * 2 * MAX_TEXT))
    assert isinstance(long, Failure)
    assert len(long.message) == MAX_TEXT
    for error, reason in ((RuntimeError("no room\nat line 1"), "no room"), (MemoryError(), "memory ran out")):
        answer = explained("job", error)
        assert isinstance(answer, Failure)
        assert answer.message == f"torch can't run the plan here: {reason}"


def test_a_cancelled_job_is_done_and_what_is_no_jobs_fault_ends_the_child() -> None:
    assert explained("job", Cancelled()) == Done(key="job")
    for error in (KeyError("a bug"), BrokenPipeError()):
        with pytest.raises(type(error)):
            explained("job", error)
