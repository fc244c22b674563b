"""The part of ``participation`` that sees to the bytes a device moves: its budget, its link's speed, its codec. Pure.

Everything that is published or received counts, payload for payload, and what is sent again after a cut. What is on its
way is spoken for, so that two don't go by the same room. What is large waits where the budget hasn't the
room: the model, an update. A round whose model and update it hasn't the room for is declined, with when it has. A plan,
statuses, joins and what comes unasked go on, so that the owner sees it; once nothing is left ``hearing`` ends the last.
"""

from __future__ import annotations

import logging
import math
from dataclasses import replace
from typing import Final

from edge.core import codec_choice
from edge.core import effects as fx
from edge.core.budget import HOUR_S, Budget
from edge.core.codec_choice import AUTO
from edge.core.effects import Effect
from edge.core.events import Uploaded
from edge.core.pace import upload_subject
from edge.core.participation_state import State, Step
from schemas.messages import RunSettings, Task

SMALLEST: Final = 8192  # bytes whose upload tells the link's speed; a smaller one tells how far the broker is
_COUNTS: Final = 1000  # bytes of an evaluation's update, about
_KEPT: Final = 0.01  # of the budget that may be moved before it is put on disk
_NEWEST: Final = 0.5
_GROWTH: Final = 1.1  # a speed that made an update less exact is trusted less


def moved(state: State, count: int) -> State:
    """So many bytes were published and received."""
    if state.budget is None:
        return state
    budget = state.budget.moved(state.running_s, count)
    return replace(state, budget=budget, unkept=state.unkept + count)


def uploaded(state: State, sent: Uploaded) -> Step:
    """The broker has all of an update, or most of it."""
    if state.run is None:
        return state, ()
    if state.run.codec != AUTO:
        return _timed(state, state.run, sent)
    if sent.size < SMALLEST:
        return state, ()
    seen = sent.size / max(sent.seconds, 1e-3)
    return _learned(state, seen if state.speed is None else state.speed + _NEWEST * (seen - state.speed))


def weighed(state: State, size: int) -> State:
    """An update was made, of so many bytes."""
    if state.run is None or state.run.codec == AUTO:
        return state
    return replace(state, weighed=(state.run.plan.blob.digest, state.run.codec, size))


def keep_budget(state: State) -> Step:
    """What was moved must not be forgotten with the next start: every hundredth of the budget, and hourly."""
    budget, due = state.budget, state.now >= state.budget_at + HOUR_S
    if budget is None or not state.unkept or (state.unkept < _KEPT * budget.limit and not due):
        return state, ()
    return kept(state, budget)


def kept(state: State, budget: Budget) -> Step:
    """Put it on disk."""
    return replace(state, unkept=0, budget_at=state.now), (fx.KeepBudget(budget, state.running_s),)


def wait_s(state: State, size: int) -> float:
    """Seconds until so many bytes may be moved; 0 where they may now, infinite where they never may."""
    budget = _free(state)
    return 0.0 if budget is None else budget.wait_s(state.running_s, size)


def why_it_waits(state: State, size: int) -> str:
    """Why so many bytes can't be moved now, and when they can; empty where they can."""
    budget = _free(state)
    return "" if budget is None else budget.why_not(state.running_s, size)


def hold_model(state: State, size: int) -> Step | None:
    """The fetch of a model of so many bytes put off; None where it may begin."""
    budget, seconds = _free(state), wait_s(state, size)
    if budget is None or not seconds:
        return None
    text = f"the model waits: {budget.why_not(state.running_s, size)}"
    return replace(state, fetch_at=state.now + min(seconds, HOUR_S)), (fx.Say(text, logging.WARNING),)


def why_not(state: State, task: Task = "train") -> str:
    """Why the budget hasn't the room for the model and the update of a round's task; empty where it has."""
    budget, pointer, run = _free(state), state.pointer, state.run
    if budget is None or pointer is None or run is None:
        return ""
    size = _COUNTS if task == "evaluate" else _update_size(state, run, pointer.blob.size)
    return budget.why_not(state.running_s, size + state.to_fetch)


def why_no_model(state: State) -> str:
    """Why the budget hasn't the room for the newest model; empty where it has, or that is here or on its way."""
    budget, size = _free(state), state.to_fetch
    return "" if budget is None or not size else budget.why_not(state.running_s, size)


def choose(state: State, model_size: int, time_s: float) -> tuple[State, str, tuple[Effect, ...]]:
    """The codec of the update to come, where the run leaves it to us."""
    assert state.run is not None
    if state.run.codec != AUTO:
        return replace(state, chosen=None), state.run.codec, ()
    budget = _free(state)
    left = None if budget is None else budget.left(state.running_s)
    choice = codec_choice.choose(model_size, state.speed, time_s, left)
    effects: tuple[Effect, ...] = ()
    if choice.slow and state.speed is not None:
        state, effects = _learned(state, state.speed * _GROWTH)
    if choice.codec != state.chosen:
        text = f"codec {choice.codec}" + (f", since {choice.why}" if choice.why else "")
        effects = (*effects, fx.Say(text))
    return replace(state, chosen=choice.codec), choice.codec, effects


def share_left(state: State) -> float | None:
    """The fraction of the budget that is left, to a hundredth; None where there is none."""
    if state.budget is None:
        return None
    return math.floor(100 * state.budget.left(state.running_s) / state.budget.limit) / 100


def _update_size(state: State, run: RunSettings, model_size: int) -> int:
    """About the most bytes the next update takes: as the last one by this plan and codec, a tenth more at most."""
    known = state.weighed
    if known is not None and known[:2] == (run.plan.blob.digest, run.codec):
        return known[2] * 11 // 10
    return codec_choice.update_size(run.codec, model_size)


def _free(state: State) -> Budget | None:
    """The budget as it is once the model that is on its way has come; None where there is none."""
    if state.budget is None or state.fetching_model is None or not state.coming:
        return state.budget
    return state.budget.moved(state.running_s, state.coming)


def _timed(state: State, run: RunSettings, sent: Uploaded) -> Step:
    """How long all of it took, by which rounds are declined; a device that chooses the codec takes one that fits."""
    ticket, ref = sent.parcel.ticket, sent.parcel.ref
    if ticket.task != "train" or not state.is_current(ticket):
        return state, ()
    pace = state.pace.uploaded(upload_subject(run), sent.seconds * max(1.0, ref.size / sent.size))
    return (state, ()) if pace == state.pace else (replace(state, pace=pace), (fx.KeepPace(pace),))


def _learned(state: State, speed: float) -> Step:
    return replace(state, speed=speed), (fx.KeepSpeed(speed),)
