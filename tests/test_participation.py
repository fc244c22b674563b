from __future__ import annotations

import copy
import itertools
from dataclasses import dataclass, field, replace
from typing import TypeVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from edge.core import attempt, counting, delivery, participation, presence, versions
from edge.core import effects as fx
from edge.core import events as ev
from edge.core.answered import remembered
from edge.core.attempt import CRASHES
from edge.core.effects import Effect
from edge.core.events import Event, Parcel, Ticket
from edge.core.jobs import Failure
from edge.core.participation_state import Identity, State
from schemas import cohort, parts
from schemas.messages import TAG, Command, CoordinatorState, DeviceState, DeviceStatus, Outcome, Phase, Task
from tests.edge_scripts import (
    DEVICE,
    PLAN_REF,
    RUN,
    announcement,
    coordinator,
    described,
    digest,
    evaluated,
    nonce,
    pointer,
    receipt,
    run,
    trained,
)

E = TypeVar("E")
IDENTITY = Identity(DEVICE, session=5, heartbeat_s=30.0)


@dataclass
class Bench:
    """A device on the bench: every effect is kept, and the shell's answers are given by hand or by ``obey``."""

    state: State = field(default_factory=lambda: participation.begin(IDENTITY))
    effects: list[Effect] = field(default_factory=list)

    def __call__(self, *events: Event) -> list[Effect]:
        fresh: list[Effect] = []
        for event in events:
            self.state, effects = participation.step(self.state, event)
            fresh.extend(effects)
        self.effects.extend(fresh)
        return fresh

    def at(self, now: float) -> list[Effect]:
        return self(ev.Tick(now))

    def settle(self, examples: int = 100, held_out: int = 0) -> Bench:
        """Connected, with a run, its plan, its newest model, and data looked at."""
        self(ev.Tick(1.0), ev.Connected(), ev.CoordinatorSeen(coordinator()), ev.RunSeen(run()))
        self(ev.PlanReady(PLAN_REF.digest, "watch"), ev.JobDone(described(f"{DEVICE}/data/watch", examples, held_out)))
        self(ev.ModelSeen(pointer(0)), ev.ModelReady(pointer(0)))
        return self

    def train(self, number: int = 1, payload: bytes = b"delta") -> tuple[Ticket, fx.StoreUpdate]:
        """Through round ``number`` up to the update that is to be stored."""
        message = announcement(number)
        (start,) = only(self(ev.RoundSeen(message)), fx.StartTraining)
        (store,) = only(self(ev.JobDone(trained(start.key, payload))), fx.StoreUpdate)
        return Ticket.of(message), store

    def shown(self) -> DeviceStatus:
        return presence.status(self.state)


def only(effects: list[Effect], kind: type[E]) -> list[E]:
    return [effect for effect in effects if isinstance(effect, kind)]


def parcel(ticket: Ticket, size: int = 3000) -> Parcel:
    return Parcel(ticket, parts.describe(bytes(size), 1024))


# -- the way through a round -------------------------------------------------------------------------------------------


def test_a_device_that_meets_a_run_fetches_the_plan_and_the_model_and_looks_at_its_data() -> None:
    bench = Bench()
    effects = bench(ev.Connected(), ev.CoordinatorSeen(coordinator()), ev.ModelSeen(pointer(4)), ev.RunSeen(run()))
    assert only(effects, fx.FetchPlan) == [fx.FetchPlan(PLAN_REF, RUN)]
    assert only(effects, fx.FetchModel) == [fx.FetchModel(pointer(4))]
    assert bench.shown().state is DeviceState.STARTING
    assert only(bench(ev.PlanReady(PLAN_REF.digest, "watch")), fx.StartDescribing)
    bench(ev.JobDone(described(f"{DEVICE}/data/watch", 70, 9)), ev.ModelReady(pointer(4)))
    shown = bench.shown()
    assert (shown.state, shown.examples, shown.held_out, shown.model_version) == (DeviceState.IDLE, 70, 9, 4)
    # The next run's plan may be the same, and yet the disk has to say whose it is. Seen to fail with the plan kept.
    assert only(bench(ev.RunSeen(run("run-two"))), fx.FetchPlan) == [fx.FetchPlan(PLAN_REF, "run-two")]


@pytest.mark.parametrize(("rounds", "words"), [(1, "1 round"), (2, "2 rounds")])
def test_a_run_is_told_in_plain_words(rounds: int, words: str) -> None:
    (say,) = only(Bench()(ev.RunSeen(run().model_copy(update={"rounds": rounds}))), fx.Say)
    assert say.text == f"run {RUN}: plan {run().plan.name}, {words}, codec int8"


def test_a_round_is_joined_trained_stored_and_only_then_sent() -> None:
    bench = Bench().settle()
    effects = bench(ev.RoundSeen(announcement(1)))
    assert [join.accepts for join in only(effects, fx.SendJoin)] == [True]
    (start,) = only(effects, fx.StartTraining)
    assert (start.codec, start.plan) == ("int8", PLAN_REF.digest)
    effects = bench(ev.JobDone(trained(start.key)))
    (store,) = only(effects, fx.StoreUpdate)
    assert not only(effects, fx.SendParts)
    assert (store.update.model_version, store.update.model_tag) == (0, digest(f"{RUN}/0")[:TAG])
    stored = parcel(store.ticket)
    assert only(bench(ev.UpdateStored(stored)), fx.SendParts) == [fx.SendParts(stored, None)]


def test_a_receipt_settles_the_update() -> None:
    bench = Bench().settle()
    ticket, _ = bench.train()
    bench(ev.UpdateStored(parcel(ticket)))
    effects = bench(ev.ReceiptSeen(receipt(announcement(1))))
    assert only(effects, fx.Forget) == [fx.Forget(ticket, "accepted")]
    assert bench.shown().last_round == 1
    assert not bench.state.outbox


def test_an_evaluation_carries_counts_and_starts_from_the_new_model() -> None:
    bench = Bench().settle(held_out=3)
    bench(ev.ModelSeen(pointer(1)), ev.ModelReady(pointer(1)))
    (start,) = only(bench(ev.RoundSeen(announcement(1, task="evaluate"))), fx.StartEvaluation)
    (store,) = only(bench(ev.JobDone(evaluated(start.key))), fx.StoreUpdate)
    assert store.update.counts is not None
    assert (store.update.task, store.update.model_version, store.update.examples) == ("evaluate", 1, 3)


def test_training_waits_for_the_model_it_starts_from() -> None:
    bench = Bench().settle()
    effects = bench(ev.RoundSeen(announcement(2, version=1)))
    assert [join.accepts for join in only(effects, fx.SendJoin)] == [True]
    assert not only(effects, fx.StartTraining)
    assert not only(bench(ev.ModelSeen(pointer(1))), fx.StartTraining)
    assert only(bench(ev.ModelReady(pointer(1))), fx.StartTraining)


def test_the_trainer_is_warmed_while_the_coordinator_selects() -> None:
    bench = Bench().settle()
    assert only(bench.effects, fx.WarmUp)
    assert only(bench(ev.RoundSeen(announcement(1, phase=Phase.SELECTING))), fx.WarmUp)
    assert not only(Bench().settle(examples=0, held_out=3).effects, fx.WarmUp)


def test_messages_may_come_in_any_order() -> None:
    bench = Bench()
    bench(ev.RoundSeen(announcement(1)), ev.ModelSeen(pointer(0)), ev.Connected(), ev.RunSeen(run()))
    bench(ev.ModelReady(pointer(0)), ev.PlanReady(PLAN_REF.digest, "watch"))
    bench(ev.JobDone(described(f"{DEVICE}/data/watch")))
    assert not only(bench.effects, fx.StartTraining)
    assert only(bench(ev.CoordinatorSeen(coordinator())), fx.StartTraining)


def test_the_seed_replays_in_another_run_and_differs_by_round_and_device() -> None:
    """Runs name themselves at random. Seen to fail with that name in the seed."""
    assert attempt.seed(run(), 1, DEVICE) == attempt.seed(run("run-two"), 1, DEVICE)
    others = [attempt.seed(run(), 2, DEVICE), attempt.seed(run(), 1, "dev-two"), attempt.seed(run(seed=8), 1, DEVICE)]
    assert len({attempt.seed(run(), 1, DEVICE), *others}) == 4
    assert all(0 <= seed < 2**53 for seed in others)


# -- who takes part ----------------------------------------------------------------------------------------------------


def test_must_13_a_device_that_is_not_drawn_stays_silent() -> None:
    bench = Bench().settle()
    drawn = cohort.draw(announcement(1).nonce, DEVICE)
    assert not only(bench(ev.RoundSeen(announcement(1, cohort=drawn))), fx.SendJoin)
    assert only(bench(ev.RoundSeen(announcement(1, cohort=drawn + 1e-9))), fx.SendJoin)


@pytest.mark.parametrize(
    "message",
    [
        announcement(1, run="run-two"),
        announcement(1, phase=Phase.SELECTING),
        announcement(1, phase=Phase.AGGREGATING),
        announcement(1, remaining_s=0.0),
    ],
)
def test_must_15_another_run_another_phase_and_an_expired_round_are_not_answered(message: object) -> None:
    bench = Bench().settle()
    effects = bench(ev.RoundSeen(message))  # type: ignore[arg-type]  # the parameters' common type is wider
    assert not only(effects, fx.SendJoin)
    assert not only(effects, fx.StartTraining)


def test_must_14_a_device_without_examples_declines_and_says_why() -> None:
    bench = Bench().settle(examples=0)
    (join,) = only(bench(ev.RoundSeen(announcement(1))), fx.SendJoin)
    assert not join.accepts
    assert "no examples" in join.reason


@pytest.mark.parametrize(("task", "examples", "held_out"), [("train", 0, 9), ("evaluate", 9, 0), ("evaluate", 0, 0)])
def test_a_device_with_nothing_for_this_task_stays_silent(task: Task, examples: int, held_out: int) -> None:
    bench = Bench().settle(examples, held_out)
    assert not only(bench(ev.RoundSeen(announcement(1, task=task, version=0))), fx.SendJoin)


def test_data_that_cannot_be_used_is_trouble_and_is_looked_at_again() -> None:
    bench = Bench().settle()
    bench(ev.RunSeen(run("run-two")), ev.PlanReady(PLAN_REF.digest, "ecg-beats"))
    bench(ev.JobFailed(Failure(key=f"{DEVICE}/data/ecg-beats", kind="data", message="no record here")))
    assert (bench.shown().state, bench.shown().detail) == (DeviceState.TROUBLE, "no record here")
    (join,) = only(bench(ev.RoundSeen(announcement(1, run="run-two"))), fx.SendJoin)
    assert (join.accepts, join.reason) == (False, "no record here")
    due = participation.wake_at(bench.state)
    assert due is not None
    assert only(bench.at(1.0 + attempt.RETRY_S), fx.StartDescribing)
    assert bench.shown().state is DeviceState.TROUBLE  # until it is known to be over


def test_data_over_which_the_trainer_crashes_is_looked_at_ever_more_seldom() -> None:
    """Each look costs a fresh child. Seen to fail with ``SOON_S`` after every crash."""
    bench = Bench()
    bench(ev.Tick(1.0), ev.Connected(), ev.CoordinatorSeen(coordinator()), ev.RunSeen(run()))
    bench(ev.PlanReady(PLAN_REF.digest, "watch"))
    looks = []
    for second in range(2, 10_000):
        bench(ev.JobFailed(Failure(key=f"{DEVICE}/data/watch", kind="crash", message="exit code 1")))
        looks += [second for _ in only(bench.at(float(second)), fx.StartDescribing)]
    gaps = [later - earlier for earlier, later in itertools.pairwise(looks)]
    assert gaps[:4] == [10, 20, 40, 80]
    assert set(gaps[8:]) == {int(counting.LONGEST_LOOK_S)}
    assert bench.shown().detail == "exit code 1"


def looked(bench: Bench, footprint: str) -> list[fx.StartDescribing]:
    """What a look at the data, once it is due, has counted."""
    assert only(bench.at(bench.state.look_at), fx.LookAtData)
    return only(bench(ev.DataSeen(footprint)), fx.StartDescribing)


def test_data_whose_files_have_changed_is_counted_again_and_used_meanwhile() -> None:
    """Seen to fail without ``_look``, and where the device had no data while it was counted."""
    bench = Bench().settle(examples=100)
    bench(ev.DataSeen("as it was"))
    bench(ev.JobDone(described(f"{DEVICE}/data/watch", 100)))
    assert (participation.wake_at(bench.state) or 0.0) <= bench.state.look_at == 1.0 + counting.LOOK_S
    assert looked(bench, "as it was") == []
    (start,) = looked(bench, "with a new file")
    assert only(bench(ev.CoordinatorSeen(coordinator()), ev.RoundSeen(announcement(1))), fx.SendJoin)[0].examples == 100
    bench(ev.JobDone(described(start.key, 150)))
    assert bench.shown().examples == 150
    assert looked(bench, "with a new file") == []


def test_a_trainer_that_dies_over_the_recordings_costs_no_round_unless_it_does_so_again_and_again() -> None:
    """Seen to fail with a decline at once: with it the attempt ended where all devices are needed."""
    bench = Bench()
    bench(ev.Tick(1.0), ev.Connected(), ev.CoordinatorSeen(coordinator()), ev.RunSeen(run()))
    bench(ev.PlanReady(PLAN_REF.digest, "watch"), ev.ModelSeen(pointer(0)), ev.ModelReady(pointer(0)))
    bench(ev.RoundSeen(announcement(1)))
    crash = ev.JobFailed(Failure(key=f"{DEVICE}/data/watch", kind="crash", message="signal 9"))
    for crashes in range(1, CRASHES):
        assert not only(bench(crash), fx.SendJoin)
        bench.at(1.0 + crashes * 20.0)
    well = copy.deepcopy(bench)
    assert [join.accepts for join in only(bench(crash), fx.SendJoin)] == [False]
    again = well(ev.JobDone(described(f"{DEVICE}/data/watch", 100, 0)))
    assert [join.accepts for join in only(again, fx.SendJoin)] == [True]


def test_a_recount_that_crashes_is_tried_at_the_next_look_and_one_that_fails_is_trouble() -> None:
    bench = Bench().settle(examples=100)
    bench(ev.DataSeen("as it was"), ev.JobDone(described(f"{DEVICE}/data/watch", 100)))
    (start,) = looked(bench, "with a new file")
    bench(ev.JobFailed(Failure(key=start.key, kind="crash", message="signal 9")))
    assert bench.shown().examples == 100
    (start,) = looked(bench, "with a new file")
    bench(ev.JobFailed(Failure(key=start.key, kind="data", message="no record here")))
    assert (bench.shown().state, bench.shown().detail) == (DeviceState.TROUBLE, "no record here")


def test_a_plan_that_does_not_fit_is_declined_now_and_in_later_rounds() -> None:
    bench = Bench().settle()
    (start,) = only(bench(ev.RoundSeen(announcement(1))), fx.StartTraining)
    effects = bench(ev.JobFailed(Failure(key=start.key, kind="plan", message="the plan doesn't fit: 6x150, not 6x128")))
    assert [(join.accepts, join.reason) for join in only(effects, fx.SendJoin)] == [
        (False, "the plan doesn't fit: 6x150, not 6x128")
    ]
    assert bench.shown().state is DeviceState.TROUBLE
    bench(ev.ModelSeen(pointer(1)), ev.ModelReady(pointer(1)))
    effects = bench(ev.RoundSeen(announcement(2)))
    assert [join.accepts for join in only(effects, fx.SendJoin)] == [False]
    assert not only(effects, fx.StartTraining)


def test_a_crashed_trainer_is_tried_again_and_then_given_up_for_this_round() -> None:
    bench = Bench().settle()
    (start,) = only(bench(ev.RoundSeen(announcement(1))), fx.StartTraining)
    crash = ev.JobFailed(Failure(key=start.key, kind="crash", message="killed"))
    for _ in range(attempt.CRASHES - 1):
        assert only(bench(crash), fx.StartTraining) == [start]
    effects = bench(crash)
    assert not only(effects, fx.StartTraining)
    assert [join.accepts for join in only(effects, fx.SendJoin)] == [False]
    assert bench.shown().state is DeviceState.IDLE


# -- the same round again, and other rounds ----------------------------------------------------------------------------


def test_must_16_a_ticket_is_trained_once_however_often_it_is_announced() -> None:
    bench = Bench().settle()
    ticket, _ = bench.train()
    again = [ev.RoundSeen(announcement(1)), ev.RoundSeen(announcement(1))]
    assert not only(bench(*again), fx.StartTraining)
    bench(ev.UpdateStored(parcel(ticket)))
    assert not only(bench(*again), fx.StartTraining)
    bench(ev.ReceiptSeen(receipt(announcement(1))))
    assert not only(bench(*again), fx.StartTraining)


def test_another_attempt_cancels_the_job_and_starts_over() -> None:
    bench = Bench().settle()
    (first,) = only(bench(ev.RoundSeen(announcement(1))), fx.StartTraining)
    effects = bench(ev.RoundSeen(announcement(1, attempt=1)))
    (second,) = only(effects, fx.StartTraining)
    assert only(effects, fx.CancelJob) == [fx.CancelJob(first.key)]
    assert (second.key != first.key, second.seed == first.seed) == (True, True)
    assert not only(bench(ev.JobDone(trained(first.key))), fx.StoreUpdate)


def test_another_attempt_replaces_an_update_that_was_not_settled() -> None:
    bench = Bench().settle()
    ticket, _ = bench.train()
    bench(ev.UpdateStored(parcel(ticket)))
    effects = bench(ev.RoundSeen(announcement(1, attempt=1)))
    assert only(effects, fx.Forget) == [fx.Forget(ticket, "superseded")]
    assert only(effects, fx.StartTraining)


@pytest.mark.parametrize("phase", [Phase.AGGREGATING, Phase.COMMITTED, Phase.ABANDONED])
def test_training_is_cancelled_when_the_round_is_over(phase: Phase) -> None:
    bench = Bench().settle()
    (start,) = only(bench(ev.RoundSeen(announcement(1))), fx.StartTraining)
    assert only(bench(ev.RoundSeen(announcement(1, phase=phase))), fx.CancelJob) == [fx.CancelJob(start.key)]


def test_must_22_training_is_cancelled_at_the_deadline_by_the_monotonic_clock() -> None:
    bench = Bench().settle()
    (start,) = only(bench(ev.RoundSeen(announcement(1, remaining_s=20.0))), fx.StartTraining)
    assert not only(bench.at(20.9), fx.CancelJob)
    assert only(bench.at(21.0), fx.CancelJob) == [fx.CancelJob(start.key)]


def test_an_earlier_announcement_of_the_same_coordinator_is_ignored() -> None:
    bench = Bench().settle()
    bench(ev.ModelSeen(pointer(1)), ev.ModelReady(pointer(1)), ev.RoundSeen(announcement(2)))
    effects = bench(ev.RoundSeen(announcement(1, version=1)))
    assert not only(effects, fx.CancelJob)
    assert not only(effects, fx.StartTraining)


def test_a_coordinator_that_was_restarted_may_go_back() -> None:
    bench = Bench().settle()
    bench(ev.RoundSeen(announcement(1, attempt=2)), ev.CoordinatorSeen(coordinator(session=2)))
    assert only(bench(ev.RoundSeen(announcement(1, attempt=1))), fx.StartTraining)


def test_must_15_an_older_model_of_the_run_is_never_taken() -> None:
    bench = Bench().settle()
    bench(ev.ModelSeen(pointer(3)), ev.ModelReady(pointer(3)))
    effects = bench(ev.ModelSeen(pointer(2)), ev.RoundSeen(announcement(3)))
    assert not only(effects, fx.FetchModel)
    assert not only(effects, fx.StartTraining)
    assert not only(effects, fx.SendJoin)


def test_another_model_under_a_version_that_is_held_is_refused() -> None:
    bench = Bench().settle()
    other = pointer(0).model_copy(update={"digest": digest("another")})
    assert not only(bench(ev.ModelSeen(other)), fx.FetchModel)
    message = announcement(1).model_copy(update={"model_digest": digest("another")})
    assert [join.accepts for join in only(bench(ev.RoundSeen(message)), fx.SendJoin)] == [True, False]


def test_metrics_on_the_pointer_are_no_new_model() -> None:
    bench = Bench().settle()
    assert not only(bench(ev.ModelSeen(pointer(0))), fx.FetchModel)


def test_another_run_brings_another_model_also_a_lower_version() -> None:
    bench = Bench().settle()
    bench(ev.ModelSeen(pointer(3)), ev.ModelReady(pointer(3)))
    effects = bench(ev.ModelSeen(pointer(0, "run-two")), ev.RunSeen(run("run-two")))
    assert only(effects, fx.FetchModel) == [fx.FetchModel(pointer(0, "run-two"))]


def test_a_newer_pointer_replaces_a_fetch_that_is_under_way() -> None:
    bench = Bench().settle()
    bench(ev.ModelSeen(pointer(1)))
    effects = bench(ev.ModelSeen(pointer(2)))
    assert only(effects, fx.StopFetching) == [fx.StopFetching("model")]
    assert only(effects, fx.FetchModel) == [fx.FetchModel(pointer(2))]


def test_a_failed_fetch_is_tried_again_later() -> None:
    bench = Bench().settle()
    bench(ev.ModelSeen(pointer(1)))
    failed = ev.FetchFailed("model", pointer(1).blob.digest, "wrong digest")
    assert not only(bench(failed), fx.FetchModel)
    assert only(bench.at(1.0 + versions.SOON_S), fx.FetchModel)


# -- until the receipt -------------------------------------------------------------------------------------------------


def stored(bench: Bench) -> Parcel:
    ticket, _ = bench.train()
    bench(ev.UpdateStored(parcel(ticket)))
    return parcel(ticket)


def test_must_26_without_a_receipt_a_part_goes_again_after_30_seconds_then_twice_as_long() -> None:
    bench = Bench().settle()
    kept = stored(bench)
    times = []
    for now in range(1, 400):
        bench(ev.CoordinatorSeen(coordinator()))  # its heartbeat
        times += [now for _ in only(bench.at(float(now)), fx.SendParts)]
    assert times == [31, 46, 106, 226]  # and once while it still counts, halfway to the deadline at 61
    assert only(bench.effects, fx.SendParts)[1:] == [fx.SendParts(kept, (0,))] * 4


def test_must_26_a_reconnect_and_a_new_coordinator_hear_of_the_update_at_once() -> None:
    bench = Bench().settle()
    kept = stored(bench)
    back = (ev.Disconnected(), ev.Connected(), ev.CoordinatorSeen(coordinator()))
    assert only(bench(*back), fx.SendParts) == [fx.SendParts(kept, (0,))]
    assert only(bench(ev.CoordinatorSeen(coordinator(session=2))), fx.SendParts) == [fx.SendParts(kept, (0,))]
    assert not only(bench(ev.CoordinatorSeen(coordinator(session=2))), fx.SendParts)


def test_must_26_after_a_reconnect_nothing_goes_again_before_the_coordinator_is_back_too() -> None:
    """A broker that lost its sessions drops what comes before the coordinator has subscribed again.

    Seen to fail with the join and the part sent at the device's own reconnect: 30 s of every such round were lost.
    """
    bench = Bench().settle()
    bench(ev.RoundSeen(announcement(1)))
    assert not only(bench(ev.Disconnected(), ev.Connected()), fx.SendJoin)
    assert only(bench(ev.CoordinatorSeen(coordinator())), fx.SendJoin)
    bench = Bench().settle()
    kept = stored(bench)
    assert not only(bench(ev.Disconnected(), ev.Connected()), fx.SendParts)
    assert only(bench(ev.CoordinatorSeen(coordinator())), fx.SendParts) == [fx.SendParts(kept, (0,))]


def test_a_new_coordinator_hears_the_join_again() -> None:
    bench = Bench().settle()
    bench(ev.RoundSeen(announcement(1)))
    assert [join.accepts for join in only(bench(ev.CoordinatorSeen(coordinator(2))), fx.SendJoin)] == [True]


def test_an_update_made_offline_goes_whole_once_the_broker_is_back() -> None:
    bench = Bench().settle()
    (start,) = only(bench(ev.RoundSeen(announcement(1))), fx.StartTraining)
    bench(ev.Disconnected())
    (store,) = only(bench(ev.JobDone(trained(start.key))), fx.StoreUpdate)
    assert not only(bench(ev.UpdateStored(parcel(store.ticket))), fx.SendParts)
    assert only(bench(ev.Connected()), fx.SendParts) == [fx.SendParts(parcel(store.ticket), None)]


def test_the_missing_parts_of_an_incomplete_update_go_again() -> None:
    bench = Bench().settle()
    kept = stored(bench)
    asked = receipt(announcement(1), Outcome.INCOMPLETE, missing=(1, 2, 99))
    assert only(bench(ev.ReceiptSeen(asked)), fx.SendParts) == [fx.SendParts(kept, (1, 2))]


@pytest.mark.parametrize("outcome", [Outcome.LATE, Outcome.REJECTED, Outcome.DUPLICATE])
def test_every_final_receipt_ends_the_resending(outcome: Outcome) -> None:
    bench = Bench().settle()
    kept = stored(bench)
    assert only(bench(ev.ReceiptSeen(receipt(announcement(1), outcome))), fx.Forget) == [
        fx.Forget(kept.ticket, outcome.value)
    ]
    assert not only(bench.at(10_000.0), fx.SendParts)
    assert bench.shown().last_round == (1 if outcome is Outcome.DUPLICATE else None)


def test_must_17_a_receipt_with_another_nonce_settles_nothing() -> None:
    bench = Bench().settle()
    stored(bench)
    assert not only(bench(ev.ReceiptSeen(receipt(announcement(1, tag=99)))), fx.Forget)
    assert bench.state.outbox


def test_a_final_receipt_ends_work_in_hand() -> None:
    bench = Bench().settle()
    (start,) = only(bench(ev.RoundSeen(announcement(1))), fx.StartTraining)
    effects = bench(ev.ReceiptSeen(receipt(announcement(1), Outcome.NOTED, reason="not drawn for this round")))
    assert only(effects, fx.CancelJob) == [fx.CancelJob(start.key)]
    assert not only(bench(ev.RoundSeen(announcement(1))), fx.StartTraining)


def test_must_16_after_a_restart_the_kept_update_is_announced_again_and_not_trained_again() -> None:
    kept = parcel(Ticket.of(announcement(1)))
    bench = Bench(participation.begin(IDENTITY, model=pointer(0), parcels=(kept,))).settle()
    assert only(bench.effects, fx.SendParts) == [fx.SendParts(kept, (0,))]
    assert not only(bench(ev.RoundSeen(announcement(1))), fx.StartTraining)


def test_must_16_after_a_restart_a_settled_round_is_not_trained_again() -> None:
    settled = (Ticket.of(announcement(1)),)
    bench = Bench(participation.begin(IDENTITY, model=pointer(0), settled=settled, last_round=1)).settle()
    assert not only(bench(ev.RoundSeen(announcement(1))), fx.StartTraining)
    assert bench.shown().last_round == 1


def test_updates_of_another_run_wait_for_it() -> None:
    kept = parcel(Ticket.of(announcement(1, run="run-two")))
    bench = Bench(participation.begin(IDENTITY, parcels=(kept,))).settle()
    assert not only(bench.at(5000.0), fx.SendParts)
    assert only(bench(ev.RunSeen(run("run-two"))), fx.SendParts) == [fx.SendParts(kept, (0,))]


def test_invariant_11_the_oldest_updates_are_dropped_beyond_the_bound() -> None:
    kept = tuple(parcel(Ticket("run-old", number, "train", nonce(number))) for number in range(delivery.OUTBOX))
    bench = Bench(participation.begin(IDENTITY, parcels=kept)).settle()
    ticket, _ = bench.train()
    assert only(bench(ev.UpdateStored(parcel(ticket))), fx.Forget) == [fx.Forget(kept[0].ticket, "dropped")]


def test_invariant_11_a_full_disk_skips_the_round_and_says_so() -> None:
    bench = Bench().settle()
    ticket, _ = bench.train()
    effects = bench(ev.StoreFailed(ticket, "no space left"))
    assert [(join.accepts, join.reason) for join in only(effects, fx.SendJoin)] == [(False, "no space left")]
    assert (bench.shown().state, bench.shown().detail) == (DeviceState.TROUBLE, "no space left")
    bench.at(1.0 + attempt.RETRY_S)
    assert bench.shown().state is DeviceState.IDLE
    bench(ev.ModelSeen(pointer(1)), ev.ModelReady(pointer(1)))
    assert only(bench(ev.RoundSeen(announcement(2))), fx.StartTraining)


def test_must_14_an_attempt_declined_for_trouble_is_taken_up_once_that_has_passed_and_the_rest_is_over() -> None:
    """Seen to fail: a device whose disk had been full for a moment was silent until the attempt's end, and where all
    devices are needed that failed it. And where it didn't wait for the coordinator's word on the decline.
    """
    bench = Bench().settle()
    ticket, _ = bench.train()
    bench(ev.StoreFailed(ticket, "no space left"))
    asked = announcement(1, attempt=1)
    (join,) = only(bench(ev.RoundSeen(asked)), fx.SendJoin)
    assert (join.accepts, join.reason) == (False, "no space left")
    unheard = copy.deepcopy(bench)
    assert not only(unheard.at(1.0 + attempt.RETRY_S), fx.SendJoin)
    bench(ev.ReceiptSeen(receipt(asked, Outcome.NOTED, come_back_after_s=attempt.RETRY_S + 5.0)))
    assert not only(bench.at(1.0 + attempt.RETRY_S), fx.SendJoin)
    effects = bench.at(6.0 + attempt.RETRY_S)
    assert [one.accepts for one in only(effects, fx.SendJoin)] == [True]
    assert only(effects, fx.StartTraining)


def test_must_14_a_decline_said_again_to_a_coordinator_that_came_back_is_not_gone_back_on_before_its_word() -> None:
    """Seen to fail: its word came after the join, so that the device trained no more, and was waited for."""
    bench = Bench().settle()
    ticket, _ = bench.train()
    bench(ev.StoreFailed(ticket, "no space left"))
    asked = announcement(1, attempt=1, remaining_s=600.0)
    bench(ev.RoundSeen(asked), ev.ReceiptSeen(receipt(asked, Outcome.NOTED, come_back_after_s=1.0)))
    bench(ev.CoordinatorSeen(coordinator(state=CoordinatorState.STOPPED)))
    bench.at(2.0 + attempt.RETRY_S)
    assert [one.accepts for one in only(bench(ev.CoordinatorSeen(coordinator(session=2))), fx.SendJoin)] == [False]
    assert not only(bench(ev.RoundSeen(asked)), fx.SendJoin)
    bench(ev.ReceiptSeen(receipt(asked, Outcome.NOTED, come_back_after_s=1.0)))
    effects = bench.at(4.0 + attempt.RETRY_S)
    assert [one.accepts for one in only(effects, fx.SendJoin)] == [True]
    assert only(effects, fx.StartTraining)


def test_an_evaluation_that_trouble_kept_a_device_from_is_taken_up_once_that_has_passed() -> None:
    """Seen to fail: it was there again by its status, so that the round waited for it until the deadline."""
    bench = Bench().settle(held_out=9)
    ticket, _ = bench.train()
    bench(ev.ModelSeen(pointer(1)), ev.ModelReady(pointer(1)), ev.StoreFailed(ticket, "no space left"))
    assert not only(bench(ev.RoundSeen(announcement(1, task="evaluate", version=1))), fx.SendJoin)
    effects = bench.at(1.0 + attempt.RETRY_S)
    assert [one.accepts for one in only(effects, fx.SendJoin)] == [True]
    assert only(effects, fx.StartEvaluation)


def test_an_attempt_whose_update_the_disk_did_not_take_stays_declined() -> None:
    """It would be trained for again, to the same end. Seen to fail with every decline looked at anew."""
    bench = Bench().settle()
    ticket, _ = bench.train()
    assert only(bench(ev.StoreFailed(ticket, "no space left")), fx.SendJoin)
    bench(ev.ReceiptSeen(receipt(announcement(1), Outcome.NOTED, come_back_after_s=1.0)))
    assert not only(bench.at(1.0 + attempt.RETRY_S), fx.SendJoin)


# -- what the operator and the owner want ------------------------------------------------------------------------------


def test_must_33_pause_cancels_and_resume_takes_the_round_up_again() -> None:
    bench = Bench().settle()
    (start,) = only(bench(ev.RoundSeen(announcement(1))), fx.StartTraining)
    effects = bench(ev.CommandSeen(Command(command="pause", reason="maintenance")))
    assert only(effects, fx.CancelJob) == [fx.CancelJob(start.key)]
    assert (bench.shown().state, bench.shown().detail) == (
        DeviceState.PAUSED,
        "paused by the operator: maintenance; until the command `resume`, or the device's next start",
    )
    assert not only(bench(ev.RoundSeen(announcement(1))), fx.StartTraining)
    assert only(bench(ev.CommandSeen(Command(command="resume"))), fx.StartTraining) == [start]


def test_must_33_evict_also_drops_what_was_not_settled() -> None:
    bench = Bench().settle()
    kept = stored(bench)
    effects = bench(ev.CommandSeen(Command(command="evict")))
    assert only(effects, fx.Forget) == [fx.Forget(kept.ticket, fx.EVICTED)]
    assert bench.shown().state is DeviceState.PAUSED


def test_query_publishes_the_status_at_once() -> None:
    bench = Bench().settle()
    bench.at(2.5)
    assert only(bench(ev.CommandSeen(Command(command="query"))), fx.PublishStatus)


def test_a_stopped_device_cancels_and_does_nothing_more() -> None:
    bench = Bench().settle()
    (start,) = only(bench(ev.RoundSeen(announcement(1))), fx.StartTraining)
    assert bench(ev.StopRequested()) == [fx.SuspendJob(start.key, start.plan, start.model)]
    assert bench(ev.RoundSeen(announcement(2)), ev.Tick(99.0)) == []
    assert bench.shown().state is DeviceState.STOPPED


# -- presence ----------------------------------------------------------------------------------------------------------


def test_must_10_a_status_goes_out_at_every_connect_and_every_heartbeat() -> None:
    bench = Bench()
    assert only(bench(ev.Tick(1.0), ev.Connected()), fx.PublishStatus)
    assert not only(bench.at(30.9), fx.PublishStatus)
    assert only(bench.at(31.0), fx.PublishStatus)
    assert only(bench(ev.Disconnected(), ev.Connected()), fx.PublishStatus)


def test_a_training_that_outlasts_its_coordinator_is_told_of_as_often_as_ever() -> None:
    """Seen to fail with ``served`` alone in ``State.heartbeat_s``."""
    bench = Bench(participation.begin(replace(IDENTITY, idle_heartbeat_s=300.0))).settle()
    bench(ev.RoundSeen(announcement(1)))
    bench(ev.CoordinatorSeen(coordinator(state=CoordinatorState.STOPPED)))
    assert bench.shown().heartbeat_s == 30.0


def test_a_burst_of_activity_is_told_every_three_seconds_but_new_examples_at_once() -> None:
    bench = Bench().settle()
    assert only(bench.effects, fx.PublishStatus)[-1].status.examples == 100
    bench.at(10.0)
    bench.effects.clear()
    bench.train()
    assert not only(bench.effects, fx.PublishStatus)
    assert participation.wake_at(bench.state) == 13.0
    assert [effect.status.state for effect in only(bench.at(13.0), fx.PublishStatus)] == [DeviceState.TRAINING]


# -- all of it at random -----------------------------------------------------------------------------------------------

ROUNDS = st.integers(1, 3)
ATTEMPTS = st.integers(0, 1)
TASKS = st.sampled_from(["train", "evaluate"])


class Participation(RuleBasedStateMachine):
    """A coordinator that says anything in any order, a trainer and a disk that fail, against what always holds."""

    def __init__(self) -> None:
        super().__init__()
        self.bench = Bench()
        self.running: set[str] = set()
        self.finished: set[str] = set()
        self.disk: dict[Ticket, Parcel] = {}
        self.settled: list[Ticket] = []
        self.model = -1
        self.version = 0

    def feed(self, *events: Event) -> None:
        for effect in self.bench(*events):
            self.check(effect)

    def check(self, effect: Effect) -> None:
        match effect:
            case fx.StartTraining(key=key) | fx.StartEvaluation(key=key):
                assert not self.running, "two jobs at once"
                assert key not in self.finished, "trained twice"
                self.running.add(key)
            case fx.CancelJob(key):
                self.running.discard(key)
            case fx.FetchModel(offered):
                assert offered.version > self.model, "an older model"
            case fx.SendParts(sent, indices):
                assert self.disk[sent.ticket] == sent, "sent what is not on disk"
                assert indices is None or all(index < sent.ref.parts for index in indices)
            case fx.Forget(ticket):
                del self.disk[ticket]
                self.settled.append(ticket)
            case _:
                pass

    @initialize(examples=st.integers(0, 2), held_out=st.integers(0, 2))
    def start(self, examples: int, held_out: int) -> None:
        self.feed(ev.Tick(1.0), ev.RunSeen(run()), ev.PlanReady(PLAN_REF.digest, "watch"))
        self.feed(ev.JobDone(described(f"{DEVICE}/data/watch", examples, held_out)))

    @rule(seconds=st.floats(0, 100))
    def time_passes(self, seconds: float) -> None:
        self.feed(ev.Tick(self.bench.state.now + seconds))

    @rule(up=st.booleans())
    def link(self, up: bool) -> None:  # noqa: FBT001 - drawn by hypothesis
        self.feed(ev.Connected() if up else ev.Disconnected())

    @rule(seconds=st.floats(0, 1e5), ago=st.none() | st.floats(0, 1e5))
    def uploads(self, seconds: float, ago: float | None) -> None:
        for sent in self.disk.values():
            self.feed(ev.Uploaded(sent, sent.ref.size, seconds))
        self.feed(ev.Uploading(None if ago is None else self.bench.state.now - ago))

    @rule(session=st.integers(1, 3), state=st.sampled_from(CoordinatorState))
    def coordinator(self, session: int, state: CoordinatorState) -> None:
        self.feed(ev.CoordinatorSeen(coordinator(session, state)))

    @rule(version=st.integers(0, 3))
    def offer(self, version: int) -> None:
        self.feed(ev.ModelSeen(pointer(version)))

    @precondition(lambda self: self.bench.state.fetching_model is not None)
    @rule()
    def fetched(self) -> None:
        fetching = self.bench.state.fetching_model
        assert fetching is not None
        self.model = fetching.version
        self.feed(ev.ModelReady(fetching))

    @rule(number=ROUNDS, attempt=ATTEMPTS, task=TASKS, phase=st.sampled_from(Phase))
    def announce(self, number: int, attempt: int, task: Task, phase: Phase) -> None:
        self.feed(ev.RoundSeen(announcement(number, attempt=attempt, task=task, phase=phase)))

    @precondition(lambda self: self.running)
    @rule(full=st.booleans())
    def trained(self, full: bool) -> None:  # noqa: FBT001 - drawn by hypothesis
        key = self.running.pop()
        result = evaluated(key) if "/evaluate/" in key else trained(key)
        effects = self.bench(ev.JobDone(result))
        for effect in effects:
            self.check(effect)
        for store in only(effects, fx.StoreUpdate):
            ticket = store.ticket
            if full:
                self.feed(ev.StoreFailed(ticket, "full"))
            else:
                self.disk = {
                    t: p for t, p in self.disk.items() if (t.round, t.task) != (store.ticket.round, store.ticket.task)
                }
                self.disk[store.ticket] = parcel(store.ticket)
                self.feed(ev.UpdateStored(parcel(store.ticket)))

    @precondition(lambda self: self.running)
    @rule(fraction=st.floats(0, 1), checkpoint=st.sampled_from([b"", b"so far"]))
    def progressed(self, fraction: float, checkpoint: bytes) -> None:
        self.feed(ev.JobProgressed(next(iter(self.running)), fraction, checkpoint))

    @precondition(lambda self: self.running)
    @rule(kind=st.sampled_from(["crash", "training"]))
    def failed(self, kind: str) -> None:
        key = self.running.pop()
        self.feed(ev.JobFailed(Failure.model_validate({"key": key, "kind": kind, "message": "no"})))

    @rule(
        number=ROUNDS,
        attempt=ATTEMPTS,
        outcome=st.sampled_from(Outcome),
        task=TASKS,
        after_s=st.sampled_from([0.0, 5.0, 50.0, 1e7]),
    )
    def receipt(self, number: int, attempt: int, outcome: Outcome, task: Task, after_s: float) -> None:
        about = announcement(number, attempt=attempt, task=task)
        self.feed(ev.ReceiptSeen(receipt(about, outcome, missing=(0, 7), come_back_after_s=after_s)))

    @rule(command=st.sampled_from(["pause", "resume", "evict", "query"]))
    def operator(self, command: str) -> None:
        self.feed(ev.CommandSeen(Command.model_validate({"command": command})))

    @rule()
    def power_cut(self) -> None:
        """All that was on disk comes back, and nothing else."""
        held = pointer(self.model) if self.model >= 0 else None
        settled = remembered(self.settled)
        self.running.clear()
        self.bench = Bench(
            participation.begin(
                IDENTITY,
                model=held,
                parcels=tuple(self.disk.values()),
                settled=settled,
                pace=self.bench.state.pace,
                kept=self.bench.state.kept,
            )
        )
        self.start(2, 2)

    @invariant()
    def the_outbox_is_what_is_on_disk(self) -> None:
        assert {pending.parcel.ticket for pending in self.bench.state.outbox} == set(self.disk)

    @invariant()
    def a_rest_ends_within_the_hour(self) -> None:
        rest = self.bench.state.rest
        assert rest is None or rest.until <= self.bench.state.now + delivery.LONGEST_REST_S

    @invariant()
    def the_clock_is_never_behind(self) -> None:
        """A wake-up that is due already would make the reactor spin."""
        self.feed(ev.Tick(self.bench.state.now))
        due = participation.wake_at(self.bench.state)
        assert due is None or due > self.bench.state.now


TestParticipation = Participation.TestCase
TestParticipation.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
