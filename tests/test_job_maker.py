"""Jobs of the trainer: what of a device's disk goes into each, and what is said where the disk hasn't got it."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge.core import effects as fx
from edge.core import events as ev
from edge.core.events import Ticket
from edge.core.jobs import Evaluate, Merge, Personalise, Train
from edge.core.participation_state import Kept
from edge.core.personal_settings import Origin, PersonalSettings, Verdict
from edge.dataspec import DataSpec
from edge.device import Device
from edge.job_maker import JobMaker
from edge.outbox import Outbox
from edge.residuals import Left
from edge.store import Store
from schemas.messages import Outcome, TrainSettings
from tests.edge_scripts import DEVICE, PLAN, PLAN_REF, RUN, announcement, model_blob, pointer
from tests.test_participation import parcel

MODEL = pointer(0)
HOW = PersonalSettings(method="local-layers", layers=("out",))
BETTER = Verdict(examples=48, personal_loss=0.25, global_loss=0.5, personal_f1=0.75, global_f1=0.5)
ORIGIN = Origin(run=RUN, version=0, model=MODEL.digest, plan=PLAN_REF.digest, data="", how=HOW, verdict=BETTER)
TICKET = Ticket.of(announcement(2))
SETTINGS = TrainSettings()


class Bench:
    """A device's disk with a plan and a model on it."""

    def __init__(self, state: Path, personal: PersonalSettings | None = None, checkpoint_s: float = 0.0) -> None:
        self.store, self.outbox = Store(state, print), Outbox(state / "outbox", print)
        self.store.keep_plan(PLAN_REF.digest, PLAN, RUN)
        self.store.keep_model(MODEL, model_blob(0))
        device = Device(DEVICE, 1, DataSpec(path="watch"), state, personal=personal, checkpoint_s=checkpoint_s)
        self.jobs = JobMaker(device, self.store, self.outbox)

    def train(self, model: str = MODEL.digest, plan: str = PLAN_REF.digest) -> Train | ev.HoldingLost:
        job = self.jobs.make(fx.StartTraining("key", plan, model, SETTINGS, "topk", 7, TICKET), RUN)
        assert isinstance(job, (Train, ev.HoldingLost))
        return job

    def evaluate(self) -> Evaluate:
        job = self.jobs.make(fx.StartEvaluation("key", PLAN_REF.digest, MODEL.digest), RUN)
        assert isinstance(job, Evaluate)
        return job


def test_only_what_the_disk_has_lost_is_said_to_be_lost(tmp_path: Path) -> None:
    """What isn't need not be fetched again. Seen to fail where both were said, where none was, and with any model."""
    bench = Bench(tmp_path)
    assert bench.train(model="b" * 64) == ev.HoldingLost("key", plan=False, model=True)
    assert bench.train(plan="c" * 64) == ev.HoldingLost("key", plan=True, model=False)
    bench.store.drop_model()
    assert bench.train() == ev.HoldingLost("key", plan=False, model=True)
    assert bench.train(plan="c" * 64) == ev.HoldingLost("key", plan=True, model=True)


def test_a_training_has_the_plan_the_model_the_checkpoint_and_what_was_left_out(tmp_path: Path) -> None:
    """Seen to fail without each of the last three."""
    bench = Bench(tmp_path, checkpoint_s=30.0)
    first = Ticket.of(announcement(1))
    bench.outbox.put(parcel(first), bytes(3000), 0.0, Left(PLAN_REF.digest, b"left out"))
    bench.outbox.settle(first, Outcome.ACCEPTED.value)
    bench.store.keep_checkpoint(Kept("key", 0.5), PLAN_REF.digest, MODEL.digest, b"so far")
    job = bench.train()
    assert isinstance(job, Train)
    assert (job.plan, job.model, job.data, job.seed, job.codec) == (
        PLAN,
        model_blob(0),
        DataSpec(path="watch"),
        7,
        "topk",
    )
    assert (job.checkpoint, job.checkpoint_s, job.residual) == (b"so far", 30.0, b"left out")
    assert (job.own, job.local) == (b"", ())


def test_steps_are_merged_and_an_owners_model_made_of_what_is_on_disk(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    merge = bench.jobs.make(fx.StartMerging("key", PLAN_REF.digest, MODEL.digest), RUN)
    assert isinstance(merge, Merge)
    assert (merge.plan, merge.model) == (PLAN, model_blob(0))
    about = fx.StartPersonalising("key", PLAN_REF.digest, MODEL.digest, SETTINGS, HOW, 9)
    personalise = bench.jobs.make(about, RUN)
    assert isinstance(personalise, Personalise)
    assert (personalise.model, personalise.how, personalise.seed) == (model_blob(0), HOW, 9)


@pytest.mark.parametrize(
    ("change", "own"),
    [
        ({}, b"own"),
        ({"run": "run-before"}, b""),
        ({"plan": "d" * 64}, b""),
        ({"how": PersonalSettings(method="local-layers", layers=("out",), steps=9)}, b""),
        ({"verdict": BETTER.model_copy(update={"personal_loss": 0.75})}, b""),
    ],
    ids=["as it is wanted", "of another run", "of another plan", "made otherwise", "worse"],
)
def test_a_round_uses_the_owners_layers_where_they_are_better_and_made_as_is_wanted_now(
    tmp_path: Path, change: dict[str, object], own: bytes
) -> None:
    """In trainings and in evaluations. Seen to fail without each of these."""
    bench = Bench(tmp_path, HOW)
    bench.store.keep_personal(ORIGIN.model_copy(update=change), b"own")
    train, evaluate = bench.train(), bench.evaluate()
    assert isinstance(train, Train)
    assert (train.own, train.local) == (evaluate.own, evaluate.local) == (own, ("out",))


def test_an_owners_model_that_has_no_layers_of_its_own_stays_out_of_rounds(tmp_path: Path) -> None:
    """Else the update would be its owner's. Seen to fail where any of its own was given to the trainer."""
    how = PersonalSettings(method="ditto")
    bench = Bench(tmp_path, how)
    bench.store.keep_personal(ORIGIN.model_copy(update={"how": how}), b"own")
    train, evaluate = bench.train(), bench.evaluate()
    assert isinstance(train, Train)
    assert (train.own, evaluate.own) == (b"", b"")
