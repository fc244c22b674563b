"""What a device does where the broker threw the coordinator's status away."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from unittest.mock import patch

import pytest

from edge.core import effects as fx
from edge.core import events as ev
from edge.core import participation
from edge.core.effects import Effect
from edge.core.missed import LONGEST_S, PATIENCE_S
from schemas import codec
from schemas.messages import CoordinatorState, Phase
from schemas.topics import Kind
from tests.edge_scripts import DEVICE, PLAN_REF, RUN, announcement, coordinator, described, pointer, run
from tests.test_agent import World
from tests.test_participation import Bench, only

FOR_STATUS = fx.Listen(True, (Kind.COORDINATOR,))
OPEN = announcement(1, remaining_s=1e5)


def told_all_else() -> Bench:
    """A device that has heard everything of a run but who serves it."""
    bench = Bench()
    bench(ev.Tick(1.0), ev.Connected(), ev.RunSeen(run()), ev.PlanReady(PLAN_REF.digest, "watch"))
    bench(ev.JobDone(described(f"{DEVICE}/data/watch", 100, 0)), ev.ModelSeen(pointer(0)), ev.ModelReady(pointer(0)))
    return bench


def asks(effects: list[Effect]) -> list[fx.Listen]:
    return only(effects, fx.Listen)


@pytest.mark.parametrize("last", [None, CoordinatorState.STOPPED, CoordinatorState.OFFLINE])
def test_an_open_attempt_without_a_status_behind_it_is_asked_whose_it_is(last: CoordinatorState | None) -> None:
    """Each time after twice as long. Seen to fail: the device stood idle until the next heartbeat."""
    bench = told_all_else()
    if last is not None:
        bench(ev.CoordinatorSeen(coordinator(state=last)))
    assert not only(bench(ev.RoundSeen(OPEN)), fx.StartTraining)
    for at in (PATIENCE_S, 3 * PATIENCE_S, 7 * PATIENCE_S):
        assert not asks(bench.at(1.0 + at - 0.1))
        assert participation.wake_at(bench.state) is not None
        effects = bench.at(1.0 + at)
        assert asks(effects) == [FOR_STATUS]
    assert "the coordinator's status hasn't come in 20 s: subscribing again" in only(effects, fx.Say)[0].text
    assert only(bench(ev.CoordinatorSeen(coordinator(2))), fx.StartTraining)
    assert not asks([effect for at in range(37, 100) for effect in bench.at(float(at))])


def test_one_that_serves_still_is_asked_for_its_status_where_none_has_come_since_a_reconnect() -> None:
    """Whatever it may have missed waits for that. Seen to fail where an older status was enough."""
    bench = Bench().settle()
    bench(ev.Disconnected(), ev.Tick(2.0), ev.Connected(), ev.RoundSeen(OPEN))
    assert asks(bench.at(2.0 + PATIENCE_S)) == [FOR_STATUS]
    bench(ev.CoordinatorSeen(coordinator()))
    assert not asks([*bench.at(20.0), *bench.at(60.0)])


def test_an_attempt_that_a_coordinator_left_open_is_asked_about_once_after_its_last_will() -> None:
    """What is retained comes in any order. Seen to fail without ``again``: asked each time, for ever."""
    bench = told_all_else()
    will = ev.CoordinatorSeen(coordinator(state=CoordinatorState.OFFLINE))
    bench(will, ev.RoundSeen(OPEN))
    assert asks(bench.at(1.0 + PATIENCE_S)) == [FOR_STATUS]
    bench(will, ev.RunSeen(run()), ev.ModelSeen(pointer(0)), ev.RoundSeen(OPEN))
    assert not asks([effect for at in range(7, 3000) for effect in bench.at(float(at))])


def test_a_last_will_behind_an_open_attempt_leaves_nothing_to_ask() -> None:
    """Seen to fail without ``_accompanied``."""
    bench = told_all_else()
    bench(ev.RoundSeen(OPEN), ev.CoordinatorSeen(coordinator(state=CoordinatorState.OFFLINE)))
    assert not asks([*bench.at(20.0), *bench.at(200.0)])


def test_a_coordinator_that_fell_silent_is_not_asked_for_what_it_said_last() -> None:
    """It would pass for a sign of life, time and again. Seen to fail without ``silent``."""
    bench = Bench().settle()
    bench(ev.RoundSeen(OPEN))
    assert bench.state.served
    effects = [effect for at in range(2, 2000) for effect in bench.at(float(at))]
    assert bench.state.silent
    assert not asks(effects)


@pytest.mark.parametrize("phase", [Phase.SELECTING, Phase.AGGREGATING, Phase.COMMITTED, Phase.ABANDONED])
def test_where_no_attempt_is_open_nothing_is_asked_for(phase: Phase) -> None:
    """So an idle device costs its line no more. Seen to fail for each without a look at the phase."""
    bench = told_all_else()
    bench(ev.RoundSeen(OPEN.model_copy(update={"phase": phase})))
    assert not asks([*bench.at(20.0), *bench.at(200.0)])


def test_an_attempt_that_is_over_and_a_device_without_a_broker_ask_for_nothing() -> None:
    """Seen to fail without a look at either."""
    for event in (ev.RoundSeen(announcement(1, remaining_s=4.0)), ev.RoundSeen(OPEN)):
        bench = told_all_else()
        bench(event)
        if event.announcement == OPEN:
            bench(ev.Disconnected())
        assert not asks([*bench.at(20.0), *bench.at(200.0)])


def test_what_was_heard_over_an_earlier_connection_is_no_reason_to_ask() -> None:
    """A broker that has forgotten all waits for the coordinator too. Seen to fail without ``_accompanied``."""
    bench = told_all_else()
    bench(ev.RoundSeen(OPEN), ev.Tick(2.0), ev.Disconnected(), ev.Tick(3.0), ev.Connected())
    assert not asks([*bench.at(20.0), *bench.at(200.0)])


def test_a_model_beyond_a_farewell_is_not_let_go_of_meanwhile() -> None:
    """It is of one that is back. Seen to fail without ``served``: the pointer was dropped, for good."""
    bench = told_all_else()
    bench(ev.CoordinatorSeen(coordinator(state=CoordinatorState.STOPPED).model_copy(update={"run": RUN})))
    bench(ev.RoundSeen(OPEN), ev.ModelSeen(pointer(1)))
    for at in range(2, 400):
        bench.at(float(at))
    assert bench.state.pointer == pointer(1)


def test_however_long_there_is_none_it_is_asked_for_every_ten_minutes() -> None:
    """A status with its packets is some 800 bytes: 5 kB an hour."""
    bench, asked = told_all_else(), list[float]()
    bench(ev.RoundSeen(OPEN))
    for second in range(1, 6000):
        asked += [second for _ in asks(bench.at(float(second)))]
    gaps = [after - before for before, after in pairwise(asked)]
    assert gaps[-5:] == [LONGEST_S] * 5
    assert len(asked) < 20


def test_a_status_that_the_broker_threw_away_costs_a_device_five_seconds(tmp_path: Path) -> None:
    """It is retained all the same. Seen to fail without the rule: the device waited for the next one."""
    world = World(tmp_path)
    deliver = world.broker._deliver
    with patch.object(world.broker, "_deliver", lambda to, one: one.topic.endswith("/coordinator") or deliver(to, one)):
        world.desk.begin()
        world.turn()
        asked = world.training()
    world.turn(PATIENCE_S - 0.1)
    assert not world.desk.joins
    world.turn(0.2)
    assert codec.decode_update(world.desk.update).nonce == asked.nonce
