"""The part of ``participation`` that sees to the newest model: how it is fetched, and when steps are merged. Pure.

* Never an older version of the same run, nor another model under a version it holds.
* Where it holds exactly the version before, and the step is smaller than the model, it fetches the step; else, or where
  the step is damaged, or doesn't come although it was asked for once more (``missed``), the whole model.
* A whole model that is on its way when the next version appears is finished where that one's step leads on from it: a
  download that takes longer than a round would else never be. It is given up at the version after that, whose pointer
  ends it on the broker, or where no part of it has come for ``MODEL_S``.
* Steps are kept beside the model they lead on from, and are applied where the model is needed, in the trainer child. So
  a device that has nothing to do starts no child for them. Once they are many, or half as large as a model, the child
  makes one model of all: that bounds the disk, and what each job has to add up. Where it can't, by this plan, the steps
  stay, and the model is fetched whole when they are as many as may be.
* Where they turn out not to lead to the version's digest, all is dropped and the model fetched whole.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Final

from edge.core import effects as fx
from edge.core import events as ev
from edge.core import missed, thrift
from edge.core.attempt import CRASHES, RETRY_S
from edge.core.effects import Effect
from edge.core.jobs import Failure, Merged
from edge.core.participation_state import State, Step, Trouble
from schemas.messages import ModelPointer

MODEL_S: Final = 120.0  # without a part of a whole model, after which a newer one is fetched instead
MERGED: Final = 16  # steps that are merged, if they are not so before for their size
SOON_S: Final = 5.0  # after trouble that may go away by itself

_BUSY: Final = frozenset({"waiting", "running", "storing"})


def seen(state: State, pointer: ModelPointer) -> Step:
    """A model is offered."""
    for known in (state.model, state.pointer):
        if known is None or known.run != pointer.run:
            continue
        if pointer.version < known.version:
            text = (
                f"model {pointer.version} of run {pointer.run} is offered, version {known.version} came before: ignored"
            )
            return state, (fx.Say(text, logging.WARNING),)
        if pointer.version == known.version and pointer.digest != known.digest:
            text = f"another model {pointer.version} of run {pointer.run} than the one before is offered: ignored"
            return state, (fx.Say(text, logging.WARNING),)
    return replace(state, pointer=pointer), ()


def ready(state: State, pointer: ModelPointer, step: int | None) -> Step:
    """It is on disk: by a step of so many bytes, or whole."""
    state = replace(state, model=pointer, fetching_model=None, by_step=False, trouble=None)
    if step is not None:
        return replace(state, steps=(*state.steps, step)), ()
    state, effects = _unmerged(state)  # what is being merged is older, or of another run
    return replace(state, steps=()), effects


def arriving(state: State, size: int) -> State:
    """A part of what is fetched has come, of so many bytes."""
    return replace(state, part_at=state.now, coming=max(0, state.coming - size))


def fetch_failed(state: State, failed: ev.FetchFailed) -> State:
    """It could not be had. One that can't be had by its step is fetched whole at once."""
    damaged = failed.kind == "step" and not failed.lasting and state.fetching_model is not None
    if damaged and state.fetching_model is not None:
        return replace(state, stepless=state.fetching_model.digest, fetching_model=None, by_step=False)
    state = replace(state, fetching_model=None, by_step=False)
    state = replace(state, fetch_at=state.now + (RETRY_S if failed.lasting else SOON_S))
    return replace(state, trouble=Trouble(failed.reason, state.fetch_at)) if failed.lasting else state


def merged(state: State, result: Merged) -> Step:
    """The trainer has made one model of a snapshot and its steps."""
    if state.merging is None or result.key != state.merge_key(state.merging):
        return state, ()
    return replace(state, unmerged=("", 0)), (fx.KeepMerged(state.merging, result.model),)


def merge_kept(state: State, pointer: ModelPointer) -> State:
    """The model of many steps is on disk; those that came meanwhile stay."""
    if state.model is None or state.model.run != pointer.run or state.merging != pointer:
        return state
    since = max(0, state.model.version - pointer.version)
    return replace(state, merging=None, steps=state.steps[len(state.steps) - since :] if state.steps else ())


def merge_failed(state: State, reason: str) -> Step:
    """There is none, or the disk does not take it; the steps stay, and are merged later."""
    state = replace(state, merging=None, merge_at=state.now + RETRY_S)
    return state, (fx.Say(f"the model and its steps stay apart: {reason}", logging.WARNING),)


def drop(state: State, reason: str) -> Step:
    """What is on disk is not the model it should be."""
    effects: tuple[Effect, ...] = (fx.Say(reason, logging.WARNING), fx.DropModel())
    state, cancelled = _unmerged(state)
    effects = (*effects, *cancelled)
    if state.by_step:
        state, stop = _stopped(state)
        effects = (*effects, stop)
    return replace(state, model=None, steps=()), effects


def job_failed(state: State, failure: Failure) -> Step | None:
    """A merge has failed; None where the failure is of something else."""
    if state.merging is None or failure.key != state.merge_key(state.merging):
        return None
    if failure.kind == "model":
        return drop(state, failure.message)
    plan = "" if state.plan is None else state.plan.digest
    before = state.unmerged[1] if state.unmerged[0] == plan else 0
    failures = CRASHES if failure.kind == "plan" else before + 1  # a plan is no better the next time
    return merge_failed(replace(state, unmerged=(plan, failures)), failure.message)


# -- rules -------------------------------------------------------------------------------------------------------------


def lose(state: State) -> Step:
    """A step that doesn't come, or a model that has a successor, is waited for no longer."""
    wanted, at = state.fetching_model, lost_at(state)
    if wanted is None or at is None or state.now < at:
        return state, ()
    state, stop = _stopped(state)
    if stop == fx.StopFetching("step"):
        state, text = replace(state, stepless=wanted.digest), f"the step to model {wanted.version} does not come"
    else:
        text = f"model {wanted.version} does not come, and there is a newer one"
    return state, (stop, fx.Say(f"{text}: that is fetched whole", logging.WARNING))


def fetch(state: State) -> Step:
    """Get the newest model."""
    pointer = state.pointer
    if pointer is None or not state.wants_model or state.now < state.fetch_at:
        return state, ()
    stop: tuple[Effect, ...] = ()
    if state.fetching_model is not None:  # an older one, which is of no use any more
        state, effect = _stopped(state)
        stop = (effect,)
    if held := thrift.hold_model(state, state.download(pointer)):
        state, said = held
        return state, (*stop, *said)
    by_step, coming = state.leads_on(pointer), state.download(pointer)
    state = replace(state, fetching_model=pointer, by_step=by_step, part_at=state.now, coming=coming)
    return state, (*stop, fx.FetchStep(pointer) if by_step else fx.FetchModel(pointer))


def merge(state: State) -> Step:
    """Make one model of many steps, when nothing else is to be done."""
    model, plan = state.model, state.plan
    if model is None or plan is None or not state.holds_plan or not state.is_current(model):
        return state, ()
    busy = state.work is not None and state.work.stage in _BUSY
    hopeless = state.unmerged[0] == plan.digest and state.unmerged[1] >= CRASHES
    if state.merging is not None or busy or hopeless or not _many(state, model) or state.now < state.merge_at:
        return state, ()
    return replace(state, merging=model), (fx.StartMerging(state.merge_key(model), plan.digest, model.digest),)


# -- questions ---------------------------------------------------------------------------------------------------------


def lost_at(state: State) -> float | None:
    """When what is being fetched will have been waited for long enough; None where there is nothing else to fetch."""
    if state.fetching_model is None or not state.connected:
        return None
    if state.by_step and state.fetching_model.step is not None:  # as long again as until it was asked for once more
        return state.part_at + 2 * missed.with_parts_s(state.fetching_model.step)
    return state.part_at + MODEL_S if state.pointer is not None and state.comes_first(state.pointer) else None


def wake_at(state: State) -> tuple[float, ...]:
    """When time alone makes something of this due."""
    at = lost_at(state)
    waits = state.merge_at > state.now and state.model is not None and _many(state, state.model)
    merge = (state.merge_at,) if waits else ()
    return merge if at is None else (at, *merge)


def _unmerged(state: State) -> Step:
    """What is being merged is not wanted any more."""
    if state.merging is None:
        return state, ()
    return replace(state, merging=None), (fx.CancelJob(state.merge_key(state.merging)),)


def _stopped(state: State) -> tuple[State, fx.StopFetching]:
    """What is on its way is not wanted any more."""
    kind: ev.BlobKind = "step" if state.by_step else "model"
    return replace(state, fetching_model=None, by_step=False), fx.StopFetching(kind)


def _many(state: State, model: ModelPointer) -> bool:
    return len(state.steps) >= MERGED or 2 * sum(state.steps) >= model.blob.size
