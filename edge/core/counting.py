"""The part of ``participation`` that sees to the data: how much there is, and when that is looked at again. Pure.

* It is counted once for each recipe. Where it can't be used the device says so, and looks again after a while: where
  the trainer crashes over it, after twice as long each time, up to ``LONGEST_LOOK_S``.
* Every ``LOOK_S`` its files are looked at; where they have changed it is counted again, and meanwhile used as it was
  known.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Final

from edge.core import effects as fx
from edge.core.attempt import RETRY_S
from edge.core.effects import Effect
from edge.core.jobs import Described, Failure
from edge.core.participation_state import Describing, State, Step, Stock, Unusable
from edge.core.versions import SOON_S
from schemas.counted import counted

LOOK_S: Final = 3600.0  # between two looks at the files, which change all the time where a recorder writes them
LONGEST_LOOK_S: Final = 600.0  # between two tries at data over which the trainer crashes


def done(state: State, result: Described) -> Step:
    """The trainer has counted."""
    if not _is_counted(state, result.key):
        return state, ()
    assert isinstance(state.data, Describing | Stock)
    warm = isinstance(state.data, Describing) and result.examples > 0
    stock = Stock(state.data.recipe, result.examples, result.held_out)
    notes = [f"{counted(stock.examples, 'example')} to train on, {stock.held_out} held out", *result.notes]
    said: tuple[Effect, ...] = tuple(fx.Say(f"data: {note}") for note in notes)
    return replace(state, data=stock), (*said, fx.WarmUp()) if warm else said


def failed(state: State, failure: Failure) -> Step | None:
    """It could not; None where the failure is of something else."""
    data = state.data
    if not isinstance(data, Describing | Stock) or not _is_counted(state, failure.key):
        return None
    crashed = failure.kind == "crash"
    if isinstance(data, Stock) and crashed:
        return replace(state, data=replace(data, recount=False), footprint=""), ()  # it is counted at the next look
    crashes = data.crashes + 1 if isinstance(data, Describing) and crashed else 0
    wait_s = min(SOON_S * 2 ** min(crashes - 1, 30), LONGEST_LOOK_S) if crashes else RETRY_S
    state = replace(state, data=Unusable(data.recipe, failure.message, state.now + wait_s, crashes))
    return state, (fx.Say(failure.message, logging.WARNING),)


def seen(state: State, footprint: str) -> Step:
    """The files look so."""
    data, changed = state.data, footprint != state.footprint
    state = replace(state, footprint=footprint)
    if not isinstance(data, Stock) or data.recount or not changed:
        return state, ()
    start = fx.StartDescribing(state.data_key(data.recipe), data.recipe)
    return replace(state, data=replace(data, recount=True)), (fx.Say("data: its files have changed"), start)


def stop(state: State) -> tuple[Effect, ...]:
    """The device stops."""
    data = state.data
    counting = isinstance(data, Describing) or (isinstance(data, Stock) and data.recount)
    return (fx.CancelJob(state.data_key(data.recipe)),) if data is not None and counting else ()


# -- rules -------------------------------------------------------------------------------------------------------------


def describe(state: State) -> Step:
    """Count what there is by the plan's recipe."""
    plan, data = state.plan, state.data
    if plan is None or not state.holds_plan:
        return state, ()
    waits = isinstance(data, Unusable) and state.now < data.retry_at
    if data is not None and data.recipe == plan.recipe and (waits or not isinstance(data, Unusable)):
        return state, ()
    cancel = (fx.CancelJob(state.data_key(data.recipe)),) if isinstance(data, Describing) else ()
    before, crashes = (data.reason, data.crashes) if isinstance(data, Unusable) else ("", 0)
    start = fx.StartDescribing(state.data_key(plan.recipe), plan.recipe)
    state = replace(state, data=Describing(plan.recipe, before, crashes), look_at=state.now + LOOK_S)
    return state, (*cancel, fx.LookAtData(), start)


def look(state: State) -> Step:
    """See now and then whether the files have changed."""
    if not isinstance(state.data, Stock) or state.now < state.look_at:
        return state, ()
    return replace(state, look_at=state.now + LOOK_S), (fx.LookAtData(),)


# -- questions ---------------------------------------------------------------------------------------------------------


def wake_at(state: State) -> tuple[float, ...]:
    """When time alone makes something of this due."""
    if isinstance(state.data, Stock):
        return (state.look_at,)
    return (state.data.retry_at,) if isinstance(state.data, Unusable) and state.holds_plan else ()


def _is_counted(state: State, key: str) -> bool:
    """Whether it is the counting of our data that has this key."""
    data = state.data
    counting = isinstance(data, Describing) or (isinstance(data, Stock) and data.recount)
    return counting and data is not None and key == state.data_key(data.recipe)
