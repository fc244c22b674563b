"""A device's state machine: all its rules, and the only place where one is decided. Pure.

What must be done next follows from what the state holds, whatever order messages came in: ``step`` takes the event in,
then ``_RULES``, in their order, close the gap between what is and what should be.

* The plan of the run and its newest model are always fetched; never an older version of the same run, nor another
  model under a version it holds. A model works without a coordinator: it is on disk.
* The data is counted once for each recipe. Where it can't be used the device says so, and looks again after a while.
* A device takes part where a coordinator is there, the announcement is of the run and collecting, its time is not over,
  ``draw(nonce, device) < cohort``, and it holds no newer model. Others stay silent.
* It accepts, or declines with the reason: no examples, a plan that doesn't fit, trouble with the disk. With nothing for
  this task but something for the other it stays silent: nobody waits for it.
* It trains once for a ticket (run, round, task, nonce). Another nonce, another phase, the deadline, or a final receipt
  ends the attempt and cancels its job. The seed is the round's and the device's, so training replays.
* An update is sent only once it is on disk, and stays there until a final receipt. A part of it goes again after
  ``RESEND_S``, then after twice as long each time, and at once, the join too, for a new coordinator session and after a
  reconnect. That is when the coordinator is heard: a broker that has lost its sessions drops what comes before.
  Updates of another run wait for that run; the oldest beyond ``OUTBOX`` are dropped.
* A status or will of a session before the newest seen is stale. So is an announcement of an earlier attempt, unless a
  new coordinator session makes it.
* ``pause`` and ``evict`` last until ``resume`` or a restart; ``evict`` also drops what was not sent.
* What it does is told at once where the coordinator must know it, else at most every ``STATUS_S``, and as a heartbeat.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Final, Literal, assert_never

from edge import events as ev
from edge.events import Effect, Event, Parcel, Ticket
from edge.jobs import Described, Evaluated, Failure, Trained
from edge.participation_state import (
    Announced,
    Describing,
    Identity,
    Pending,
    Plan,
    State,
    Stock,
    Trouble,
    Unusable,
    Work,
)
from edge.presence import MAX_TEXT, status, trouble, urgent
from schemas import cohort
from schemas.messages import (
    Command,
    CoordinatorStatus,
    ModelPointer,
    Outcome,
    Phase,
    Receipt,
    RoundAnnouncement,
    RunSettings,
    Update,
)

RESEND_S: Final = 30.0
LONGEST_RESEND_S: Final = 3600.0
RETRY_S: Final = 60.0  # after trouble that doesn't go away by itself
SOON_S: Final = 5.0  # after trouble that may
STATUS_S: Final = 1.0
CRASHES: Final = 3  # of a trainer over one ticket
OUTBOX: Final = 8  # updates kept
SETTLED: Final = 16  # tickets remembered

_COUNTED: Final = frozenset({Outcome.ACCEPTED, Outcome.DUPLICATE})
_WORKING: Final = frozenset({"waiting", "running", "storing"})

Step = tuple[State, tuple[Effect, ...]]


def begin(
    identity: Identity,
    *,
    model: ModelPointer | None = None,
    parcels: tuple[Parcel, ...] = (),
    settled: tuple[Ticket, ...] = (),
    last_round: int | None = None,
) -> State:
    """A device that finds this on its disk: the newest model, the updates without a receipt, and those with one."""
    pending = tuple(Pending(parcel, sent=True, resend_at=0.0, patience_s=RESEND_S) for parcel in parcels)
    return State(identity, model=model, outbox=pending, settled=settled, last_round=last_round)


def step(state: State, event: Event) -> Step:
    """What ``event`` changes, and what is to be done about it, in this order."""
    if state.stopped:
        return state, ()
    state, effects = _take(state, event)
    for rule in () if state.stopped else _RULES:
        state, more = rule(state)
        effects += more
    return state, effects


def wake_at(state: State) -> float | None:
    """When the next ``Tick`` matters, if nothing else happens; None where none does."""
    times: list[float] = []
    if state.connected and state.shown is not None:
        news = status(state) != state.shown
        times.append(state.shown_at + (STATUS_S if news else state.identity.heartbeat_s))
    if state.work is not None and state.announced is not None:
        times.append(state.announced.until)
    if state.wants_plan or state.wants_model:
        times.append(state.fetch_at)
    if isinstance(state.data, Unusable) and state.holds_plan:
        times.append(state.data.retry_at)
    if state.trouble is not None:
        times.append(state.trouble.until)
    if state.connected and state.served:
        times.extend(pending.resend_at for pending in state.outbox if state.is_current(pending.parcel.ticket))
    return min(times, default=None)


def seed(run: RunSettings, number: int, device: str) -> int:
    """What a device draws its training of round ``number`` from, below 2^53; the same for every attempt at it."""
    digest = hashlib.sha256(f"train/{run.seed}/{run.run}/{number}/{device}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 11


# -- what an event says ------------------------------------------------------------------------------------------------


def _take(state: State, event: Event) -> Step:  # noqa: C901, PLR0911, PLR0912 - one line for each event there is
    match event:
        case ev.Tick(now):
            return replace(state, now=max(now, state.now)), ()
        case ev.Connected():
            return replace(state, connected=True, heard=False, shown=None), ()
        case ev.Disconnected():
            return replace(state, connected=False, shown=None), ()
        case ev.CoordinatorSeen(seen):
            return _coordinator_seen(state, seen)
        case ev.RunSeen(run):
            return _run_seen(state, run)
        case ev.ModelSeen(pointer):
            return _model_seen(state, pointer)
        case ev.RoundSeen(announcement):
            return _round_seen(state, announcement)
        case ev.ReceiptSeen(receipt):
            return _receipt_seen(state, receipt)
        case ev.CommandSeen(command):
            return _command_seen(state, command)
        case ev.PlanReady(digest, recipe):
            return replace(state, plan=Plan(digest, recipe), fetching_plan=None, trouble=None), ()
        case ev.ModelReady(pointer):
            return replace(state, model=pointer, fetching_model=None, trouble=None), ()
        case ev.FetchFailed():
            return _fetch_failed(state, event)
        case ev.JobDone(result):
            return _job_done(state, result)
        case ev.JobFailed(failure):
            return _job_failed(state, failure)
        case ev.UpdateStored(parcel):
            return _update_stored(state, parcel)
        case ev.StoreFailed(ticket, reason):
            return _store_failed(state, ticket, reason)
        case ev.StopRequested():
            return _stop(state)
        case _:
            assert_never(event)


def _introduce(state: State) -> Step:
    """Somebody may have missed what we said: the join again, and a part of every update."""
    again = tuple(replace(pending, resend_at=state.now, patience_s=RESEND_S) for pending in state.outbox)
    state = replace(state, outbox=again)
    if state.work is None or not state.served:
        return state, ()
    return state, _join(state, state.work)


def _coordinator_seen(state: State, seen: CoordinatorStatus) -> Step:
    known = state.coordinator
    if known is not None and seen.session < known.session:
        return state, ()
    same = state.heard and state.served and known is not None and known.session == seen.session
    state = replace(state, coordinator=seen, heard=True)
    return (state, ()) if same or not state.served else _introduce(state)


def _run_seen(state: State, run: RunSettings) -> Step:
    if state.run is not None and state.run.run == run.run:
        return replace(state, run=run), ()
    say = ev.Say(f"run {run.run}: plan {run.plan.name}, {run.rounds} rounds, codec {run.codec}")
    return replace(state, run=run, fetch_at=state.now), (say,)


def _model_seen(state: State, pointer: ModelPointer) -> Step:
    for known in (state.model, state.pointer):
        if known is None or known.run != pointer.run:
            continue
        if pointer.version < known.version:
            text = (
                f"model {pointer.version} of run {pointer.run} is offered, version {known.version} came before: ignored"
            )
            return state, (ev.Say(text, logging.WARNING),)
        if pointer.version == known.version and pointer.digest != known.digest:
            text = f"another model {pointer.version} of run {pointer.run} than the one before is offered: ignored"
            return state, (ev.Say(text, logging.WARNING),)
    return replace(state, pointer=pointer), ()


def _round_seen(state: State, message: RoundAnnouncement) -> Step:
    session = state.coordinator.session if state.coordinator else None
    known = state.announced
    comparable = known is not None and known.session == session and known.message.run == message.run
    if known is not None and comparable and Announced.rank(message) < Announced.rank(known.message):
        return state, ()
    state = replace(state, announced=Announced(message, state.now + message.remaining_s, session))
    ready = isinstance(state.data, Stock) and state.data.examples > 0 and state.paused is None
    soon = message.phase is Phase.SELECTING and ready and state.served and state.is_current(Ticket.of(message))
    return state, (ev.WarmUp(),) if soon else ()


def _receipt_seen(state: State, receipt: Receipt) -> Step:
    ticket = Ticket.of(receipt)
    pending = next((pending for pending in state.outbox if pending.parcel.ticket == ticket), None)
    if receipt.outcome is Outcome.INCOMPLETE:
        return _incomplete(state, pending, receipt) if pending else (state, ())
    work = state.work
    if pending is None and (work is None or work.ticket != ticket or work.stage in {"declined", "silent"}):
        return state, ()
    if receipt.outcome in _COUNTED and receipt.task == "train":
        state = replace(state, last_round=receipt.round)
    said = f"round {ticket.round} ({ticket.task}): {receipt.outcome}{f', {receipt.reason}' if receipt.reason else ''}"
    say = ev.Say(said, logging.INFO if receipt.outcome in _COUNTED else logging.WARNING)
    if pending is None:
        return _settled(state, ticket), (say,)
    state, effects = _forget(state, pending, receipt.outcome)
    return state, (say, *effects)


def _incomplete(state: State, pending: Pending, receipt: Receipt) -> Step:
    known = tuple(index for index in receipt.missing if index < pending.parcel.ref.parts) or (0,)
    later = replace(pending, sent=True, resend_at=state.now + RESEND_S, patience_s=2 * RESEND_S)
    outbox = tuple(later if one is pending else one for one in state.outbox)
    return replace(state, outbox=outbox), (ev.SendParts(pending.parcel, known),)


def _command_seen(state: State, command: Command) -> Step:
    match command.command:
        case "query":
            return replace(state, shown=None), ()
        case "resume":
            return replace(state, paused=None), (ev.Say("resumed by the operator"),)
        case "pause":
            text = f"paused by the operator: {command.reason}".removesuffix(": ")
            return replace(state, paused=text), (ev.Say(text),)
        case "evict":
            text = f"evicted by the operator: {command.reason}".removesuffix(": ")
            effects: tuple[Effect, ...] = (ev.Say(text, logging.WARNING),)
            for pending in state.outbox:
                state, more = _forget(state, pending, "evicted")
                effects += more
            return replace(state, paused=text), effects
        case _:
            assert_never(command.command)


def _fetch_failed(state: State, failed: ev.FetchFailed) -> Step:
    state = replace(state, fetching_plan=None) if failed.kind == "plan" else replace(state, fetching_model=None)
    state = replace(state, fetch_at=state.now + (RETRY_S if failed.lasting else SOON_S))
    if failed.lasting:
        state = replace(state, trouble=Trouble(failed.reason, state.fetch_at))
    return state, (ev.Say(f"can't get the {failed.kind}: {failed.reason}", logging.WARNING),)


def _job_done(state: State, result: Described | Trained | Evaluated) -> Step:
    if isinstance(result, Described):
        if not isinstance(state.data, Describing) or result.key != state.data_key(state.data.recipe):
            return state, ()
        stock = Stock(state.data.recipe, result.examples, result.held_out)
        notes = [f"{stock.examples} examples to train on, {stock.held_out} held out", *result.notes]
        said: tuple[Effect, ...] = tuple(ev.Say(f"data: {note}") for note in notes)
        return replace(state, data=stock), (*said, ev.WarmUp()) if stock.examples else said
    work, run = state.work, state.run
    if work is None or run is None or work.stage != "running" or result.key != state.key(work.ticket):
        return state, ()
    about = {"device": state.identity.device, "model_version": work.model_version, "model_digest": work.model_digest}
    ticket = work.ticket
    about |= {"run": ticket.run, "round": ticket.round, "task": ticket.task, "nonce": ticket.nonce}
    if isinstance(result, Trained):
        about |= {"examples": result.examples, "payload": result.payload, "train_loss": result.train_loss}
    else:
        about |= {"examples": result.counts.examples, "counts": result.counts}
    update = Update.model_validate(about)
    return replace(state, work=replace(work, stage="storing")), (ev.StoreUpdate(ticket, update, run.part_size),)


def _job_failed(state: State, failure: Failure) -> Step:
    data, work, run = state.data, state.work, state.run
    if isinstance(data, Describing) and failure.key == state.data_key(data.recipe):
        wait = SOON_S if failure.kind == "crash" else RETRY_S
        state = replace(state, data=Unusable(data.recipe, failure.message, state.now + wait))
        return state, (ev.Say(failure.message, logging.WARNING),)
    if work is None or run is None or work.stage != "running" or failure.key != state.key(work.ticket):
        return state, ()
    say = ev.Say(f"round {work.ticket.round} ({work.ticket.task}) failed: {failure.message}", logging.WARNING)
    if failure.kind == "crash" and work.crashes + 1 < CRASHES:
        return replace(state, work=replace(work, stage="waiting", crashes=work.crashes + 1)), (say,)
    if failure.kind == "plan":
        state = replace(state, unfit=(run.plan.blob.digest, failure.message))
    if failure.kind == "data" and isinstance(data, Stock):
        state = replace(state, data=Unusable(data.recipe, failure.message, state.now + RETRY_S))
    state, effects = _decline(state, work, failure.message)
    return state, (say, *effects)


def _update_stored(state: State, parcel: Parcel) -> Step:
    if state.work is not None and state.work.ticket == parcel.ticket:
        state = replace(state, work=None)
    outbox = (*state.outbox, Pending(parcel, sent=False, resend_at=state.now, patience_s=RESEND_S))
    state = replace(state, outbox=outbox, trouble=None)
    if len(outbox) <= OUTBOX:
        return state, ()
    text = f"more than {OUTBOX} updates without a receipt: dropped that of round {outbox[0].parcel.ticket.round}"
    state, effects = _forget(state, outbox[0], "dropped")
    return state, (ev.Say(text, logging.WARNING), *effects)


def _store_failed(state: State, ticket: Ticket, reason: str) -> Step:
    state = replace(state, trouble=Trouble(reason, state.now + RETRY_S))
    say = ev.Say(f"round {ticket.round} ({ticket.task}) is lost: {reason}", logging.ERROR)
    if state.work is None or state.work.ticket != ticket:
        return state, (say,)
    state, effects = _decline(state, state.work, reason)
    return state, (say, *effects)


def _stop(state: State) -> Step:
    effects: list[Effect] = []
    if state.work is not None and state.work.stage == "running":
        effects.append(ev.CancelJob(state.key(state.work.ticket)))
    if isinstance(state.data, Describing):
        effects.append(ev.CancelJob(state.data_key(state.data.recipe)))
    return replace(state, stopped=True, work=None), tuple(effects)


# -- what follows ------------------------------------------------------------------------------------------------------


def _recover(state: State) -> Step:
    """Trouble ends by itself; where it has not, the next try brings it back."""
    if state.trouble is not None and state.now >= state.trouble.until:
        return replace(state, trouble=None), ()
    return state, ()


def _drop_work(state: State) -> Step:
    """An attempt that is over is not worked on."""
    work, announced = state.work, state.announced
    if work is None or announced is None:
        return state, ()
    open_still = announced.message.phase is Phase.COLLECTING and Ticket.of(announced.message) == work.ticket
    wanted = open_still and state.now < announced.until and work.ticket not in state.settled
    if wanted and state.paused is None and state.is_current(work.ticket):
        return state, ()
    state = replace(state, work=None)
    if work.stage != "running":
        return state, ()
    text = f"round {work.ticket.round} ({work.ticket.task}) goes on without us: it is over, or we are paused"
    return state, (ev.CancelJob(state.key(work.ticket)), ev.Say(text))


def _drop_superseded(state: State) -> Step:
    """Another attempt at the same task is open: the answer to the earlier one would only get in its way."""
    effects: tuple[Effect, ...] = ()
    if state.announced is None or state.announced.message.phase is not Phase.COLLECTING:
        return state, effects
    asked = Ticket.of(state.announced.message)
    for pending in state.outbox:
        ticket = pending.parcel.ticket
        if ticket != asked and (ticket.run, ticket.round, ticket.task) == (asked.run, asked.round, asked.task):
            state, more = _forget(state, pending, "superseded")
            effects += more
    return state, effects


def _fetch_plan(state: State) -> Step:
    if state.run is None or not state.wants_plan or state.now < state.fetch_at:
        return state, ()
    stop = () if state.fetching_plan is None else (ev.StopFetching("plan"),)
    ref = state.run.plan.blob
    return replace(state, fetching_plan=ref), (*stop, ev.FetchPlan(ref))


def _fetch_model(state: State) -> Step:
    pointer = state.pointer
    if pointer is None or not state.wants_model or state.now < state.fetch_at:
        return state, ()
    stop = () if state.fetching_model is None else (ev.StopFetching("model"),)
    return replace(state, fetching_model=pointer), (*stop, ev.FetchModel(pointer))


def _describe(state: State) -> Step:
    plan, data = state.plan, state.data
    if plan is None or not state.holds_plan:
        return state, ()
    waits = isinstance(data, Unusable) and state.now < data.retry_at
    if data is not None and data.recipe == plan.recipe and (waits or not isinstance(data, Unusable)):
        return state, ()
    cancel = (ev.CancelJob(state.data_key(data.recipe)),) if isinstance(data, Describing) else ()
    before = data.reason if isinstance(data, Unusable) else ""
    start = ev.StartDescribing(state.data_key(plan.recipe), plan.recipe)
    return replace(state, data=Describing(plan.recipe, before)), (*cancel, start)


def _answer(state: State) -> Step:
    """Accept or decline what is asked of us, once we know what we have."""
    announced = state.announced
    if state.work is not None or announced is None or not _is_asked(state, announced):
        return state, ()
    message = announced.message
    stage, reason = _attitude(state, message)
    if stage is None:
        return state, ()
    work = Work(Ticket.of(message), message.model_version, message.model_digest, stage, reason)
    return replace(state, work=work), _join(state, work)


def _begin_job(state: State) -> Step:
    work, run, plan, model = state.work, state.run, state.plan, state.model
    if work is None or work.stage != "waiting" or run is None or plan is None or not state.holds_plan:
        return state, ()
    if model is None or model.run != work.ticket.run or model.version < work.model_version:
        return state, ()
    if (model.version, model.digest) != (work.model_version, work.model_digest):
        return _decline(state, work, f"it holds model {model.version} {model.digest[:8]}, not the one to start from")
    key = state.key(work.ticket)
    start: Effect = ev.StartEvaluation(key, plan.digest)
    if work.ticket.task == "train":
        drawn = seed(run, work.ticket.round, state.identity.device)
        start = ev.StartTraining(key, plan.digest, run.train, run.codec, drawn)
    return replace(state, work=replace(work, stage="running")), (start,)


def _send(state: State) -> Step:
    if not state.connected or not state.served:
        return state, ()
    effects: list[Effect] = []
    outbox: list[Pending] = []
    for pending in state.outbox:
        if state.now < pending.resend_at or not state.is_current(pending.parcel.ticket):
            outbox.append(pending)
            continue
        effects.append(ev.SendParts(pending.parcel, (0,) if pending.sent else None))
        patience = min(2 * pending.patience_s, LONGEST_RESEND_S)
        outbox.append(Pending(pending.parcel, sent=True, resend_at=state.now + pending.patience_s, patience_s=patience))
    return (replace(state, outbox=tuple(outbox)), tuple(effects)) if effects else (state, ())


def _show(state: State) -> Step:
    if not state.connected:
        return state, ()
    now, shown = status(state), state.shown
    age = state.now - state.shown_at
    if (
        shown is not None
        and age < (STATUS_S if now != shown else state.identity.heartbeat_s)
        and not urgent(now, shown)
    ):
        return state, ()
    return replace(state, shown=now, shown_at=state.now), (ev.PublishStatus(now),)


# -- changes that several rules make -----------------------------------------------------------------------------------


def _forget(state: State, pending: Pending, outcome: str) -> Step:
    outbox = tuple(one for one in state.outbox if one is not pending)
    ticket = pending.parcel.ticket
    return _settled(replace(state, outbox=outbox), ticket), (ev.Forget(ticket, outcome),)


def _settled(state: State, ticket: Ticket) -> State:
    return replace(state, settled=(*state.settled, ticket)[-SETTLED:])


def _decline(state: State, work: Work, reason: str) -> Step:
    declined = replace(work, stage="declined", reason=reason)
    return replace(state, work=declined), _join(state, declined)


def _join(state: State, work: Work) -> tuple[Effect, ...]:
    if work.stage == "silent" or not state.connected:
        return ()
    stock = state.data if isinstance(state.data, Stock) else Stock("", 0, 0)
    examples = stock.examples if work.ticket.task == "train" else stock.held_out
    return (ev.SendJoin(work.ticket, work.stage in _WORKING, work.reason[:MAX_TEXT], examples),)


# -- questions ---------------------------------------------------------------------------------------------------------


def _is_asked(state: State, announced: Announced) -> bool:
    """Whether an answer to the announcement is ours to give, and has not been given."""
    message = announced.message
    ticket = Ticket.of(message)
    if not state.is_current(ticket) or message.phase is not Phase.COLLECTING or state.now >= announced.until:
        return False
    if state.paused is not None or not state.served or ticket in state.settled:
        return False
    if any(pending.parcel.ticket == ticket for pending in state.outbox):
        return False
    if state.model is not None and state.model.run == ticket.run and state.model.version > message.model_version:
        return False
    return cohort.draw(ticket.nonce, state.identity.device) < message.cohort


def _attitude(state: State, message: RoundAnnouncement) -> tuple[Literal["waiting", "declined", "silent"] | None, str]:
    """How we stand to a task, and why; None until we know."""
    train, data = message.task == "train", state.data
    if why := trouble(state):
        return ("declined" if train else "silent"), why
    if not state.holds_plan or not isinstance(data, Stock):
        return None, ""
    if data.examples if train else data.held_out:
        return "waiting", ""
    if data.held_out or not train:
        return "silent", ""
    return "declined", "it has no examples to train on: look at its recordings with `edge data show`"


_RULES: Final[tuple[Callable[[State], Step], ...]] = (
    _recover,
    _drop_work,
    _drop_superseded,
    _fetch_plan,
    _fetch_model,
    _describe,
    _answer,
    _begin_job,
    _send,
    _show,
)
