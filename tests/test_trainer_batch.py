"""Batches of trainings from the pool to its child and back: what one job does is no other's concern."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coordinator.models import ModelStore
from coordinator.service import CoordinatorService
from edge.core.jobs import Describe, Described, Failure, Result, Train, Trained
from edge.dataspec import DataSpec
from edge.fleet import Fleet, VirtualFleet
from edge.start import check_accelerator
from edge.trainer.child import Trainer
from edge.trainer.inbox import Inbox
from edge.trainer.pool import TrainerPool
from edge.trainer.stacking import Stacking
from schemas import compression
from schemas.errors import SettingsError
from schemas.link.memory import MemoryBroker, MemoryLink
from schemas.messages import PlanRef, RunSettings, TrainSettings
from schemas.parameters import Parameters
from schemas.parts import describe
from schemas.topics import Topics
from tests.plan_examples import CLASSES, tiny, windows
from tests.test_trainer_pool import BLOB, MODEL, Answers, children
from tests.trainer_ends import unheard
from tests.waiting import until

CLOSE = 1e-5


@pytest.fixture(scope="module")
def pool() -> Iterator[TrainerPool]:
    """One child for all tests: each start of torch takes seconds."""
    with TrainerPool(nice=0, idle_s=600, stacking=Stacking(width=4)) as running:
        yield running


@pytest.fixture
def answers() -> Answers:
    return Answers()


@pytest.fixture
def shares(tmp_path: Path) -> list[DataSpec]:
    """Sixty windows on disk, shared out unevenly among six devices."""
    drawn = windows(60)
    owners = np.repeat(["a", "b", "c", "d", "e", "f"], [5, 8, 8, 12, 13, 14])
    np.savez(tmp_path / "w.npz", x=drawn.inputs[0], y=drawn.labels, classes=np.array(CLASSES), owner=owners)
    path = str(tmp_path / "w.npz")
    return [DataSpec(path=path, devices=6, index=index, held_out="none") for index in range(6)]


def training(data: DataSpec, key: str, **changes: Any) -> Train:
    about = {"plan": tiny().to_bytes(), "model": BLOB, "data": data, "codec": "float32", "seed": data.index}
    return Train.model_validate({**about, "key": key, "settings": TrainSettings(batch_size=4, epochs=2), **changes})


def jobs(shares: list[DataSpec], **changes: Any) -> list[Train]:
    return [training(data, f"job-{data.index}", **changes) for data in shares]


def submit_at_once(pool: TrainerPool, answers: Answers, wanted: list[Train]) -> None:
    """All before the pool can begin with one of them."""
    with pool._change:
        for job in wanted:
            pool.submit(job, answers)


def all_of(answers: Answers, count: int) -> dict[str, Result | Failure]:
    found = [answers.next() for _ in range(count)]
    return {answer.key: answer for answer in found}


def delta(answer: Result | Failure) -> Parameters:
    assert isinstance(answer, Trained), answer
    return compression.decode(answer.payload, MODEL.manifest)


def whole(answer: Result | Failure) -> Parameters:
    """What an update says and what it leaves out, the latter rounded to bfloat16."""
    assert isinstance(answer, Trained), answer
    return delta(answer).add(compression.decode(answer.residual, MODEL.manifest))


def assert_same(one: Result | Failure, other: Result | Failure) -> None:
    np.testing.assert_allclose(delta(one).flat, delta(other).flat, atol=CLOSE)
    assert isinstance(one, Trained)
    assert isinstance(other, Trained)
    assert one.examples == other.examples
    assert one.train_loss == pytest.approx(other.train_loss, abs=CLOSE)


def alone(job: Train) -> Result | Failure:
    """What a trainer that does one job at a time answers."""
    inbox = Inbox(unheard(), leave=lambda _code: None)
    answer = Trainer(inbox, threads=1, report=lambda _answer: None).answer(job)
    assert isinstance(answer, Trained | Failure)
    return answer


def test_jobs_that_wait_together_are_answered_as_one_by_one(
    pool: TrainerPool, answers: Answers, shares: list[DataSpec]
) -> None:
    submit_at_once(pool, answers, jobs(shares))
    together = all_of(answers, 6)
    for job in jobs(shares):
        assert_same(alone(job), together[job.key])
    assert answers.empty()
    pool.submit(Describe(key="d", data=shares[0], recipe="windows"), answers)
    assert isinstance(answers.next(), Described)


def test_jobs_that_carry_something_begin_where_they_would_one_by_one(
    pool: TrainerPool, answers: Answers, shares: list[DataSpec]
) -> None:
    """And are pulled back to the same model. Seen to fail where a stack began with the model for all."""
    drawn = np.random.default_rng(5)
    left = [
        Parameters(MODEL.manifest, drawn.standard_normal(MODEL.manifest.size, np.float32)) for _ in range(len(shares))
    ]
    pulled = TrainSettings(batch_size=4, epochs=2, proximal=0.5)
    wanted = [
        training(
            data,
            f"job-{data.index}",
            codec="topk",
            settings=pulled,
            residual=compression.encode("bfloat16", own, drawn),
        )
        for data, own in zip(shares[1:], left[1:], strict=True)
    ]
    wanted.append(training(shares[0], "job-0", codec="topk", settings=pulled))
    submit_at_once(pool, answers, wanted)
    together = all_of(answers, 6)
    for job in wanted:
        np.testing.assert_allclose(whole(alone(job)).flat, whole(together[job.key]).flat, atol=0.02)


def test_jobs_that_fail_do_not_take_the_others_with_them(
    pool: TrainerPool, answers: Answers, shares: list[DataSpec]
) -> None:
    """Recordings that are gone, a codec that isn't known, and a checkpoint of nothing, which is only left aside."""
    wanted = jobs(shares)
    wanted[0] = training(DataSpec(path="/nowhere/at/all"), "job-0")
    wanted[2] = training(shares[2], "job-2", codec="zip")
    wanted[3] = training(shares[3], "job-3", checkpoint=b"nothing")
    submit_at_once(pool, answers, wanted)
    together = all_of(answers, 6)
    kinds = {key: answer.kind for key, answer in together.items() if isinstance(answer, Failure)}
    assert kinds == {"job-0": "data", "job-2": "training"}
    for data in (shares[1], shares[3], shares[5]):
        key = f"job-{data.index}"
        assert_same(alone(training(data, key)), together[key])


@pytest.mark.parametrize(
    ("changes", "kind", "says"),
    [
        ({"plan": b"{}"}, "plan", "not a training plan"),
        ({"model": b"nothing"}, "training", "header"),
        ({"settings": TrainSettings(batch_size=65_000, class_weights=(1.0,))}, "plan", "1 class weight"),
    ],
)
def test_what_is_wrong_for_all_of_them_is_told_to_each(
    pool: TrainerPool, answers: Answers, shares: list[DataSpec], changes: dict[str, Any], kind: str, says: str
) -> None:
    submit_at_once(pool, answers, jobs(shares, **changes))
    for answer in all_of(answers, 6).values():
        assert isinstance(answer, Failure)
        assert answer.kind == kind
        assert says in answer.message


ENDLESS = TrainSettings(batch_size=1, epochs=1000)


def started(answers: Answers, key: str) -> bool:
    return any(report.key == key for report in answers.progress)


def test_jobs_of_a_batch_are_cancelled_one_by_one_in_hand_or_waiting(
    pool: TrainerPool, answers: Answers, shares: list[DataSpec]
) -> None:
    """Four are in hand and two wait; the child lives, since it answers each cancel."""
    submit_at_once(pool, answers, jobs(shares, settings=ENDLESS))
    until(lambda: started(answers, "job-3"), "the fourth of a batch")
    (child,) = children()
    pool.cancel("job-5")
    until(lambda: "job-5" not in {task.job.key for task in pool._running}, "a cancel's answer")
    assert children() == [child]  # which had no room for it and said so all the same
    for key in ("job-0", "job-1", "job-2"):
        pool.cancel(key)
    until(lambda: {task.job.key for task in pool._running} == {"job-3", "job-4"}, "three cancels' answers")
    left = pool.suspend("job-3")
    assert left is not None
    assert 0 < left.fraction < 1
    assert left.checkpoint
    pool.cancel("job-4")
    pool.submit(Describe(key="d", data=shares[0], recipe="windows"), answers)
    assert isinstance(answers.next(), Described)
    assert children() == [child]
    assert answers.empty()


def test_a_suspended_job_of_a_batch_goes_on_from_where_it_was(
    pool: TrainerPool, answers: Answers, shares: list[DataSpec]
) -> None:
    long = TrainSettings(batch_size=1, epochs=60, learning_rate=0.001)
    submit_at_once(pool, answers, jobs(shares[:2], settings=long))
    until(lambda: started(answers, "job-1"), "the second of a batch")
    left = pool.suspend("job-1")
    assert left is not None
    answers.next()
    went_on = alone(training(shares[1], "job-1", settings=long, checkpoint=left.checkpoint))
    assert_same(alone(training(shares[1], "job-1", settings=long)), went_on)


def test_the_jobs_of_a_child_that_died_are_each_tried_again_by_itself(
    pool: TrainerPool, answers: Answers, shares: list[DataSpec]
) -> None:
    submit_at_once(pool, answers, jobs(shares[:3], settings=TrainSettings(batch_size=1, epochs=150)))
    until(lambda: started(answers, "job-2"), "the third of a batch")
    (child,) = children()
    pool.cancel("job-1")
    os.kill(child.pid, signal.SIGKILL)
    again = all_of(answers, 2)
    assert all(isinstance(again[key], Trained) for key in ("job-0", "job-2"))
    assert not pool._running


def federate(tmp_path: Path, pool: TrainerPool, data: str) -> Parameters:
    """The global model after two rounds of a real coordinator with six virtual devices."""
    broker, plan, topics = MemoryBroker(), tiny(), Topics("home")
    run = RunSettings(
        run="run-one",
        rounds=2,
        plan=PlanRef(name="tiny", blob=describe(plan.to_bytes(), 1024)),
        quorum=6,
        deadline_s=60.0,
        part_size=1024,
        train=TrainSettings(batch_size=4),
    )
    service = CoordinatorService(
        lambda sink, will: MemoryLink(broker, "coordinator", sink, will), topics, run, plan, MODEL, tmp_path / "c"
    )
    fleet = Fleet(devices=6, data=data, state=tmp_path / "f", held_out="none")
    with VirtualFleet(fleet, topics, lambda name, sink, will: MemoryLink(broker, name, sink, will), pool):
        result = service.run()
    assert (result.version, [summary.outcome for summary in result.summaries]) == (2, ["committed"] * 2)
    return ModelStore(tmp_path / "c" / "models").load(2, result.digest).parameters


def test_a_virtual_run_ends_in_the_same_model_as_one_by_one(
    pool: TrainerPool, tmp_path: Path, shares: list[DataSpec]
) -> None:
    together = federate(tmp_path / "together", pool, shares[0].path)
    with TrainerPool(nice=0) as one_by_one:
        expected = federate(tmp_path / "alone", one_by_one, shares[0].path)
    assert expected.subtract(MODEL).norm() > 0
    np.testing.assert_allclose(together.flat, expected.flat, atol=CLOSE)


def test_an_accelerator_that_is_not_there_says_what_to_do() -> None:
    import torch  # noqa: PLC0415 - whether there is one is torch's to say

    check_accelerator("cpu")
    if torch.cuda.is_available():
        check_accelerator("cuda")
        return
    with pytest.raises(SettingsError, match=r"no CUDA here.*leave --accelerator cuda out"):
        check_accelerator("cuda")
