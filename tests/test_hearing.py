"""When a device whose budget is spent stops listening to the coordinator, and when it listens again."""

from __future__ import annotations

import pytest

from edge.core import effects as fx
from edge.core import events as ev
from edge.core import participation
from edge.core.budget import HOUR_S, HOURS, Budget
from edge.core.effects import Effect
from schemas.messages import DeviceState
from tests.edge_scripts import PLAN_REF, announcement, coordinator, pointer, run
from tests.test_participation import IDENTITY, Bench, only

LIMIT = 100_000
SHARE = LIMIT // HOURS  # an hour's even share


def listens(effects: list[Effect]) -> list[bool]:
    return [effect.on for effect in only(effects, fx.Listen)]


@pytest.mark.parametrize(("first", "hour"), [(1, 26), (SHARE - 1, 26), (SHARE, 25), (LIMIT // 2, 25)])
def test_it_listens_again_when_there_is_room_for_an_hours_even_share(first: int, hour: int) -> None:
    """Seen to fail where it woke with the first byte, to spend it on what it heard, and with all of the budget."""
    budget = Budget(LIMIT).moved(0.0, first).moved(HOUR_S, LIMIT - first)
    device = Bench(participation.begin(IDENTITY, budget=budget, ran_s=2 * HOUR_S))
    assert listens(device(ev.Tick(0.0))) == [False]
    assert not listens(device.at((hour - 2) * HOUR_S - 60))
    assert listens(device.at((hour - 2) * HOUR_S + 60)) == [True]


def test_what_it_was_fetching_comes_before_it_stops_listening() -> None:
    """Else the plan or the model would be fetched for nobody. Seen to fail without either in ``listen``."""
    device = Bench(participation.begin(IDENTITY, budget=Budget(LIMIT)))
    device(ev.Tick(1.0), ev.Connected(), ev.CoordinatorSeen(coordinator()))
    assert only(device(ev.RunSeen(run())), fx.FetchPlan)
    assert not listens(device(ev.Moved(LIMIT)))
    assert listens(device(ev.PlanReady(PLAN_REF.digest, "watch"))) == [False]

    device = Bench(participation.begin(IDENTITY, budget=Budget(LIMIT))).settle()
    assert only(device(ev.ModelSeen(pointer(1))), fx.FetchModel)
    assert not listens(device(ev.Moved(LIMIT)))
    assert listens(device(ev.ModelReady(pointer(1)))) == [False]


def test_a_round_that_it_has_declined_is_no_work_to_be_ended_first() -> None:
    """Seen to fail where it listened on to the round's end."""
    device = Bench(participation.begin(IDENTITY, budget=Budget(LIMIT).moved(0.0, LIMIT - 500))).settle()
    assert [join.accepts for join in only(device(ev.RoundSeen(announcement(1))), fx.SendJoin)] == [False]
    assert listens(device(ev.Moved(500))) == [False]


def test_a_coordinator_that_it_did_not_listen_to_was_not_silent_and_its_return_is_in_the_log() -> None:
    """Seen to fail with a status that said so, of a coordinator that had spoken all day, and without a line."""
    device = Bench(participation.begin(IDENTITY, budget=Budget(LIMIT))).settle()
    assert listens(device(ev.Moved(LIMIT))) == [False]
    effects = device.at(25 * HOUR_S + 2)
    assert listens(effects) == [True]
    assert [said.text for said in only(effects, fx.Say)] == ["its budget has room again: it listens to the coordinator"]
    device.at(25 * HOUR_S + 10)
    assert (device.shown().state, device.shown().detail) == (DeviceState.IDLE, "")
