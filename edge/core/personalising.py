"""The part of ``participation`` that sees to a model of the owner's own: when it is made, and of what. Pure.

* Where the owner wants one, each global model of the run is fitted to them once, and again where their recordings have
  changed; between rounds, when nothing else is to be done.
* A round goes before it: the job is cancelled as soon as one is taken up, and begins anew after it. Nothing is lost by
  that, nor by a kill: the file on disk is replaced as a whole, and says which global model it is of.
* What comes of it is put on disk. No effect here publishes anything.
* Where the trainer dies over it, or model or plan on disk are damaged, it is tried ``CRASHES`` times; any other failure
  is told, and the next global model is tried.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Final

from edge.core import attempt, versions
from edge.core import effects as fx
from edge.core import events as ev
from edge.core.attempt import CRASHES, RETRY_S
from edge.core.effects import Effect
from edge.core.jobs import Failure, Personalised
from edge.core.participation_state import Fitting, State, Step, Stock, Unusable
from edge.core.personal_settings import Origin

_BUSY: Final = frozenset({"waiting", "running", "storing"})


def done(state: State, result: Personalised) -> Step:
    """The trainer has made one, or found the global model to be better."""
    fitting, how = state.fitting, state.identity.personal
    if fitting is None or how is None or result.key != state.fit_key(fitting):
        return state, ()
    pointer = fitting.pointer
    origin = Origin(
        run=pointer.run,
        version=pointer.version,
        model=pointer.digest,
        plan=fitting.plan,
        data=fitting.data,
        how=how,
        verdict=result.verdict,
    )
    state = replace(state, fitting=None, fit_crashes=0, personal_of=(pointer.digest, fitting.data))
    used = "is used" if result.verdict.personal else "is no better and isn't used"
    text = f"the owner's own model of version {pointer.version}, made by {how.method} in {result.seconds:.1f} s, {used}"
    told = fx.TellWork(f"{text}: {result.verdict.words()}", result.peak_mb)
    return state, (told, fx.KeepPersonal(origin, result.model))


def failed(state: State, failure: Failure) -> Step | None:
    """There is none; None where the failure is of something else."""
    fitting = state.fitting
    if fitting is None or failure.key != state.fit_key(fitting):
        return None
    if failure.kind == "model":
        return versions.drop(_failed(state, fitting, last=False), failure.message)
    say = fx.Say(f"no model for the owner of version {fitting.pointer.version}: {failure.message}", logging.WARNING)
    return _failed(state, fitting, last=failure.kind != "crash"), (say,)


def holding_lost(state: State, lost: ev.HoldingLost) -> State:
    """What was on disk is damaged, and is fetched again."""
    if state.fitting is None or lost.key != state.fit_key(state.fitting):
        return state
    return _failed(state, state.fitting, last=False)


def stop(state: State) -> tuple[Effect, ...]:
    """The device stops."""
    return () if state.fitting is None else (fx.CancelJob(state.fit_key(state.fitting)),)


# -- rules -------------------------------------------------------------------------------------------------------------


def give_way(state: State) -> Step:
    """A round's work goes before."""
    if state.fitting is None or not _busy(state):
        return state, ()
    return replace(state, fitting=None), (fx.CancelJob(state.fit_key(state.fitting)),)


def begin(state: State) -> Step:
    """Have the newest model fitted to the owner."""
    model, plan, run, how = state.model, state.plan, state.run, state.identity.personal
    if model is None or plan is None or run is None or how is None or not _is_due(state):
        return state, ()
    if state.fitting is not None or state.merging is not None or state.now < state.fit_at:
        return state, ()
    fitting = Fitting(model, plan.digest, state.footprint)
    seed = attempt.seed(run, model.version, state.identity.device, "personal")
    start = fx.StartPersonalising(state.fit_key(fitting), plan.digest, model.digest, run.train, how, seed)
    return replace(state, fitting=fitting), (start,)


# -- questions ---------------------------------------------------------------------------------------------------------


def wake_at(state: State) -> tuple[float, ...]:
    """When time alone makes something of this due."""
    return (state.fit_at,) if state.fit_at > state.now and state.fitting is None and _is_due(state) else ()


def is_pending(state: State) -> bool:
    """Whether one is being made of the newest model that is offered, or will be once that is here and work is done."""
    pointer, data = state.pointer, state.data
    if state.identity.personal is None or state.stopped or state.paused is not None:
        return False
    if pointer is None or not state.is_current(pointer) or isinstance(data, Unusable):
        return False
    empty = isinstance(data, Stock) and data.examples == 0 and not data.recount
    return not empty and (state.fitting is not None or state.personal_of != (pointer.digest, state.footprint))


def _failed(state: State, fitting: Fitting, *, last: bool) -> State:
    """It is tried again in a while; not where that was the ``last`` time, nor for ever, where the disk damages all."""
    if last or state.fit_crashes + 1 >= CRASHES:
        return replace(state, fitting=None, fit_crashes=0, personal_of=(fitting.pointer.digest, fitting.data))
    return replace(state, fitting=None, fit_crashes=state.fit_crashes + 1, fit_at=state.now + RETRY_S)


def _is_due(state: State) -> bool:
    """Whether there is a global model of which the owner has none of their own yet, and nothing more urgent to do."""
    model, data = state.model, state.data
    if state.identity.personal is None or model is None or not state.is_current(model) or not state.holds_plan:
        return False
    ready = isinstance(data, Stock) and data.examples > 0 and not data.recount and state.paused is None
    return ready and not _busy(state) and state.personal_of != (model.digest, state.footprint)


def _busy(state: State) -> bool:
    return state.work is not None and state.work.stage in _BUSY
