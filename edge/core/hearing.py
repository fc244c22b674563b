"""Whether a device listens to what the coordinator tells all devices. Pure.

Announcements, pointers to models and the coordinator's signs of life are small, but there are some in each round, and
nobody can hold them back but who asked for them. So a device whose budget is spent asks for them no more, and says that
it can't take part, so that nobody waits for it. It asks again when the budget has room for an hour's even share.
"""

from __future__ import annotations

import logging
from dataclasses import replace

from edge.core import budget as budgets
from edge.core import effects as fx
from edge.core.participation_state import State, Step


def listen(state: State) -> Step:
    """Stop listening where nothing may be moved any more, and nothing is under way; begin again where some may."""
    budget = state.budget
    if budget is None or not state.ticked:
        return state, ()
    if not state.listening:
        if wake_at(state) > state.now:
            return state, ()
        # What was missed comes with the retained messages; not to have heard of it was no silence of the coordinator's.
        state = replace(state, listening=True, heard_at=state.now)
        return state, (fx.Listen(True), fx.Say("its budget has room again: it listens to the coordinator"))
    at_work = state.work is not None and state.work.stage != "declined"
    if budget.left(state.running_s) or at_work or state.fetching_plan or state.fetching_model:
        return state, ()
    text = f"{why_not(state)}, in {budgets.duration(wake_at(state) - state.now)}"
    return replace(state, listening=False), (fx.Listen(False), fx.Say(text, logging.WARNING))


def why_not(state: State) -> str:
    """Why a device that doesn't listen takes part in nothing; the same text for as long as it doesn't."""
    assert state.budget is not None
    return f"its budget of {budgets.size(state.budget.limit)} a day is spent: it listens again once some of it is free"


def wake_at(state: State) -> float:
    """When one that doesn't listen is to begin again."""
    assert state.budget is not None
    return state.now + state.budget.wait_s(state.running_s, state.budget.limit // budgets.HOURS)
