"""Whether a coordinator is there, as a device knows it, and what it hears once it is back."""

from __future__ import annotations

from dataclasses import replace

import pytest

from edge.core import effects as fx
from edge.core import events as ev
from edge.core import participation
from edge.core.contact import UNHEARD_S
from edge.core.presence import STATUS_S
from schemas.messages import CoordinatorState, CoordinatorStatus, Phase
from tests.edge_scripts import announcement, coordinator, pointer, receipt, run, trained
from tests.test_participation import IDENTITY, Bench, only, parcel, stored


def test_without_a_coordinator_no_round_is_taken_up() -> None:
    bench = Bench().settle()
    bench(ev.CoordinatorSeen(coordinator(state=CoordinatorState.OFFLINE)))
    assert not only(bench(ev.RoundSeen(announcement(1))), fx.StartTraining)
    assert only(bench(ev.CoordinatorSeen(coordinator(session=2))), fx.StartTraining)


def test_must_11_a_stale_will_of_an_earlier_coordinator_is_ignored() -> None:
    bench = Bench().settle()
    bench(ev.CoordinatorSeen(coordinator(session=3)))
    bench(ev.CoordinatorSeen(coordinator(session=2, state=CoordinatorState.OFFLINE)))
    assert only(bench(ev.RoundSeen(announcement(1))), fx.StartTraining)


END = 2**53  # of all sessions


def says(session: int, second: float, heartbeat_s: float = 30.0) -> ev.CoordinatorSeen:
    """A status as it comes again and again: each tells its time."""
    return ev.CoordinatorSeen(coordinator(session, heartbeat_s=heartbeat_s).model_copy(update={"said": f"{second}"}))


@pytest.mark.parametrize(
    ("forged", "patience_s"),
    [
        (coordinator(END, CoordinatorState.FINISHED), UNHEARD_S),
        (coordinator(END, CoordinatorState.OFFLINE, heartbeat_s=3e7), UNHEARD_S),
        (coordinator(END), 75.0),
        (coordinator(END, heartbeat_s=600.0), 1500.0),
        (coordinator(END, heartbeat_s=3e7), 1500.0),
    ],
)
def test_must_11_a_session_from_which_nobody_goes_on_to_speak_is_let_go_of_for_a_lower_one_that_does(
    forged: CoordinatorStatus, patience_s: float
) -> None:
    """Seen to fail without ``_follows``: one forged status kept a device out of every round until its next start."""
    bench = Bench().settle()
    bench(ev.CoordinatorSeen(forged))
    bench(ev.Tick(10.0), says(1, 10.0))
    for second in range(20, int(10 + patience_s), 5):
        bench(ev.Tick(float(second)), says(1, second))
        assert bench.state.coordinator == forged
    effects = bench(ev.Tick(10.0 + patience_s), says(1, 10.0 + patience_s), ev.RoundSeen(announcement(1)))
    assert only(effects, fx.StartTraining)
    (said,) = (say for say in only(effects, fx.Say) if "session" in say.text)
    assert said.text == f"the coordinator of session {END} says nothing more: following the one of 1"
    bench(ev.CoordinatorSeen(coordinator(state=CoordinatorState.OFFLINE)))  # its will is heeded too
    assert not bench.state.served


def test_must_11_a_lower_session_is_ignored_for_as_long_as_the_newest_goes_on_to_speak() -> None:
    """Two of them, on brokers that are bridged. Seen to fail without ``another=None`` in ``coordinator_seen``."""
    bench = Bench().settle()
    for second in range(10, 3000, 10):
        bench(ev.Tick(float(second)), says(2, second, 60.0) if second % 60 == 0 else says(1, second))
        assert bench.state.coordinator is not None
        assert bench.state.coordinator.session == (2 if second >= 60 else 1)


@pytest.mark.parametrize("what", ["one status again and again", "its will", "two of them", "no broker"])
def test_must_11_what_is_no_sign_that_one_of_a_lower_session_goes_on_to_speak(what: str) -> None:
    """Seen to fail without each condition, and with ``another`` kept past a cut."""
    bench = Bench().settle()
    bench(ev.CoordinatorSeen(coordinator(9, CoordinatorState.STOPPED)))
    for second in range(10, 900, 70):
        bench.at(float(second))
        match what:
            case "one status again and again":
                bench(says(1, 0.0))
            case "its will":
                state = CoordinatorState.OFFLINE if second > 10 else CoordinatorState.RUNNING
                bench(ev.CoordinatorSeen(coordinator(1, state).model_copy(update={"said": f"{second}"})))
            case "two of them":
                bench(says(1 + second // 70 % 2, second))
            case _:
                bench(says(1, second), ev.Disconnected(), ev.Connected())
    assert bench.state.coordinator is not None
    assert bench.state.coordinator.session == 9


def test_must_10_a_device_beats_seldom_while_there_is_no_coordinator_and_speaks_up_when_one_comes() -> None:
    """Seen to fail with ``identity.heartbeat_s`` in ``presence.status``, and without ``shown=None``."""
    bench = Bench(participation.begin(replace(IDENTITY, idle_heartbeat_s=300.0)))
    bench(ev.Tick(1.0), ev.Connected(), ev.Tick(2.0))
    assert bench.shown().heartbeat_s == 300.0
    assert not only(bench.at(300.9), fx.PublishStatus)
    assert only(bench.at(301.0), fx.PublishStatus)
    (said,) = only(bench(ev.Tick(310.0), ev.CoordinatorSeen(coordinator())), fx.PublishStatus)
    assert said.status.heartbeat_s == 30.0
    assert only(bench(ev.Tick(340.0), ev.RunSeen(run())), fx.PublishStatus)
    gone = coordinator(state=CoordinatorState.FINISHED)
    assert not only(bench(ev.Tick(350.0), ev.CoordinatorSeen(gone), ev.Tick(369.9)), fx.PublishStatus)
    (said,) = only(bench.at(370.0), fx.PublishStatus)
    assert said.status.heartbeat_s == 300.0


def test_must_10_a_device_beats_as_seldom_as_its_coordinator_and_answers_where_that_beats_faster() -> None:
    """A promise of fewer comes with the last of the old pace.

    Seen to fail without ``coordinator.heartbeat_s`` in ``State.heartbeat_s``, without ``shown=None`` in
    ``coordinator_seen``, and with fewer taken for news in ``interval``.
    """
    bench = Bench(participation.begin(replace(IDENTITY, idle_heartbeat_s=300.0))).settle()
    assert bench.shown().heartbeat_s == 30.0
    bench.at(20.0)
    at = bench.state.shown_at
    assert not only(bench(ev.CoordinatorSeen(coordinator(heartbeat_s=900.0)), ev.Tick(at + 29.9)), fx.PublishStatus)
    (said,) = only(bench.at(at + 30.0), fx.PublishStatus)
    assert said.status.heartbeat_s == 300.0
    assert not only(bench.at(at + 329.9), fx.PublishStatus)
    assert only(bench.at(at + 330.0), fx.PublishStatus)
    (said,) = only(bench(ev.CoordinatorSeen(coordinator())), fx.PublishStatus)
    assert said.status.heartbeat_s == 30.0
    assert only(bench.at(at + 360.0), fx.PublishStatus)


def test_must_10_a_device_answers_a_coordinator_that_beats_faster_whatever_its_own_heartbeat() -> None:
    """That counts those who don't as gone. Seen to fail with an answer for another promise alone."""
    bench = Bench(participation.begin(replace(IDENTITY, heartbeat_s=600.0)))
    bench(ev.Tick(1.0), ev.Connected(), ev.CoordinatorSeen(coordinator(heartbeat_s=300.0)))
    assert only(bench(ev.CoordinatorSeen(coordinator())), fx.PublishStatus)
    assert not only(bench(ev.Tick(60.0), ev.CoordinatorSeen(coordinator())), fx.PublishStatus)


def test_must_10_a_new_coordinator_hears_of_a_device_whatever_its_heartbeat() -> None:
    """Seen to fail without ``shown=None`` in ``_introduce``."""
    bench = Bench(participation.begin(replace(IDENTITY, heartbeat_s=600.0)))
    bench(ev.Tick(1.0), ev.Connected(), ev.CoordinatorSeen(coordinator()))
    assert only(bench(ev.Tick(50.0), ev.CoordinatorSeen(coordinator(session=2))), fx.PublishStatus)
    assert not only(bench(ev.Tick(60.0), ev.CoordinatorSeen(coordinator(session=2))), fx.PublishStatus)


def test_a_new_coordinator_is_not_told_at_once_again_what_was_told_a_moment_ago() -> None:
    """Whoever subscribes hears what is retained. Seen to fail with a status for each session, however soon."""
    bench = Bench().settle()
    told = only(bench.at(50.0), fx.PublishStatus)
    assert told
    assert not only(bench(ev.Tick(50.0 + STATUS_S), ev.CoordinatorSeen(coordinator(session=2))), fx.PublishStatus)
    assert only(bench(ev.Tick(52.0), ev.CoordinatorSeen(coordinator(session=3))), fx.PublishStatus) == told


def test_must_32_a_coordinator_that_is_not_heard_of_for_two_and_a_half_heartbeats_is_not_there() -> None:
    """Its update is held, no round is taken up. Seen to fail with ``served`` by the coordinator's own word alone."""
    bench = Bench().settle()
    kept = stored(bench)
    bench.at(75.9)
    assert bench.shown().detail == ""
    assert participation.wake_at(bench.state) == 76.0
    bench.at(76.0)
    assert bench.shown().detail == "the coordinator has been silent for 75 s"
    assert not only(bench.at(5000.0), fx.SendParts)
    assert bench.state.outbox
    effects = bench(ev.CoordinatorSeen(coordinator()))
    assert only(effects, fx.SendParts) == [fx.SendParts(kept, (0,))]
    assert bench.shown().detail == ""


@pytest.mark.parametrize(
    "sign",
    [
        ev.RunSeen(run()),
        ev.ModelSeen(pointer(0)),
        ev.RoundSeen(announcement(1, phase=Phase.COMMITTED)),
        ev.ReceiptSeen(receipt(announcement(9))),
    ],
)
def test_must_32_any_message_of_its_is_a_sign_of_life(sign: ev.Event) -> None:
    """Seen to fail with statuses alone counted."""
    bench = Bench().settle()
    kept = stored(bench)
    bench.at(5000.0)
    assert only(bench(sign), fx.SendParts) == [fx.SendParts(kept, (0,))]


def test_work_in_hand_goes_on_while_the_coordinator_is_silent_and_no_other_is_taken_up() -> None:
    bench = Bench().settle()
    (start,) = only(bench(ev.RoundSeen(announcement(1, remaining_s=900.0))), fx.StartTraining)
    assert not only(bench.at(100.0), fx.CancelJob)
    assert only(bench(ev.JobDone(trained(start.key))), fx.StoreUpdate)


def test_must_32_time_without_a_broker_is_no_silence_of_the_coordinator() -> None:
    """Seen to fail without shifting ``heard_at`` at the reconnect."""
    bench = Bench().settle()
    bench.at(41.0)
    bench(ev.Disconnected())
    bench.at(5000.0)
    bench(ev.Connected())
    assert bench.shown().detail == ""
    bench.at(5034.9)
    assert bench.shown().detail == ""
    bench.at(5035.0)
    assert "silent" in bench.shown().detail


def test_a_heartbeat_of_nothing_is_not_believed() -> None:
    bench = Bench().settle()
    bench(ev.CoordinatorSeen(coordinator(heartbeat_s=0.0)))
    assert bench.shown().detail == ""


def test_a_paused_coordinator_is_there_and_costs_nobody_any_work() -> None:
    """Seen to fail with a pause counted as an absence."""
    bench = Bench().settle()
    (start,) = only(bench(ev.RoundSeen(announcement(1, remaining_s=900.0))), fx.StartTraining)
    bench(ev.CoordinatorSeen(coordinator(state=CoordinatorState.PAUSED)))
    (store,) = only(bench(ev.JobDone(trained(start.key))), fx.StoreUpdate)
    effects = bench(ev.UpdateStored(parcel(store.ticket)))
    assert only(effects, fx.SendParts) == [fx.SendParts(parcel(store.ticket), None)]
    times = []
    for now in range(1, 400):
        bench(ev.CoordinatorSeen(coordinator(state=CoordinatorState.PAUSED)))
        times += [now for _ in only(bench.at(float(now)), fx.SendParts)]
    assert times == [31, 91, 211]
    assert bench.state.outbox


@pytest.mark.parametrize("sign", [ev.RunSeen(run()), ev.CoordinatorSeen(coordinator())])
def test_a_coordinator_that_was_silent_hears_the_join_and_the_status_again(sign: ev.Event) -> None:
    """Seen to fail where a sign of life after a silence changed nothing but the time, and where a status did not."""
    bench = Bench().settle()
    assert only(bench(ev.RoundSeen(announcement(1, remaining_s=10_000.0))), fx.SendJoin)
    bench.at(100.0)
    assert not bench.at(103.0)
    effects = bench(sign)
    assert len(only(effects, fx.SendJoin)) == 1
    assert only(effects, fx.PublishStatus)
    assert not only(bench(sign), fx.SendJoin)
