from __future__ import annotations

import os
import queue
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from edge.core.jobs import Describe, Described, Evaluate, Evaluated, Failure, Progressed, Result, Train, Trained
from edge.dataspec import DataSpec
from edge.trainer.pool import TrainerPool
from schemas import compression
from schemas.messages import TrainSettings
from schemas.plan_file import PlanFile
from tests.plan_examples import CLASSES, tiny, windows
from tests.waiting import until

LIMIT_S = 30.0
MODEL = PlanFile(tiny(), {}).initial(0)
BLOB = compression.encode("float32", MODEL, np.random.default_rng(0))


class Answers:
    """What a pool answers, in the order it does; reports of progress apart."""

    def __init__(self) -> None:
        self._queue: queue.Queue[Result | Failure] = queue.Queue()
        self.progress: list[Progressed] = []

    def __call__(self, answer: Progressed | Result | Failure) -> None:
        if isinstance(answer, Progressed):
            self.progress.append(answer)
        else:
            self._queue.put(answer)

    def kept(self) -> list[Progressed]:
        """The reports that carry a checkpoint."""
        return [report for report in self.progress if report.checkpoint]

    def next(self) -> Result | Failure:
        return self._queue.get(timeout=LIMIT_S)

    def empty(self) -> bool:
        return self._queue.empty()


@pytest.fixture
def answers() -> Answers:
    return Answers()


@pytest.fixture
def pool() -> Iterator[TrainerPool]:
    with TrainerPool(nice=0) as running:
        yield running


@pytest.fixture
def data(tmp_path: Path) -> DataSpec:
    drawn = windows(60)
    np.savez(tmp_path / "windows.npz", x=drawn.inputs[0], y=drawn.labels, classes=np.array(CLASSES))
    return DataSpec(path=str(tmp_path / "windows.npz"), held_out="0.2")


def describe(data: DataSpec, key: str = "d") -> Describe:
    return Describe(key=key, data=data, recipe="windows")


def training(data: DataSpec, key: str = "t", **settings: Any) -> Train:
    chosen = TrainSettings(**settings)
    return Train(key=key, plan=tiny().to_bytes(), model=BLOB, data=data, settings=chosen, seed=1, codec="float32")


def endless(data: DataSpec, key: str = "t") -> Train:
    return training(data, key, epochs=1000, batch_size=1)


def children() -> list[psutil.Process]:
    found = []
    for process in psutil.Process().children():
        try:
            if "edge.trainer.child" in process.cmdline() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.NoSuchProcess:
            continue
    return found


def has_torch(process: psutil.Process) -> bool:
    return any("libtorch" in entry.path for entry in process.memory_maps())


def ended(process: psutil.Process) -> bool:
    try:
        return bool(process.status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


def test_a_child_starts_with_work_answers_it_and_ends_when_idle(answers: Answers, data: DataSpec) -> None:
    with TrainerPool(idle_s=0.2, nice=0) as pool:
        assert not children()
        pool.submit(describe(data), answers)
        described = answers.next()
        assert isinstance(described, Described)
        assert (described.key, described.examples, described.held_out) == ("d", 48, 12)
        until(lambda: not children(), "the child to end")
        pool.submit(describe(data), answers)
        assert isinstance(answers.next(), Described)


def test_one_child_trains_and_evaluates_one_job_after_the_other(
    pool: TrainerPool, answers: Answers, data: DataSpec
) -> None:
    pool.submit(training(data), answers)
    pool.submit(Evaluate(key="e", plan=tiny().to_bytes(), model=BLOB, data=data), answers)
    trained, evaluated = answers.next(), answers.next()
    assert isinstance(trained, Trained)
    assert compression.decode(trained.payload, MODEL.manifest).norm() > 0
    assert isinstance(evaluated, Evaluated)
    assert evaluated.counts.examples == 12
    assert (trained.peak_mb or 0) > 100  # the child's own, with torch in it
    assert (evaluated.peak_mb or 0) >= (trained.peak_mb or 0)
    assert len(children()) == 1


def test_counting_recordings_brings_no_torch_into_the_child(
    pool: TrainerPool, answers: Answers, data: DataSpec
) -> None:
    pool.submit(describe(data), answers)
    answers.next()
    (child,) = children()
    assert not has_torch(child)
    pool.submit(training(data), answers)
    answers.next()
    assert has_torch(child)


def test_warming_starts_a_child_with_torch_and_answers_nobody(
    pool: TrainerPool, answers: Answers, data: DataSpec
) -> None:
    pool.warm()
    pool.warm()
    until(children, "a child")
    (child,) = children()
    until(lambda: has_torch(child), "torch")
    pool.submit(training(data), answers)
    assert isinstance(answers.next(), Trained)
    assert children() == [child]


def test_a_killed_child_is_a_crash_and_the_next_job_gets_a_new_one(
    pool: TrainerPool, answers: Answers, data: DataSpec
) -> None:
    pool.submit(endless(data), answers)
    until(children, "a child")
    (child,) = children()
    os.kill(child.pid, signal.SIGKILL)
    failure = answers.next()
    assert isinstance(failure, Failure)
    assert (failure.key, failure.kind) == ("t", "crash")
    assert "signal 9" in failure.message
    pool.submit(describe(data), answers)
    assert isinstance(answers.next(), Described)
    assert child not in children()


def test_a_child_that_died_while_idle_costs_no_job(pool: TrainerPool, answers: Answers, data: DataSpec) -> None:
    pool.submit(describe(data), answers)
    answers.next()
    (child,) = children()
    child.kill()
    # Before its last thread is gone, not even the kernel says that it has ended.
    threads = Path(f"/proc/{child.pid}/task")
    until(lambda: ended(child) and len(list(threads.iterdir())) == 1, "its last thread to end")
    pool.submit(describe(data), answers)
    assert isinstance(answers.next(), Described)


def test_a_running_job_can_be_cancelled_and_the_child_goes_on(
    pool: TrainerPool, answers: Answers, data: DataSpec
) -> None:
    pool.submit(training(data), answers)
    answers.next()
    (child,) = children()
    pool.submit(endless(data), answers)
    until(lambda: pool._running, "the job to begin")
    pool.submit(describe(data), answers)
    pool.cancel("t")
    assert isinstance(answers.next(), Described)
    assert children() == [child]
    assert answers.empty()


def test_a_waiting_job_can_be_cancelled(pool: TrainerPool, answers: Answers, data: DataSpec) -> None:
    for key in "abc":
        pool.submit(describe(data, key), answers)
    pool.cancel("b")
    assert [answers.next().key for _ in "ac"] == ["a", "c"]
    assert answers.empty()


def test_a_child_that_does_not_listen_to_a_cancel_is_killed(
    pool: TrainerPool, answers: Answers, data: DataSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge.trainer.pool.CANCEL_S", 0.2)
    pool.submit(describe(data), answers)
    answers.next()
    (child,) = children()
    child.suspend()
    pool.submit(endless(data), answers)
    until(lambda: pool._running, "the job to begin")
    pool.cancel("t")
    pool.submit(describe(data, "after"), answers)
    assert answers.next().key == "after"
    assert child not in children()


def test_a_receiver_that_raises_does_not_stop_the_pool(pool: TrainerPool, answers: Answers, data: DataSpec) -> None:
    def broken(_answer: Progressed | Result | Failure) -> None:
        raise ValueError("a bug")

    pool.submit(describe(data), broken)
    pool.submit(describe(data), answers)
    assert isinstance(answers.next(), Described)


def test_several_workers_work_at_the_same_time(answers: Answers, data: DataSpec) -> None:
    with TrainerPool(workers=2, nice=0) as pool:
        pool.submit(endless(data, "long"), answers)
        pool.submit(describe(data), answers)
        assert answers.next().key == "d"
        pool.cancel("long")


def test_closing_ends_the_children_and_drops_the_jobs(answers: Answers, data: DataSpec) -> None:
    pool = TrainerPool(nice=0)
    pool.submit(endless(data, "running"), answers)
    pool.submit(describe(data, "waiting"), answers)
    until(children, "a child")
    pool.close()
    assert not children()
    pool.submit(describe(data, "late"), answers)
    assert answers.empty()


def test_a_child_that_can_not_start_is_a_crash(
    pool: TrainerPool, answers: Answers, data: DataSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge.trainer.pool.sys.executable", "/bin/false")
    pool.submit(describe(data), answers)
    failure = answers.next()
    assert isinstance(failure, Failure)
    assert failure.kind == "crash"
    assert "exit code 1" in failure.message
    monkeypatch.setattr("edge.trainer.pool.sys.executable", "/nowhere/python")
    pool.submit(describe(data), answers)
    assert "can't be started" in str(answers.next())


def test_a_child_ends_when_its_agent_is_killed(data: DataSpec) -> None:
    """It is in the middle of a job, and hears of it from the socket alone."""
    agent = os.fork()
    if not agent:
        pool = TrainerPool(nice=0)
        pool.submit(endless(data), lambda _answer: None)
        threading.Event().wait()
    process = psutil.Process(agent)
    until(process.children, "a child")
    (child,) = process.children()
    until(lambda: has_torch(child), "torch")
    process.kill()
    os.waitpid(agent, 0)
    until(lambda: ended(child), "the child to end")


# -- checkpoints -------------------------------------------------------------------------------------------------------


def long(data: DataSpec, key: str = "t", **changes: Any) -> Train:
    """Some thousand batches, with a checkpoint every few of them."""
    job = training(data, key, epochs=60, batch_size=1)
    return job.model_copy(update={"checkpoint_s": 0.05, **changes})


def brief(data: DataSpec, **changes: Any) -> Train:
    """Some hundred batches, with checkpoints too, for whom it may be over at any time."""
    job = training(data, epochs=10, batch_size=1)
    return job.model_copy(update={"checkpoint_s": 0.01, **changes})


def payload(answer: Result | Failure) -> bytes:
    assert isinstance(answer, Trained), answer
    return answer.payload


def test_a_child_that_is_killed_lost_only_what_came_after_its_newest_checkpoint(
    pool: TrainerPool, answers: Answers, data: DataSpec
) -> None:
    """Seen to fail with ``resumed`` in the trainer giving None (it starts over at 0), and with a checkpoint of the
    first batch in place of the newest."""
    pool.submit(long(data), answers)
    straight = payload(answers.next())
    again = Answers()
    pool.submit(long(data), again)
    until(lambda: len(again.kept()) > 2, "three checkpoints")
    for child in children():
        child.send_signal(signal.SIGKILL)
    crash = again.next()
    assert isinstance(crash, Failure)
    newest = again.kept()[-1]
    assert 0 < newest.fraction < 1
    rest = Answers()
    pool.submit(long(data, checkpoint=newest.checkpoint), rest)
    assert payload(rest.next()) == straight
    assert rest.progress[0].fraction == newest.fraction


def test_a_suspended_job_gives_where_it_was_and_no_answer(pool: TrainerPool, answers: Answers, data: DataSpec) -> None:
    """Seen to fail without ``keep`` in the cancel that the child is sent."""
    pool.submit(long(data), answers)
    straight = payload(answers.next())
    again = Answers()
    pool.submit(long(data, checkpoint_s=0.0), again)
    until(lambda: again.progress, "progress")
    left = pool.suspend("t")
    assert left is not None
    assert left.checkpoint
    assert again.kept() == []
    assert again.empty()
    pool.submit(long(data, checkpoint=left.checkpoint), answers)
    assert payload(answers.next()) == straight


def test_there_is_nothing_to_keep_of_a_job_that_is_not_running(
    pool: TrainerPool, answers: Answers, data: DataSpec
) -> None:
    assert pool.suspend("nobody") is None
    pool.submit(endless(data, "running"), answers)
    until(lambda: answers.progress, "progress")
    pool.submit(training(data, "waiting"), answers)
    assert pool.suspend("waiting") is None
    pool.cancel("running")
    pool.submit(describe(data), answers)
    assert answers.next().key == "d"


HARMS: dict[str, Callable[[bytes], bytes]] = {
    "cut off": lambda raw: raw[:-9],
    "garbage": lambda _raw: b"garbage",
    "of a batch beyond the last": lambda raw: raw.replace(b'"step":', b'"step":999'),
}


def test_a_checkpoint_that_can_not_be_gone_on_from_costs_no_round(
    pool: TrainerPool, answers: Answers, data: DataSpec
) -> None:
    pool.submit(brief(data), answers)
    straight, kept = payload(answers.next()), answers.kept()[0].checkpoint
    for name, harm in HARMS.items():
        assert harm(kept) != kept
        again = Answers()
        pool.submit(brief(data, checkpoint=harm(kept)), again)
        assert payload(again.next()) == straight, name
        assert again.progress[0].fraction == 0, name


def test_with_other_data_training_starts_over(
    pool: TrainerPool, answers: Answers, data: DataSpec, tmp_path: Path
) -> None:
    pool.submit(brief(data), answers)
    answers.next()
    drawn = windows(60, seed=1)
    np.savez(tmp_path / "other.npz", x=drawn.inputs[0], y=drawn.labels, classes=np.array(CLASSES))
    other = data.model_copy(update={"path": str(tmp_path / "other.npz")})
    pool.submit(brief(other), answers)
    fresh = payload(answers.next())
    again = Answers()
    pool.submit(brief(other, checkpoint=answers.kept()[0].checkpoint), again)
    assert payload(again.next()) == fresh
    assert again.progress[0].fraction == 0
