"""Updates on disk until their receipt: what the receipt says of coming back, and how long they wait for it."""

from __future__ import annotations

import logging

import pytest

from edge.core import delivery, participation
from edge.core import effects as fx
from edge.core import events as ev
from edge.core.events import Ticket
from edge.core.participation_state import OUTBOX_S, Identity
from schemas.messages import DeviceState, Outcome, Phase
from tests.edge_scripts import DEVICE, announcement, coordinator, nonce, pointer, receipt, run, trained
from tests.test_participation import IDENTITY, Bench, only, parcel, stored

DAY_S = 86_400.0


def told(bench: Bench, outcome: Outcome, after_s: float = 120.0) -> Bench:
    """Through round 1 to a receipt that says when to come back."""
    stored(bench)
    bench(ev.ReceiptSeen(receipt(announcement(1), outcome, come_back_after_s=after_s)))
    bench(ev.ModelSeen(pointer(1)), ev.ModelReady(pointer(1)))
    return bench


def takes_part(bench: Bench, about: object) -> bool:
    effects = bench(ev.CoordinatorSeen(coordinator()), ev.RoundSeen(about))  # type: ignore[arg-type]  # an announcement
    return bool(only(effects, fx.SendJoin))


def test_must_27_after_a_rejection_a_device_is_silent_to_all_training_until_it_is_told_to_come_back() -> None:
    """Seen to fail with the rest bound to the round's task whatever the outcome."""
    bench = told(Bench().settle(), Outcome.REJECTED)
    assert not takes_part(bench, announcement(2))
    assert (bench.shown().state, bench.shown().detail) == (
        DeviceState.IDLE,
        "resting until the next round, about 120 s",
    )
    bench.at(120.9)
    assert not takes_part(bench, announcement(2, remaining_s=600.0))
    assert participation.wake_at(bench.state) == 121.0
    assert only(bench.at(121.0), fx.SendJoin)
    assert bench.shown().detail == ""


@pytest.mark.parametrize("outcome", [Outcome.ACCEPTED, Outcome.DUPLICATE, Outcome.LATE, Outcome.REJECTED])
def test_only_an_update_that_was_not_counted_is_a_warning_to_its_owner(outcome: Outcome) -> None:
    """Seen to fail with accepted ones told as warnings, and refused ones not."""
    bench = Bench().settle()
    stored(bench)
    (say,) = only(bench(ev.ReceiptSeen(receipt(announcement(1), outcome, reason="so it is"))), fx.Say)
    assert say.text == f"round 1 (train): {outcome}, so it is"
    assert (say.level == logging.WARNING) == (outcome in {Outcome.LATE, Outcome.REJECTED})


@pytest.mark.parametrize("outcome", [Outcome.ACCEPTED, Outcome.DUPLICATE, Outcome.LATE, Outcome.NOTED])
def test_must_27_after_another_outcome_it_is_silent_to_that_task_of_that_round_alone(outcome: Outcome) -> None:
    """Seen to fail with every rest holding for all training."""
    bench = told(Bench().settle(held_out=5), outcome)
    assert not takes_part(bench, announcement(1, attempt=1, version=1))
    assert takes_part(bench, announcement(1, task="evaluate"))
    assert takes_part(bench, announcement(2))


def test_must_27_a_rejected_device_still_evaluates() -> None:
    bench = told(Bench().settle(held_out=5), Outcome.REJECTED)
    assert takes_part(bench, announcement(1, task="evaluate"))


def test_must_27_a_device_that_declined_is_told_too() -> None:
    bench = Bench().settle(examples=0)
    assert takes_part(bench, announcement(1))
    bench(ev.ReceiptSeen(receipt(announcement(1), Outcome.NOTED, come_back_after_s=100.0)))
    assert not takes_part(bench, announcement(1, attempt=1))
    assert takes_part(bench, announcement(2, version=1))


def test_a_decline_that_is_noted_stands_and_is_said_again_to_a_coordinator_that_came_back() -> None:
    """Its owner has read why once. Seen to fail with a noted join told as a warning, and the ticket settled."""
    bench = Bench().settle(examples=0)
    (join,) = only(bench(ev.RoundSeen(announcement(1))), fx.SendJoin)
    assert bench(ev.ReceiptSeen(receipt(announcement(1), Outcome.NOTED))) == []
    assert only(bench(ev.CoordinatorSeen(coordinator(session=2))), fx.SendJoin) == [join]


def test_an_accepted_evaluation_is_not_shown_as_the_last_round_trained_for() -> None:
    """Seen to fail with the round of any accepted update shown."""
    bench = Bench().settle(held_out=3)
    bench(ev.ModelSeen(pointer(4)), ev.ModelReady(pointer(4)))
    about = announcement(4, task="evaluate")
    bench(ev.RoundSeen(about), ev.UpdateStored(parcel(Ticket.of(about))), ev.ReceiptSeen(receipt(about)))
    assert Ticket.of(about) in bench.state.settled
    assert bench.shown().last_round is None


def test_must_28_no_rest_is_longer_than_an_hour() -> None:
    """Seen to fail without the bound."""
    bench = told(Bench().settle(), Outcome.REJECTED, after_s=31_536_000.0)
    bench.at(1.0 + delivery.LONGEST_REST_S)
    assert takes_part(bench, announcement(2))


def test_a_resting_device_is_not_warmed_up() -> None:
    bench = told(Bench().settle(), Outcome.REJECTED)
    assert not only(bench(ev.RoundSeen(announcement(2, phase=Phase.SELECTING))), fx.WarmUp)


def test_a_receipt_that_is_not_for_us_makes_nobody_rest() -> None:
    bench = Bench().settle()
    stranger = receipt(announcement(1, tag=99), Outcome.REJECTED, come_back_after_s=100.0)
    bench(ev.ReceiptSeen(stranger))
    assert takes_part(bench, announcement(1))


def test_an_update_that_the_disk_has_lost_is_waited_for_no_longer() -> None:
    """Where rounds overlap it would answer every later attempt, and never come. Seen to fail where it stays."""
    bench = Bench().settle()
    bench(ev.RunSeen(run(max_staleness=2)))
    about = stored(bench)
    assert not takes_part(bench, announcement(1, attempt=1))
    effects = bench(ev.UpdateLost(about.ticket))
    assert only(effects, fx.Forget) == [fx.Forget(about.ticket, fx.LOST)]
    assert "see to the disk" in only(effects, fx.Say)[0].text
    assert not bench.state.outbox
    assert [join.ticket for join in only(effects, fx.SendJoin)] == [Ticket.of(announcement(1, attempt=1))]
    assert bench(ev.UpdateLost(about.ticket)) == []


def test_must_26_where_rounds_overlap_an_update_goes_once_more_for_another_attempt_that_it_answers() -> None:
    """What the first was sent may be lost, and the device does not train again. Seen to fail without ``_hastened``: it
    went 30 s after it had gone before, when that attempt was over too, and the run with it.
    """
    bench = Bench().settle()
    bench(ev.RunSeen(run(max_staleness=2)))
    kept = stored(bench)
    bench.at(5.0)
    assert not only(bench(ev.RoundSeen(announcement(1, attempt=1, remaining_s=15.0))), fx.SendParts)
    assert participation.wake_at(bench.state) == 5.0 + delivery.SOONEST_S
    assert only(bench.at(5.0 + delivery.SOONEST_S), fx.SendParts) == [fx.SendParts(kept, (0,))]
    assert not only([*bench.at(15.0), *bench.at(19.9)], fx.SendParts)
    bench(ev.RoundSeen(announcement(1, attempt=2, remaining_s=15.0)))
    assert only(bench.at(19.9 + delivery.SOONEST_S), fx.SendParts) == [fx.SendParts(kept, (0,))]


def test_of_a_large_update_only_the_first_part_goes_unasked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fifty of them at once would have the broker drop what it can't queue. Seen to fail with all of it sent."""
    monkeypatch.setattr("schemas.parts.LARGE", 10)
    bench = Bench().settle()
    (start,) = only(bench(ev.RoundSeen(announcement(1))), fx.StartTraining)
    (store,) = only(bench(ev.JobDone(trained(start.key))), fx.StoreUpdate)
    kept = parcel(store.ticket)
    assert only(bench(ev.UpdateStored(kept)), fx.SendParts) == [fx.SendParts(kept, (0,))]
    asked = receipt(announcement(1), Outcome.INCOMPLETE, missing=(1, 2))
    assert only(bench(ev.ReceiptSeen(asked)), fx.SendParts) == [fx.SendParts(kept, (1, 2))]


@pytest.mark.parametrize("missing", [(), (7,)])
def test_whoever_lacks_no_part_that_there_is_gets_the_first(missing: tuple[int, ...]) -> None:
    """So that it asks again, for what it lacks. Seen to fail with the second sent, which there may not be."""
    bench = Bench().settle()
    kept = stored(bench)
    asked = receipt(announcement(1), Outcome.INCOMPLETE, missing=missing)
    assert only(bench(ev.ReceiptSeen(asked)), fx.SendParts) == [fx.SendParts(kept, (0,))]


def test_parts_asked_for_of_one_update_put_off_that_one_and_leave_the_others() -> None:
    """Seen to fail with the others taken for it, and lost, and with it sent again as soon as if nobody had asked."""
    about = [announcement(number, version=0) for number in (1, 2)]
    kept = tuple(parcel(Ticket.of(one)) for one in about)
    bench = Bench(participation.begin(IDENTITY, parcels=kept)).settle()
    bench.at(20.0)
    asked = bench(ev.ReceiptSeen(receipt(about[0], Outcome.INCOMPLETE, missing=(1,))))
    assert only(asked, fx.SendParts) == [fx.SendParts(kept[0], (1,))]
    assert tuple(pending.parcel for pending in bench.state.outbox) == kept
    bench(ev.CoordinatorSeen(coordinator()))
    assert [sent.parcel for sent in only(bench.at(31.0), fx.SendParts)] == [kept[1]]
    assert [sent.parcel for sent in only(bench.at(50.0), fx.SendParts)] == [kept[0]]


def test_an_update_whose_parts_were_asked_for_is_settled_when_the_round_does_without_it() -> None:
    """It waits for no budget. Seen to fail with each that was asked for taken to be held back."""
    bench = Bench().settle()
    kept = stored(bench)
    bench(ev.ReceiptSeen(receipt(announcement(1), Outcome.INCOMPLETE, missing=(1,))))
    effects = bench(ev.ReceiptSeen(receipt(announcement(1), Outcome.NOTED)))
    assert only(effects, fx.Forget) == [fx.Forget(kept.ticket, "noted")]


# -- an outbox that nobody empties -------------------------------------------------------------------------------------


def waiting(age_s: float = 0.0, limit_s: float = OUTBOX_S) -> tuple[Bench, Ticket]:
    """A device that finds an update of that age on its disk."""
    ticket = Ticket("run-old", 1, "train", nonce(1))
    identity = Identity(DEVICE, session=5, outbox_s=limit_s)
    return Bench(participation.begin(identity, parcels=(parcel(ticket),), ages={ticket: age_s})), ticket


def test_invariant_11_an_update_is_given_up_after_a_week_of_running() -> None:
    """Seen to fail without ``delivery.expire`` among the rules."""
    bench, ticket = waiting()
    bench.at(50.0)
    assert participation.wake_at(bench.state) == 50.0 + 7 * DAY_S
    assert not only(bench.at(49.0 + 7 * DAY_S), fx.Forget)
    effects = bench.at(50.0 + 7 * DAY_S)
    assert only(effects, fx.Forget) == [fx.Forget(ticket, "expired")]
    assert "7 days" in only(effects, fx.Say)[0].text


def test_invariant_11_its_age_counts_on_over_a_restart() -> None:
    """Seen to fail with ``ages`` not handed to ``begin``."""
    bench, ticket = waiting(age_s=6 * DAY_S)
    bench.at(1000.0)
    assert not only(bench.at(999.0 + DAY_S), fx.Forget)
    assert only(bench.at(1000.0 + DAY_S), fx.Forget) == [fx.Forget(ticket, "expired")]


def test_an_owner_may_have_updates_wait_longer_or_shorter() -> None:
    bench, ticket = waiting(limit_s=10.0)
    bench.at(5.0)
    assert only(bench.at(15.0), fx.Forget) == [fx.Forget(ticket, "expired")]
    bench, ticket = waiting(limit_s=DAY_S)
    effects = bench(ev.Tick(5.0), ev.Tick(5.0 + DAY_S))
    assert "in 1 day of running" in only(effects, fx.Say)[0].text


def test_how_long_the_device_has_been_running_is_kept_every_hour_and_at_the_end() -> None:
    bench, _ = waiting()
    bench.at(5.0)
    assert len(only([effect for hour in range(1, 5) for effect in bench.at(5.0 + 3600 * hour)], fx.KeepAge)) == 4
    assert only(bench(ev.StopRequested()), fx.KeepAge)
    empty = Bench(participation.begin(IDENTITY))
    empty.at(5.0)
    assert not only(empty.at(50_000.0), fx.KeepAge)


def test_must_26_an_update_without_a_receipt_goes_again_while_it_still_counts() -> None:
    """Once, where 30 s would be too late. Seen to fail without it: it went again 15 s after the deadline."""
    bench, sent = Bench().settle(), list[float]()
    bench(ev.RoundSeen(announcement(1, remaining_s=15.0)))
    (start,) = only(bench.effects, fx.StartTraining)
    bench(ev.JobDone(trained(start.key)))
    bench(ev.UpdateStored(parcel(start.ticket)))
    for now in range(2, 240):
        bench(ev.CoordinatorSeen(coordinator()))
        sent += [now / 2 for _ in only(bench.at(now / 2), fx.SendParts)]
    assert sent == [1.0 + 7.5, 1.0 + 7.5 + 30.0, 1.0 + 7.5 + 90.0]
