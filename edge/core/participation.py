"""A device's state machine: what happens and what follows. Pure; no other file but its parts decides anything.

``versions`` has the rules of the newest model; ``attempt`` those of the attempt in hand, up to the update on disk;
``delivery`` those of updates on disk, up to their receipt; ``contact`` those of the broker and the coordinator;
``thrift`` those of what may be moved; ``counting`` those of the data; ``personalising`` those of its owner's own model;
all others are here.
What must be done next follows from what the state holds, whatever order messages came in: ``step`` takes the event in,
then ``_RULES``, in their order, close the gap between what is and what should be.

* The plan of the run and its newest model are always fetched. A model works without a coordinator: it is on disk.
* The data is counted once for each recipe, and again where its files have changed.
* A device takes part where a coordinator is there, the announcement is of the run and collecting, its time is not over,
  ``draw(nonce, device) < cohort``, and it holds no newer model. Others stay silent.
* It accepts, or declines with the reason: no examples, a plan that doesn't fit, trouble with the disk; once that has
  passed it may accept after all. With nothing for this task but something for the other it stays silent: nobody waits.
* It trains once for a ticket (run, round, task, nonce), and goes on from a checkpoint after a crash.
* An update is sent only once it is on disk, and stays there until a final receipt. A part of it goes again after
  ``RESEND_S``, then after twice as long each time, once in between where the attempt would be over by then, and at
  once, the join too, where ``contact`` finds a coordinator. Updates of another run wait for that run; the oldest beyond
  ``OUTBOX`` are dropped, and those that got no receipt for longer than the owner allows.
* Told when to come back, it stays silent to further attempts until then, and after a rejection to all training.
* An announcement of an earlier attempt is stale, unless a new coordinator session makes it.
* ``pause`` and ``evict`` last until ``resume`` or a restart; ``evict`` also drops what was not sent.
* Where its owner gave it a budget, it declines what that hasn't the room for, and what is large waits (``thrift``).
* What it does is told at once where the coordinator must know it, else at most every second, and as a heartbeat:
  seldom while there is no coordinator or that itself beats seldom, and as soon as one is heard again or beats faster.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final, assert_never

from edge.core import attempt, contact, counting, delivery, hearing, missed, personalising, thrift, versions
from edge.core import effects as fx
from edge.core import events as ev
from edge.core.attempt import RETRY_S
from edge.core.budget import Budget
from edge.core.effects import Effect
from edge.core.events import Event, Parcel, Ticket
from edge.core.jobs import Described, Evaluated, Failure, Merged, Personalised, Trained
from edge.core.pace import Pace
from edge.core.participation_state import (
    Announced,
    Identity,
    Kept,
    Plan,
    State,
    Step,
    Stock,
    Trouble,
)
from edge.core.presence import interval, status
from edge.core.versions import SOON_S
from schemas import cohort
from schemas.counted import counted
from schemas.messages import (
    Command,
    ModelPointer,
    Phase,
    RoundAnnouncement,
    RunSettings,
)

_UNTIL: Final = "; until the command `resume`, or the device's next start"


def begin(
    identity: Identity,
    *,
    model: ModelPointer | None = None,
    steps: tuple[int, ...] = (),
    parcels: tuple[Parcel, ...] = (),
    settled: tuple[Ticket, ...] = (),
    last_round: int | None = None,
    ages: Mapping[Ticket, float] | None = None,
    pace: Pace | None = None,
    kept: Kept | None = None,
    ran_s: float = 0.0,
    budget: Budget | None = None,
    speed: float | None = None,
    personal_of: tuple[str, str] | None = None,
) -> State:
    """A device that finds this on its disk.

    The newest model and the bytes of the steps that lead to it, the updates without a receipt and for how many seconds
    they have waited, the tickets with a receipt, how long training and uploads take, what a training can go on
    from, for how long it has been running, what it may move and has moved, how fast its link is, and which global model
    and data the owner's own model is made of.
    """
    limit_s = identity.outbox_s
    pending = tuple(
        delivery.waiting(parcel, age_s=(ages or {}).get(parcel.ticket, 0.0), limit_s=limit_s) for parcel in parcels
    )
    return State(
        identity,
        model=model,
        steps=steps,
        outbox=pending,
        settled=settled,
        last_round=last_round,
        pace=pace or Pace(),
        kept=kept,
        ran_s=ran_s,
        budget=budget,
        speed=speed,
        personal_of=personal_of,
    )


def step(state: State, event: Event) -> Step:
    """What ``event`` changes, and what is to be done about it, in this order."""
    if state.stopped:
        return state, ()
    state, effects = contact.heard(state) if isinstance(event, contact.SIGNS_OF_LIFE) else (state, ())
    state, more = _take(state, event)
    effects += more
    for rule in () if state.stopped else _RULES:
        state, more = rule(state)
        effects += more
    return state, effects


def wake_at(state: State) -> float | None:
    """When the next ``Tick`` matters, if nothing else happens; None where none does."""
    times: list[float] = []
    if state.connected and state.shown is not None:
        times.append(state.shown_at + interval(status(state), state.shown))
    if state.work is not None and state.announced is not None and state.now < state.announced.until:
        times.append(state.announced.until)
    if state.wants_plan or state.wants_model:
        times.append(state.fetch_at)
    times.extend(versions.wake_at(state))
    times.extend(counting.wake_at(state))
    times.extend(personalising.wake_at(state))
    if state.trouble is not None:
        times.append(state.trouble.until)
    if state.rest is not None:
        times.append(state.rest.until)
    if not state.listening:
        times.append(hearing.wake_at(state))
    times.extend(contact.wake_at(state))
    times.extend(missed.wake_at(state))
    times.extend(pending.expires_at for pending in state.outbox)
    if state.connected and state.served:
        times.extend(pending.resend_at for pending in state.outbox if state.is_current(pending.parcel.ticket))
    return min((at for at in times if at < math.inf), default=None)


# -- what an event says ------------------------------------------------------------------------------------------------


def _take(state: State, event: Event) -> Step:  # noqa: C901, PLR0911, PLR0912 - one line for each event there is
    match event:
        case ev.Tick(now):
            return replace(_started(state, now), now=max(now, state.now)), ()
        case ev.Connected():
            return contact.connected(state), ()
        case ev.Disconnected():
            return contact.disconnected(state), ()
        case ev.CoordinatorSeen(seen):
            return contact.coordinator_seen(state, seen)
        case ev.RunSeen(run):
            return _run_seen(state, run)
        case ev.ModelSeen(pointer):
            return versions.seen(state, pointer)
        case ev.RoundSeen(announcement):
            return _round_seen(state, announcement)
        case ev.ReceiptSeen(receipt):
            return delivery.receipt_seen(state, receipt)
        case ev.CommandSeen(command):
            return _command_seen(state, command)
        case ev.PlanReady(digest, recipe):
            return replace(state, plan=Plan(digest, recipe), fetching_plan=None, trouble=None), ()
        case ev.ModelReady(pointer):
            return versions.ready(state, pointer, None)
        case ev.StepReady(pointer):
            return versions.ready(state, pointer, pointer.step.size if pointer.step else None)
        case ev.PartArriving(size):
            return versions.arriving(state, size), ()
        case ev.MergeKept(pointer):
            return versions.merge_kept(state, pointer), ()
        case ev.MergeFailed(reason):
            return versions.merge_failed(state, reason)
        case ev.FetchFailed():
            return _fetch_failed(state, event)
        case ev.JobDone(result):
            return _job_done(state, result)
        case ev.JobFailed(failure):
            return _job_failed(state, failure)
        case ev.HoldingLost():
            return _holding_lost(state, event)
        case ev.JobProgressed():
            return attempt.progressed(state, event)
        case ev.DataSeen(seen):
            return counting.seen(state, seen)
        case ev.UpdateStored(parcel):
            return attempt.stored(state, parcel)
        case ev.StoreFailed(ticket, reason):
            return attempt.store_failed(state, ticket, reason)
        case ev.UpdateLost(ticket):
            return delivery.lost(state, ticket)
        case ev.Moved(count):
            return thrift.moved(state, count), ()
        case ev.Uploaded():
            return thrift.uploaded(state, event)
        case ev.Uploading(since):
            return replace(state, uploading_since=since), ()
        case ev.StopRequested():
            return _stop(state)
        case _:
            assert_never(event)


def _started(state: State, now: float) -> State:
    """What was found on disk counts from the first tick."""
    if state.ticked:
        return state
    outbox = tuple(replace(pending, expires_at=now + pending.expires_at) for pending in state.outbox)
    return replace(state, now=now, ticked=True, outbox=outbox, aged_at=now, since=now, budget_at=now)


def _run_seen(state: State, run: RunSettings) -> Step:
    if state.run is not None and state.run.run == run.run:
        return replace(state, run=run), ()
    say = fx.Say(f"run {run.run}: plan {run.plan.name}, {counted(run.rounds, 'round')}, codec {run.codec}")
    # A plan that is here is this run's now, too: on disk it says whose it is.
    stop = () if state.fetching_plan is None else (fx.StopFetching("plan"),)
    return replace(state, run=run, plan=None, fetching_plan=None, fetch_at=state.now), (say, *stop)


def _round_seen(state: State, message: RoundAnnouncement) -> Step:
    session = state.coordinator.session if state.coordinator else None
    known = state.announced
    comparable = known is not None and known.session == session and known.message.run == message.run
    if known is not None and comparable and Announced.rank(message) < Announced.rank(known.message):
        return replace(state, announced=replace(known, belied=True)), ()
    state = replace(state, announced=missed.announced(state, message, session))
    ticket = Ticket.of(message)
    ready = isinstance(state.data, Stock) and state.data.examples > 0 and state.paused is None
    asked = state.is_current(ticket) and not delivery.rests(state, ticket)
    soon = message.phase is Phase.SELECTING and ready and state.served and asked
    return state, (fx.WarmUp(),) if soon else ()


def _command_seen(state: State, command: Command) -> Step:
    match command.command:
        case "query":
            return replace(state, shown=None), ()
        case "resume":
            return replace(state, paused=None), (fx.Say("resumed by the operator"),)
        case "pause":
            text = f"paused by the operator: {command.reason}".removesuffix(": ") + _UNTIL
            return replace(state, paused=text), (fx.Say(text),)
        case "evict":
            text = f"evicted by the operator: {command.reason}".removesuffix(": ") + _UNTIL
            effects: tuple[Effect, ...] = (fx.Say(text, logging.WARNING),)
            for pending in state.outbox:
                state, more = delivery.forget(state, pending, fx.EVICTED)
                effects += more
            return replace(state, paused=text), effects
        case _:
            assert_never(command.command)


def _fetch_failed(state: State, failed: ev.FetchFailed) -> Step:
    if failed.kind == "plan":
        state = replace(state, fetching_plan=None, fetch_at=state.now + (RETRY_S if failed.lasting else SOON_S))
        if failed.lasting:
            state = replace(state, trouble=Trouble(failed.reason, state.fetch_at))
    else:
        state = versions.fetch_failed(state, failed)
    return state, (fx.Say(f"can't get the {failed.kind}: {failed.reason}", logging.WARNING),)


def _job_done(state: State, result: Described | Trained | Evaluated | Personalised | Merged) -> Step:
    if isinstance(result, Merged):
        return versions.merged(state, result)
    if isinstance(result, Personalised):
        return personalising.done(state, result)
    if isinstance(result, Described):
        return counting.done(state, result)
    return attempt.done(state, result)


def _holding_lost(state: State, lost: ev.HoldingLost) -> Step:
    effects: tuple[Effect, ...] = ()
    if lost.model:
        state, effects = versions.drop(state, "the model on disk is damaged: it is fetched whole")
    if state.merging is not None and lost.key == state.merge_key(state.merging):
        state = replace(state, merging=None)
    state = personalising.holding_lost(state, lost)
    state, more = attempt.holding_lost(state, lost)
    return state, (*effects, *more)


def _job_failed(state: State, failure: Failure) -> Step:
    if (step := counting.failed(state, failure)) is not None:
        return step
    if (step := versions.job_failed(state, failure) or personalising.failed(state, failure)) is not None:
        return step
    effects: tuple[Effect, ...] = ()
    if failure.kind == "model" and attempt.is_ours(state, failure.key):
        state, effects = versions.drop(state, failure.message)
    state, more = attempt.failed(state, failure)
    return state, (*effects, *more)


def _stop(state: State) -> Step:
    state, effects = attempt.stop(state)
    effects = (*effects, *counting.stop(state), *personalising.stop(state))
    if state.merging is not None:
        effects = (*effects, fx.CancelJob(state.merge_key(state.merging)))
    age = (fx.KeepAge(),) if state.outbox else ()
    state, more = thrift.kept(state, state.budget) if state.budget is not None else (state, ())
    return replace(state, stopped=True), (*effects, *age, *more)


# -- what follows ------------------------------------------------------------------------------------------------------


def _recover(state: State) -> Step:
    """Trouble ends by itself; where it has not, the next try brings it back. So does a rest."""
    if state.trouble is not None and state.now >= state.trouble.until:
        state = replace(state, trouble=None)
    if state.rest is not None and state.now >= state.rest.until:
        state = replace(state, rest=None)
    return state, ()


def _fetch_plan(state: State) -> Step:
    if state.run is None or not state.wants_plan or state.now < state.fetch_at:
        return state, ()
    ref = state.run.plan.blob
    stop = () if state.fetching_plan is None else (fx.StopFetching("plan"),)
    return replace(state, fetching_plan=ref), (*stop, fx.FetchPlan(ref, state.run.run))


def _answer(state: State) -> Step:
    """Take up what is asked of us."""
    announced, taken_up = state.announced, state.work is not None and not attempt.is_reconsidered(state)
    if taken_up or announced is None or not _is_asked(state, announced):
        return state, ()
    return attempt.answer(state, announced)


def _show(state: State) -> Step:
    if not state.connected:
        return state, ()
    now, shown = status(state), state.shown
    if shown is not None and state.now < state.shown_at + interval(now, shown):
        return state, ()
    return replace(state, shown=now, shown_at=state.now), (fx.PublishStatus(now),)


# -- questions ---------------------------------------------------------------------------------------------------------


def _is_asked(state: State, announced: Announced) -> bool:
    """Whether an answer to the announcement is ours to give, and has not been given."""
    message = announced.message
    ticket = Ticket.of(message)
    if not state.is_current(ticket) or message.phase is not Phase.COLLECTING or state.now >= announced.until:
        return False
    if state.paused is not None or not state.served or ticket in state.settled or delivery.rests(state, ticket):
        return False
    if delivery.answered(state, ticket):
        return False
    if state.model is not None and state.model.run == ticket.run and state.model.version > message.model_version:
        return False
    return cohort.has(ticket.nonce, state.identity.device, message.cohort)


_RULES: Final[tuple[Callable[[State], Step], ...]] = (
    _recover,
    attempt.drop,
    delivery.drop_superseded,
    delivery.expire,
    _fetch_plan,
    versions.lose,
    versions.fetch,
    counting.describe,
    counting.look,
    _answer,
    personalising.give_way,
    attempt.begin,
    hearing.listen,
    missed.ask_again,
    missed.ask_for_parts,
    versions.merge,
    personalising.begin,
    delivery.send,
    delivery.keep_age,
    thrift.keep_budget,
    _show,
)
