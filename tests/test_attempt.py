"""The attempt in hand: it goes on from its checkpoint, and a device knows how long it takes."""

from __future__ import annotations

import pytest

from edge.core import effects as fx
from edge.core import events as ev
from edge.core import pace, participation, presence
from edge.core.events import Ticket
from edge.core.jobs import Failure
from edge.core.pace import Pace
from edge.core.participation_state import Kept
from schemas.messages import Command, CoordinatorState, DeviceState, Phase
from tests.edge_scripts import PLAN_REF, RUN, announcement, coordinator, digest, pointer, receipt, run, trained
from tests.test_participation import IDENTITY, Bench, only, parcel

ABOUT = pace.subject(run())


def started(bench: Bench, number: int = 1, remaining_s: float = 600.0) -> fx.StartTraining:
    (start,) = only(bench(ev.RoundSeen(announcement(number, remaining_s=remaining_s))), fx.StartTraining)
    return start


def knowing(seconds: float, kept: Kept | None = None) -> Bench:
    """A device that has learned how long the run's training takes."""
    return Bench(participation.begin(IDENTITY, pace=Pace().learn(ABOUT, seconds), kept=kept)).settle()


# -- checkpoints -------------------------------------------------------------------------------------------------------


def test_a_checkpoint_goes_to_disk_with_what_it_is_of_and_leaves_once_the_update_is_there() -> None:
    bench = Bench().settle()
    start = started(bench)
    keep = fx.KeepCheckpoint(start.key, PLAN_REF.digest, digest(f"{RUN}/0"), 0.25, b"so far")
    assert only(bench(ev.JobProgressed(start.key, 0.25, b"so far")), fx.KeepCheckpoint) == [keep]
    effects = bench(ev.JobDone(trained(start.key)))
    assert not only(effects, fx.DropCheckpoint)
    assert only(bench(ev.UpdateStored(parcel(Ticket.of(announcement(1))))), fx.DropCheckpoint)


def test_a_stopped_device_keeps_where_its_training_is() -> None:
    bench = Bench().settle()
    start = started(bench)
    assert bench(ev.StopRequested()) == [fx.SuspendJob(start.key, start.plan, start.model)]


def test_a_checkpoint_of_another_attempt_leaves_when_the_next_training_begins() -> None:
    """Seen to fail with the checkpoint kept whatever its key."""
    bench = Bench().settle()
    start = started(bench)
    bench(ev.JobProgressed(start.key, 0.25, b"so far"))
    crash = ev.JobFailed(Failure(key=start.key, kind="crash", message="killed"))
    effects = bench(crash)
    assert only(effects, fx.StartTraining) == [start]
    assert not only(effects, fx.DropCheckpoint)
    assert only(bench(ev.RoundSeen(announcement(1, attempt=1))), fx.DropCheckpoint)


def test_news_of_a_job_that_is_no_longer_ours_changes_nothing() -> None:
    bench = Bench().settle()
    start = started(bench)
    bench(ev.RoundSeen(announcement(1, phase=Phase.ABANDONED)))
    before = bench.state
    assert bench(ev.JobProgressed(start.key, 0.9, b"late")) == []
    assert bench(ev.JobFailed(Failure(key=start.key, kind="model", message="no such tensor"))) == []
    assert bench.state == before


def test_an_owner_hears_once_that_a_training_goes_on_from_a_checkpoint_and_never_of_one_from_the_start() -> None:
    """Seen to fail with a fresh training told to go on from 0.0%, and with nothing told."""
    bench = Bench().settle()
    start = started(bench)
    assert not only(bench(ev.JobProgressed(start.key, 0.0), ev.JobProgressed(start.key, 0.4)), fx.Say)
    bench(ev.JobFailed(Failure(key=start.key, kind="crash", message="killed")))
    (say,) = only(bench(ev.JobProgressed(start.key, 0.4), ev.JobProgressed(start.key, 0.6)), fx.Say)
    assert say.text == "round 1 (train) goes on from 40.0% of its training"


def test_progress_shows_in_the_status_at_a_modest_rate() -> None:
    """Seen to fail with a publication for each report."""
    bench = Bench().settle()
    assert bench.shown().progress is None
    start = started(bench)
    published = []
    for second in range(2, 42):
        bench(ev.JobProgressed(start.key, second / 50))
        published += only(bench.at(float(second)), fx.PublishStatus)
    assert [one.status.state for one in published] == [DeviceState.TRAINING] * 4
    assert [one.status.progress for one in published] == [0.08, 0.28, 0.48, 0.68]
    bench(ev.JobDone(trained(start.key)), ev.UpdateStored(parcel(Ticket.of(announcement(1)))))
    assert bench.shown().progress is None


# -- pace --------------------------------------------------------------------------------------------------------------


def test_a_device_learns_how_long_a_whole_attempt_takes_and_remembers_it() -> None:
    """Seen to fail with the time taken from the first tick on."""
    bench = Bench().settle()
    start = started(bench)
    bench.at(41.0)
    bench(ev.JobDone(trained(start.key)))
    (keep,) = only(bench(ev.UpdateStored(parcel(Ticket.of(announcement(1))))), fx.KeepPace)
    assert keep.pace.expected(ABOUT) == 40.0


def test_it_is_never_declined_on_first_acquaintance() -> None:
    assert started(Bench().settle(), remaining_s=0.5)


def test_a_deadline_that_can_not_be_met_is_declined_with_what_would_help() -> None:
    bench = knowing(410.0)
    effects = bench(ev.RoundSeen(announcement(1, remaining_s=300.0)))
    (join,) = only(effects, fx.SendJoin)
    assert not join.accepts
    assert join.reason == (
        "it would need about 410 s, and the round leaves 300 s: "
        "a longer deadline or fewer epochs would let it take part"
    )
    assert not only(effects, fx.StartTraining)
    assert bench.shown().state is DeviceState.IDLE


def test_each_decline_trusts_the_estimate_a_tenth_less_until_the_device_tries_again() -> None:
    """Seen to fail without the decay."""
    bench = knowing(410.0)
    took_part = []
    for attempt in range(4):
        effects = bench(ev.RoundSeen(announcement(1, attempt=attempt, remaining_s=300.0)))
        took_part += [join.accepts for join in only(effects, fx.SendJoin)]
    assert took_part == [False, False, False, True]


def test_a_training_that_was_done_when_its_trainer_took_it_up_teaches_nothing() -> None:
    """Seen to fail with the time divided by the none of it that was left."""
    bench = Bench().settle()
    start = started(bench)
    bench(ev.JobProgressed(start.key, 1.0), ev.JobDone(trained(start.key)))
    effects = bench(ev.UpdateStored(parcel(Ticket.of(announcement(1)))))
    assert only(effects, fx.SendParts)
    assert not only(effects, fx.KeepPace)


def test_an_attempt_cut_short_teaches_how_long_all_of_it_would_have_taken() -> None:
    """Seen to fail with only whole attempts counted."""
    bench = Bench().settle()
    start = started(bench, remaining_s=100.0)
    bench(ev.JobProgressed(start.key, 0.0))
    bench.at(91.0)
    bench(ev.JobProgressed(start.key, 0.3))
    effects = bench.at(101.0)
    assert only(effects, fx.CancelJob)
    (keep,) = only(effects, fx.KeepPace)
    assert keep.pace.expected(ABOUT) == pytest.approx(300.0)
    (join,) = only(bench(ev.RoundSeen(announcement(1, attempt=1, remaining_s=100.0))), fx.SendJoin)
    assert not join.accepts


def test_what_a_checkpoint_holds_already_need_not_be_done_again() -> None:
    """After a restart late in a round. Seen to fail with the whole estimate held against the time left."""
    key = f"{IDENTITY.device}/{RUN}/1/train/{announcement(1).nonce}"
    bench = knowing(400.0, Kept(key, 0.75))
    start = started(bench, remaining_s=150.0)
    bench(ev.JobProgressed(start.key, 0.75))
    bench.at(121.0)
    bench(ev.JobDone(trained(start.key)))
    (keep,) = only(bench(ev.UpdateStored(parcel(Ticket.of(announcement(1))))), fx.KeepPace)
    assert keep.pace.expected(ABOUT) == pytest.approx((400.0 + 480.0) / 2)


def test_evaluations_are_not_measured_against_the_pace_of_training() -> None:
    bench = Bench(participation.begin(IDENTITY, pace=Pace().learn(ABOUT, 1e6))).settle(held_out=5)
    bench(ev.ModelSeen(pointer(1)), ev.ModelReady(pointer(1)))
    assert only(bench(ev.RoundSeen(announcement(1, task="evaluate"))), fx.StartEvaluation)


# -- uploads -----------------------------------------------------------------------------------------------------------


def uploading(*seconds: float, codec: str = "int8") -> Bench:
    """A device whose uploads of this run have taken so long."""
    bench = Bench().settle()
    bench(ev.RunSeen(run().model_copy(update={"codec": codec})))
    for number, each in enumerate(seconds, start=1):
        bench(ev.Uploaded(parcel(Ticket.of(announcement(number))), 3000, each))
    return bench


def joins(bench: Bench, number: int, remaining_s: float = 60.0, attempt: int = 0) -> fx.SendJoin:
    (join,) = only(bench(ev.RoundSeen(announcement(number, attempt=attempt, remaining_s=remaining_s))), fx.SendJoin)
    return join


def test_must_14_a_deadline_that_the_upload_can_not_meet_is_declined_with_what_would_help() -> None:
    bench = uploading(104.0, 105.0)
    join = joins(bench, 3)
    assert not join.accepts
    assert join.reason == (
        "it would need about 104 s to upload its update, and the round leaves 60 s: "
        "a longer deadline or a codec of fewer bytes would let it take part"
    )
    assert not only(bench.effects, fx.StartTraining)
    assert joins(bench, 4, remaining_s=105.0).accepts


def test_an_upload_begins_only_when_the_training_is_done() -> None:
    bench = Bench(participation.begin(IDENTITY, pace=Pace().learn(ABOUT, 30.0))).settle()
    for number in (1, 2):
        bench(ev.Uploaded(parcel(Ticket.of(announcement(number))), 3000, 40.0))
    join = joins(bench, 3)
    assert not join.accepts
    assert join.reason.startswith("it would need about 40 s to upload its update after 30 s of training, and the round")
    assert joins(bench, 4, remaining_s=70.0).accepts


def test_a_device_learns_from_its_uploads_and_keeps_it() -> None:
    effects = Bench().settle()(ev.Uploaded(parcel(Ticket.of(announcement(1))), 3000, 104.0))
    (keep,) = only(effects, fx.KeepPace)
    assert [one.seconds for one in keep.pace.uploads] == [(104.0,)]


def test_what_most_of_an_update_took_tells_how_long_all_of_it_takes() -> None:
    bench = Bench().settle()
    for number in (1, 2):
        bench(ev.Uploaded(parcel(Ticket.of(announcement(number)), size=4000), 3000, 30.0))
    assert bench.state.pace.upload_s(pace.upload_subject(run())) == pytest.approx(40.0)


def test_no_device_is_kept_out_by_one_upload_by_those_of_counts_or_of_another_run_or_codec() -> None:
    assert joins(uploading(1e4), 2).accepts
    bench = uploading(1e4, 1e4)
    bench(ev.RunSeen(run().model_copy(update={"codec": "sign"})))
    assert joins(bench, 3).accepts
    bench = Bench().settle()
    for ticket in (Ticket.of(announcement(1, task="evaluate")), Ticket("run-two", 1, "train", "a" * 16)):
        bench(ev.Uploaded(parcel(ticket), 3000, 1e4), ev.Uploaded(parcel(ticket), 3000, 1e4))
    assert joins(bench, 2).accepts


def test_a_device_that_chooses_its_codec_chooses_one_that_fits_instead() -> None:
    assert joins(uploading(1e4, 1e4, codec="auto"), 3).accepts


def test_a_device_kept_out_by_its_uploads_tries_again_every_tenth_time_and_stays_where_they_are_quick() -> None:
    bench = uploading(104.0, 104.0)
    took_part = [joins(bench, 3, attempt=attempt).accepts for attempt in range(20)]
    assert took_part == 2 * [*9 * [False], True]
    bench(ev.Uploaded(parcel(Ticket.of(announcement(3))), 3000, 10.0))
    assert all(joins(bench, 4, attempt=attempt).accepts for attempt in range(5))


def test_a_link_that_is_busy_with_earlier_updates_keeps_a_device_out_until_it_is_done() -> None:
    """Before the first has come no other time is known. Seen to fail without ``why_not_yet`` in ``attempt``."""
    bench = Bench().settle()
    bench(ev.Uploading(1.0))
    bench.at(62.0)
    join = joins(bench, 2)
    assert not join.accepts
    assert join.reason == (
        "it has been uploading earlier updates for 61 s, and the round leaves 60 s: "
        "a longer deadline or a codec of fewer bytes would let it take part"
    )
    assert joins(bench, 3, remaining_s=62.0).accepts
    bench(ev.Uploading(None))
    assert joins(bench, 4).accepts


def test_where_rounds_overlap_no_upload_keeps_a_device_out() -> None:
    bench = uploading(104.0, 104.0)
    bench(ev.RunSeen(run(max_staleness=2)), ev.Uploading(1.0))
    bench.at(62.0)
    assert joins(bench, 3).accepts


def test_a_pause_and_a_resume_go_on_from_what_was_kept() -> None:
    bench = Bench().settle()
    start = started(bench)
    bench(ev.JobProgressed(start.key, 0.5, b"so far"))
    bench(ev.CommandSeen(Command(command="pause")))
    effects = bench(ev.CommandSeen(Command(command="resume")))
    assert only(effects, fx.StartTraining) == [start]
    assert not only(effects, fx.DropCheckpoint)
    assert presence.status(bench.state).progress == 0.0


# -- rounds that overlap -----------------------------------------------------------------------------------------------


def overlapping() -> tuple[Bench, fx.StartTraining]:
    """A device at work on round 1 of a run that takes updates two versions old."""
    bench = Bench().settle()
    bench(ev.RunSeen(run(max_staleness=2)))
    return bench, started(bench, remaining_s=60.0)


def test_where_rounds_overlap_a_training_outlasts_its_round_and_its_deadline_and_its_update_is_sent() -> None:
    """Seen to fail without ``outlasts`` in ``drop``."""
    bench, start = overlapping()
    bench.at(100.0)
    effects = bench(ev.RoundSeen(announcement(1, phase=Phase.COMMITTED)), ev.ModelSeen(pointer(1)))
    effects += bench(ev.ModelReady(pointer(1)), ev.RoundSeen(announcement(2)))
    due = participation.wake_at(bench.state)
    assert due is None or due > bench.state.now
    (store,) = only(bench(ev.JobDone(trained(start.key))), fx.StoreUpdate)
    assert (store.ticket, store.update.model_version) == (Ticket.of(announcement(1)), 0)
    assert not only(effects, fx.CancelJob)
    effects = bench(ev.UpdateStored(parcel(store.ticket)))
    assert [sent.parcel.ticket for sent in only(effects, fx.SendParts)] == [store.ticket]
    (second,) = only(effects, fx.StartTraining)
    assert second.key == bench.state.key(Ticket.of(announcement(2)))


def slow() -> tuple[Bench, Ticket]:
    """A device that has its update for round 1 on disk when that has been abandoned and is tried again."""
    bench, start = overlapping()
    bench(ev.RoundSeen(announcement(1, phase=Phase.ABANDONED)), ev.RoundSeen(announcement(1, attempt=1)))
    (store,) = only(bench(ev.JobDone(trained(start.key))), fx.StoreUpdate)
    return bench, store.ticket


def test_where_rounds_overlap_what_an_abandoned_attempt_was_trained_for_is_the_answer_to_the_next() -> None:
    """Else no device that needs longer than a deadline could ever answer a round that has been abandoned.

    Seen to fail with the update dropped as superseded, and with a second training while it waits for its receipt.
    """
    bench, ticket = slow()
    effects = bench(ev.UpdateStored(parcel(ticket)))
    assert [sent.parcel.ticket for sent in only(effects, fx.SendParts)] == [ticket]
    assert not only(effects, fx.Forget)
    assert not only(bench.effects, fx.StartTraining)[1:]
    counts = receipt(announcement(1), come_back_after_s=40.0)
    effects = bench(ev.ReceiptSeen(counts), ev.RoundSeen(announcement(1, attempt=1)))
    assert only(effects, fx.Forget) == [fx.Forget(ticket, "accepted")]
    assert not only(effects, fx.StartTraining)


def test_an_update_that_counted_for_an_abandoned_attempt_is_trained_for_anew() -> None:
    bench, start = overlapping()
    (store,) = only(bench(ev.JobDone(trained(start.key))), fx.StoreUpdate)
    bench(ev.UpdateStored(parcel(store.ticket)), ev.ReceiptSeen(receipt(announcement(1))))
    effects = bench(ev.RoundSeen(announcement(1, phase=Phase.ABANDONED)), ev.RoundSeen(announcement(1, attempt=1)))
    assert only(effects, fx.StartTraining)


def test_a_training_whose_update_would_be_too_far_behind_is_dropped() -> None:
    """Seen to fail without the bound in ``outlasts``."""
    bench, start = overlapping()
    assert not only(bench(ev.RoundSeen(announcement(3))), fx.CancelJob)
    assert only(bench(ev.RoundSeen(announcement(4))), fx.CancelJob) == [fx.CancelJob(start.key)]


def test_a_training_that_has_not_begun_gives_way_to_the_newest_round() -> None:
    bench = Bench().settle()
    bench(ev.RunSeen(run(max_staleness=2)), ev.RoundSeen(announcement(2)))
    assert not only(bench.effects, fx.StartTraining)
    bench(ev.RoundSeen(announcement(3)), ev.ModelSeen(pointer(2)), ev.ModelReady(pointer(2)))
    (start,) = only(bench.effects, fx.StartTraining)
    assert start.key == bench.state.key(Ticket.of(announcement(3)))


def test_where_rounds_overlap_a_slow_device_takes_part_whatever_their_deadline() -> None:
    bench = knowing(500.0)
    bench(ev.RunSeen(run(max_staleness=2)))
    started(bench, remaining_s=60.0)


def test_the_end_of_the_run_ends_a_training_that_outlasted_its_round() -> None:
    bench, start = overlapping()
    bench(ev.RoundSeen(announcement(2, phase=Phase.COMMITTED)))
    ended = coordinator().model_copy(update={"state": CoordinatorState.FINISHED})
    assert only(bench(ev.CoordinatorSeen(ended)), fx.CancelJob) == [fx.CancelJob(start.key)]
