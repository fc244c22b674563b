from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from coordinator.fleet import LOOK_S, PATIENCE, UNPROVEN_S, Fleet, Member
from schemas.messages import DeviceState, DeviceStatus


def status(
    device: str = "dev-1",
    state: DeviceState = DeviceState.IDLE,
    *,
    session: int = 1,
    examples: int = 10,
    held_out: int = 0,
    detail: str = "",
    heartbeat_s: float = 10.0,
) -> DeviceStatus:
    return DeviceStatus(
        device=device,
        session=session,
        state=state,
        examples=examples,
        held_out=held_out,
        heartbeat_s=heartbeat_s,
        detail=detail,
    )


def after(*statuses: DeviceStatus, limit: int = 100) -> Fleet:
    fleet = Fleet(limit=limit)
    for now, each in enumerate(statuses):
        fleet.hear(each, float(now))
    return fleet


def test_whose_people_are_made_up_is_known_for_as_long_as_the_device_is() -> None:
    """Seen to fail where only those were told that are ready: an update counts after its device has left, too."""
    made_up = status().model_copy(update={"synthetic": True})
    fleet = after(status("dev-2"), made_up.model_copy(update={"state": DeviceState.OFFLINE}))
    assert fleet.view(1.0).synthetic == {"dev-1"}
    fleet.hear(status(), 2.0)
    assert fleet.altered
    assert fleet.view(2.0).synthetic == frozenset()


@pytest.mark.parametrize("state", DeviceState)
def test_a_device_is_ready_unless_it_is_away_paused_or_in_trouble(state: DeviceState) -> None:
    away = {DeviceState.OFFLINE, DeviceState.STOPPED, DeviceState.PAUSED, DeviceState.TROUBLE}
    assert after(status(state=state)).view(0.0).ready == (frozenset() if state in away else {"dev-1"})


def test_a_device_is_asked_for_what_it_has_examples_for() -> None:
    """One is enough. Seen to fail with ``> 1`` for either."""
    view = after(
        status("trains", examples=1, held_out=0),
        status("evaluates", examples=0, held_out=1),
        status("has-nothing", examples=0, held_out=0),
    ).view(0.0)
    assert view.ready == {"trains", "evaluates", "has-nothing"}
    assert view.trainers == {"trains"}
    assert view.evaluators == {"evaluates"}


def test_a_device_that_misses_its_heartbeats_is_not_ready_until_it_is_heard_again() -> None:
    fleet = after(status())
    silent = PATIENCE * 10.0 + 0.001
    assert fleet.view(PATIENCE * 10.0).ready == {"dev-1"}
    assert fleet.view(silent).ready == frozenset()
    assert fleet.hear(status(), silent)
    assert fleet.view(silent).ready == {"dev-1"}


def test_must_12_what_the_broker_has_kept_of_an_unknown_device_counts_for_one_short_heartbeat() -> None:
    """Its broker may have lost its power, and then fires no will. Seen to fail with ``status.heartbeat_s`` for all."""
    kept = Fleet()
    assert kept.hear(status(heartbeat_s=300.0), 0.0, retained=True)
    assert kept.view(PATIENCE * UNPROVEN_S).ready == {"dev-1"}
    assert kept.view(PATIENCE * UNPROVEN_S + 0.001).ready == frozenset()
    assert kept.hear(status(heartbeat_s=300.0), 100.0)
    assert kept.view(100.0 + PATIENCE * 300.0).ready == {"dev-1"}


def test_must_12_what_the_broker_repeats_of_a_known_device_promises_no_more_than_it_said_itself() -> None:
    """Seen to fail with ``status.heartbeat_s`` for all, and with ``UNPROVEN_S`` for known ones."""
    for own in (10.0, 300.0):
        repeated = after(status(heartbeat_s=own))
        assert repeated.hear(status(heartbeat_s=1000.0), 5.0, retained=True)
        assert repeated.view(PATIENCE * own).ready == {"dev-1"}
        assert repeated.view(PATIENCE * own + 0.001).ready == frozenset()


def test_must_12_what_the_broker_has_kept_of_a_start_that_was_not_heard_of_counts_as_that_of_an_unknown_device() -> (
    None
):
    """It was said after all that was heard. Seen to fail with the time at which the device was heard last."""
    again = after(status(), status(state=DeviceState.OFFLINE))
    assert again.hear(status(session=2, heartbeat_s=300.0), 1000.0, retained=True)
    assert again.view(1000.0 + PATIENCE * UNPROVEN_S).ready == {"dev-1"}
    assert again.view(1000.0 + PATIENCE * UNPROVEN_S + 0.001).ready == frozenset()


def test_must_12_a_device_that_does_not_answer_a_coordinator_that_beats_faster_is_missed_after_short_heartbeats() -> (
    None
):
    """Whatever it had promised before; one that was silent already stays so. Seen to fail without ``rouse``, with
    ``heard_at`` left as it was, and with all members roused.
    """
    fleet = after(status("hangs", heartbeat_s=300.0), status("lives", heartbeat_s=300.0), status("gone"))
    fleet.rouse(700.0)
    assert fleet.hear(status("lives", heartbeat_s=30.0), 700.5)
    assert fleet.view(700.0 + PATIENCE * UNPROVEN_S).ready == {"hangs", "lives"}
    assert fleet.view(700.0 + PATIENCE * UNPROVEN_S + 0.1).ready == {"lives"}
    assert fleet.hear(status("hangs", heartbeat_s=300.0), 800.0)
    assert fleet.view(1500.0).ready == {"hangs"}


@given(st.floats(1.0, 1000.0), st.floats(0.0, 2500.0), st.floats(0.0, 2500.0))
def test_rousing_a_fleet_never_has_anybody_ready_who_would_not_have_been(
    heartbeat_s: float, roused_at: float, looked_after: float
) -> None:
    """It only shortens what is trusted. Seen to fail with those roused who were silent already, and with those who
    promise more than that anyway: a device that was dead was waited for again.
    """
    left, roused = after(status(heartbeat_s=heartbeat_s)), after(status(heartbeat_s=heartbeat_s))
    roused.rouse(roused_at)
    now = roused_at + looked_after
    assert roused.view(now).ready <= left.view(now).ready
    assert roused.view(roused_at).ready == left.view(roused_at).ready


def test_must_12_devices_that_did_not_answer_in_time_are_missed_after_short_heartbeats_and_no_others() -> None:
    """Seen to fail with all members roused, and with a ``KeyError`` for one that has been forgotten meanwhile."""
    fleet = after(status("silent", heartbeat_s=1e6), status("answers", heartbeat_s=1e6))
    fleet.rouse(600.0, ["silent", "forgotten"])
    assert fleet.view(600.0 + PATIENCE * UNPROVEN_S).ready == {"silent", "answers"}
    assert fleet.view(600.0 + PATIENCE * UNPROVEN_S + 0.1).ready == {"answers"}


def test_a_status_repeated_by_the_broker_is_no_sign_of_life() -> None:
    fleet = after(status())
    assert fleet.hear(status(), 30.0, retained=True)
    assert fleet.view(30.0).ready == frozenset()


def test_the_will_of_an_older_session_changes_nothing() -> None:
    fleet = after(status(session=2))
    before = fleet.view(1.0), dict(fleet.members)
    assert fleet.hear(status(state=DeviceState.OFFLINE, session=1), 1.0)
    assert (fleet.view(1.0), fleet.members) == before


def test_the_will_of_the_session_there_is_takes_the_device_away() -> None:
    fleet = after(status(session=2), status(state=DeviceState.OFFLINE, session=2))
    assert fleet.view(1.0).ready == frozenset()


def test_a_device_whose_sessions_begin_again_is_heard() -> None:
    """A Pi with a new SD card counts from one."""
    assert after(status(session=9, examples=1), status(session=1, examples=7)).members["dev-1"].examples == 7


def test_devices_in_trouble_or_paused_are_quoted() -> None:
    view = after(
        status(state=DeviceState.TROUBLE, detail="no recordings in /data"),
        status("dev-2", state=DeviceState.TROUBLE),
        status("dev-3"),
        status("dev-4", state=DeviceState.PAUSED, detail="paused by the operator"),
        status("dev-5", state=DeviceState.OFFLINE, detail="gone"),
    ).view(0.0)
    assert view.complaints == {
        "dev-1": "no recordings in /data",
        "dev-2": "is in trouble and does not say why",
        "dev-4": "paused by the operator",
    }


def test_a_device_that_is_paused_alters_what_is_known_of_the_fleet() -> None:
    """Seen to fail where only trouble is told: a run waited for a device that nobody remembered to have paused."""
    fleet = after(status())
    assert not fleet.view(0.0).complaints
    fleet.hear(status(state=DeviceState.PAUSED, detail="paused by the operator"), 1.0)
    assert fleet.altered
    assert fleet.view(1.0).complaints == {"dev-1": "paused by the operator"}


def test_a_full_fleet_turns_newcomers_away_while_all_are_ready() -> None:
    fleet = after(status("dev-1"), status("dev-2"), limit=2)
    assert not fleet.hear(status("dev-3"), 2.0)
    assert fleet.hear(status("dev-2", examples=99), 2.0)
    assert fleet.members["dev-2"].examples == 99


def test_in_a_full_fleet_a_newcomer_takes_the_place_of_one_that_is_not_ready() -> None:
    fleet = after(status("dev-1"), status("dev-2", DeviceState.STOPPED), status("dev-3"), limit=3)
    assert fleet.hear(status("dev-4"), 3.0)
    assert fleet.members.keys() == {"dev-1", "dev-3", "dev-4"}
    assert not fleet.hear(status("dev-5"), 3.0)
    fleet.hear(status("dev-3", DeviceState.PAUSED), 3.0)
    fleet.hear(status("dev-1", DeviceState.PAUSED), 3.0)
    fleet.hear(status("dev-3"), 3.0)
    assert fleet.hear(status("dev-5"), 3.0)
    assert fleet.members.keys() == {"dev-3", "dev-4", "dev-5"}


def test_in_a_full_fleet_those_that_miss_their_heartbeats_make_room_the_longest_unheard_first() -> None:
    fleet = after(*(status(f"dev-{number}") for number in range(4)), limit=4)
    fleet.hear(status("dev-0"), 20.0)
    silent = 3.0 + PATIENCE * 10.0 + 0.001
    for number in range(4, 7):
        assert fleet.hear(status(f"dev-{number}"), silent)
        assert f"dev-{number - 3}" not in fleet.members
    assert not fleet.hear(status("dev-7"), silent)
    assert fleet.members.keys() == {"dev-0", "dev-4", "dev-5", "dev-6"}


def test_who_was_heard_longest_ago_makes_room_first_whoever_came_first() -> None:
    """Seen to fail with the silent ones in the order in which they became known."""
    fleet = after(status("dev-0"), status("dev-1"), status("dev-0"), limit=2)
    assert fleet.hear(status("dev-2"), 100.0)
    assert fleet.members.keys() == {"dev-0", "dev-2"}


def test_a_silent_device_whose_status_is_cleared_makes_room_once() -> None:
    """Seen to fail without the check that it is a member still: the coordinator ended with an ``AttributeError``."""
    fleet = after(status("dev-0"), status("dev-1"), limit=2)
    assert fleet.hear(status("dev-2"), 100.0)
    fleet.forget("dev-1")
    assert fleet.hear(status("dev-3"), 100.0)
    assert not fleet.hear(status("dev-4"), 100.0)
    assert fleet.members.keys() == {"dev-2", "dev-3"}


def test_the_roll_is_called_once_there_is_no_room() -> None:
    """From then on a stranger's answer does not count. Seen to fail with no roll, and with one while there is room."""
    fleet = after(status("dev-0"), limit=2)
    assert fleet.view(0.0).roll is None
    fleet.hear(status("dev-1", DeviceState.STOPPED), 0.0)
    assert fleet.view(0.0).roll == frozenset({"dev-0", "dev-1"})
    fleet.forget("dev-1")
    assert fleet.view(0.0).roll is None


def test_what_a_newcomer_costs_a_full_fleet_does_not_grow_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted in members looked at. Seen to fail with a search for each newcomer."""
    looks, ready = [0], Member.ready

    def counted(member: Member, now: float) -> bool:
        looks[0] += 1
        return ready(member, now)

    fleet = after(*(status(f"dev-{number}") for number in range(500)), limit=500)
    now = 0.0
    monkeypatch.setattr(Member, "ready", counted)
    for number in range(500):
        now += LOOK_S / 500
        assert not fleet.hear(status(f"stranger-{number}"), now)
        fleet.hear(status(f"dev-{number}", DeviceState.STOPPED), now)
        assert fleet.hear(status(f"new-{number}"), now)
    assert looks[0] <= 4 * 500


def test_a_cleared_status_forgets_the_device() -> None:
    fleet = after(status("dev-1"), status("dev-2", DeviceState.STOPPED), limit=2)
    fleet.forget("dev-2")
    fleet.forget("dev-2")
    assert fleet.members.keys() == {"dev-1"}
    assert fleet.hear(status("dev-3"), 2.0)
    assert not fleet.hear(status("dev-4"), 2.0)


@example([(number, DeviceState.IDLE, 0, False) for number in (0, 1, 2, 3, 0, 0, 4, 2, 5)])  # one comes back
@given(
    st.lists(st.tuples(st.integers(0, 9), st.sampled_from(DeviceState), st.integers(0, 3), st.booleans()), max_size=60)
)
def test_whatever_is_heard_the_fleet_keeps_its_bound_and_views_agree(
    heard: list[tuple[int, DeviceState, int, bool]],
) -> None:
    """Nobody who was ready is pushed out. Seen to fail where one that comes back makes room as a silent one."""
    fleet, now = Fleet(limit=4), 0.0
    for number, state, session, retained in heard:
        now += 7.0
        working = fleet.view(now).ready
        known, room = f"dev-{number}" in fleet.members, len(fleet.view(now).ready) < 4 or not fleet.full
        taken = fleet.hear(status(f"dev-{number}", state, session=session), now, retained=retained)
        assert (taken is not None) == (known or room)
        view = fleet.view(now)
        assert len(fleet.members) <= 4
        assert working <= fleet.members.keys()
        assert view.trainers | view.evaluators <= view.ready <= fleet.members.keys()
        assert not view.ready & view.complaints.keys()


@example([(0, DeviceState.IDLE, 0, 0, "", True), (0, DeviceState.IDLE, 1, 0, "", True)])
@example([(0, DeviceState.IDLE, 1, 0, "", False), (0, DeviceState.IDLE, 1, 0, "", False)])
@given(
    st.lists(
        st.tuples(
            st.integers(0, 5),
            st.sampled_from(DeviceState),
            st.integers(0, 1),
            st.integers(0, 1),
            st.sampled_from(["", "no data"]),
            st.booleans(),
        ),
        max_size=40,
    )
)
def test_a_fleet_that_is_not_altered_looks_the_same(heard: list[tuple[int, DeviceState, int, int, str, bool]]) -> None:
    """However many were heard since it was looked at.

    Seen to fail without one of the four things in ``Member.worth``, without the line in ``forget``, and where the last
    one that was heard or forgotten decides: then the round is not told of a device.
    """
    fleet, now = Fleet(limit=4), 7.0
    before = fleet.view(now)
    for number, state, examples, held_out, detail, looks in heard:
        if looks:
            now += 7.0
            before = fleet.view(now)
            assert not fleet.altered
        if detail and not examples:
            fleet.forget(f"dev-{number}")
        else:
            sent = status(f"dev-{number}", state, examples=examples, held_out=held_out, detail=detail)
            fleet.hear(sent, now)
        altered = fleet.altered
        assert fleet.view(now) == before or altered
        fleet.altered = altered


def test_one_state_after_another_of_a_device_that_takes_part_alters_nothing() -> None:
    """So that the round isn't told of its fleet at each of them. Seen to fail with ``altered`` at every status."""
    fleet = after(status("dev-1"), status("dev-2"))
    fleet.view(1.0)
    for state in (DeviceState.TRAINING, DeviceState.SENDING, DeviceState.IDLE):
        fleet.hear(status("dev-1", state), 2.0)
    assert not fleet.altered
