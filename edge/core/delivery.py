"""The part of ``participation`` that sees to updates on disk: they are sent until a final receipt, or given up. Pure.

A receipt also says when the coordinator has use for the device again: after ``rejected`` it is silent to all training
until then, after any other final outcome to further attempts at the same task of the round. Never longer than
``LONGEST_REST_S``.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Final

from edge.core import effects as fx
from edge.core import thrift
from edge.core.answered import remembered
from edge.core.effects import Effect
from edge.core.events import Parcel, Ticket
from edge.core.participation_state import Pending, Rest, State, Step, Stock
from schemas import parts
from schemas.messages import Outcome, Phase, Receipt, Task

RESEND_S: Final = 30.0
SOONEST_S: Final = 5.0  # after which a part goes again where its attempt ends soon; nobody answers much faster
LONGEST_RESEND_S: Final = 3600.0
LONGEST_REST_S: Final = 3600.0
OUTBOX: Final = 8  # updates kept
AGE_S: Final = 3600.0  # between two records of how long the device has been running

_COUNTED: Final = frozenset({Outcome.ACCEPTED, Outcome.DUPLICATE})


def waiting(parcel: Parcel, *, age_s: float, limit_s: float) -> Pending:
    """An update found on disk, as old as that; times count from the first tick."""
    return Pending(parcel, sent=True, resend_at=0.0, patience_s=RESEND_S, expires_at=limit_s - age_s)


def stored(state: State, parcel: Parcel) -> Step:
    """An update has been put on disk."""
    expires_at = state.now + state.identity.outbox_s
    fresh = Pending(parcel, sent=False, resend_at=state.now, patience_s=RESEND_S, expires_at=expires_at)
    outbox = (*state.outbox, fresh)
    state = replace(state, outbox=outbox)
    if len(outbox) <= OUTBOX:
        return state, ()
    text = f"more than {OUTBOX} updates without a receipt: dropped that of round {outbox[0].parcel.ticket.round}"
    state, effects = forget(state, outbox[0], "dropped")
    return state, (fx.Say(text, logging.WARNING), *effects)


def say_again(state: State) -> State:
    """A part of every update is to be sent at once."""
    again = tuple(replace(pending, resend_at=state.now, patience_s=RESEND_S) for pending in state.outbox)
    return replace(state, outbox=again)


def receipt_seen(state: State, receipt: Receipt) -> Step:
    """What became of a join or an update."""
    ticket = Ticket.of(receipt)
    pending = next((pending for pending in state.outbox if pending.parcel.ticket == ticket), None)
    if receipt.outcome is Outcome.INCOMPLETE:
        return _incomplete(state, pending, receipt) if pending else (state, ())
    if receipt.outcome is Outcome.NOTED and pending is not None and pending.held:
        return _rested(state, receipt), ()  # that the round does without it; it may still come
    work = state.work
    if pending is None and (work is None or work.ticket != ticket):
        return state, ()
    state = _rested(state, receipt)
    if pending is None and work is not None and work.stage in {"declined", "silent"}:
        return replace(state, work=replace(work, noted=True)), ()
    if receipt.outcome in _COUNTED and receipt.task == "train":
        state = replace(state, last_round=receipt.round)
    said = f"round {ticket.round} ({ticket.task}): {receipt.outcome}{f', {receipt.reason}' if receipt.reason else ''}"
    say = fx.Say(said, logging.INFO if receipt.outcome in _COUNTED else logging.WARNING)
    if pending is None:
        return settled(state, ticket), (say,)
    state, effects = forget(state, pending, receipt.outcome)
    return state, (say, *effects)


def forget(state: State, pending: Pending, outcome: str) -> Step:
    """An update's end."""
    outbox = tuple(one for one in state.outbox if one is not pending)
    ticket = pending.parcel.ticket
    return settled(replace(state, outbox=outbox), ticket), (fx.Forget(ticket, outcome),)


def lost(state: State, ticket: Ticket) -> Step:
    """There is nothing left to send: nobody is to wait for it, another attempt at the task least of all."""
    pending = next((pending for pending in state.outbox if pending.parcel.ticket == ticket), None)
    if pending is None:
        return state, ()
    state, effects = forget(state, pending, fx.LOST)
    text = f"round {ticket.round} ({ticket.task}): the disk has lost the update before its receipt: see to the disk"
    return state, (fx.Say(text, logging.WARNING), *effects)


def settled(state: State, ticket: Ticket) -> State:
    """No answer to ``ticket`` is wanted any more."""
    return replace(state, settled=remembered((*state.settled, ticket)))


def rests(state: State, ticket: Ticket) -> bool:
    """Whether the coordinator has said that it has no use for an answer to this, yet."""
    if state.rest is None or state.now >= state.rest.until:
        return False
    return ticket.task == "train" if state.rest.task is None else state.rest.task == _task(ticket)


def answered(state: State, asked: Ticket) -> bool:
    """Whether an update on disk answers this: one for it, or where rounds overlap, for another attempt at it."""
    tickets = [pending.parcel.ticket for pending in state.outbox]
    return asked in tickets or (_overlaps(state, asked) and _task(asked) in map(_task, tickets))


# -- rules -------------------------------------------------------------------------------------------------------------


def drop_superseded(state: State) -> Step:
    """Another attempt at the same task is open: the answer to the earlier one would only get in its way.

    Where rounds overlap it counts in this one, and goes once more for it: what was sent before may be lost.
    """
    effects: tuple[Effect, ...] = ()
    if state.announced is None or state.announced.message.phase is not Phase.COLLECTING:
        return state, effects
    asked = Ticket.of(state.announced.message)
    if _overlaps(state, asked):
        return _hastened(state, asked, state.announced.until), effects
    for pending in state.outbox:
        ticket = pending.parcel.ticket
        if ticket != asked and _task(ticket) == _task(asked):
            state, more = forget(state, pending, fx.SUPERSEDED)
            effects += more
    return state, effects


def expire(state: State) -> Step:
    """What nobody has answered for so long is not sent any more."""
    effects: tuple[Effect, ...] = ()
    for pending in state.outbox:
        if state.now >= pending.expires_at:
            number, days = pending.parcel.ticket.round, f"{state.identity.outbox_s / 86_400:.3g}"
            waited = f"{days} {'day' if days == '1' else 'days'} of running"
            text = f"round {number} has given the update no receipt in {waited}: dropped"
            state, more = forget(state, pending, "expired")
            effects += (fx.Say(text, logging.WARNING), *more)
    return state, effects


def keep_age(state: State) -> Step:
    """An update's age must not begin anew at each start."""
    if not state.outbox or state.now < state.aged_at + AGE_S:
        return state, ()
    return replace(state, aged_at=state.now), (fx.KeepAge(),)


def send(state: State) -> Step:
    """Send what is due."""
    if not state.connected or not state.served:
        return state, ()
    effects: list[Effect] = []
    outbox: list[Pending] = []
    planned = state  # as it will be once what goes before has gone
    for pending in state.outbox:
        if state.now < pending.resend_at or not state.is_current(pending.parcel.ticket):
            outbox.append(pending)
            continue
        if hold_s := thrift.wait_s(planned, _size(pending)):
            outbox.append(replace(pending, resend_at=state.now + hold_s, held=True))
            if not pending.held:
                effects += _told_it_waits(state, pending, hold_s, thrift.why_it_waits(planned, _size(pending)))
            continue
        planned = thrift.moved(planned, _size(pending))
        effects.append(fx.SendParts(pending.parcel, None if _goes_whole(pending) else (0,)))
        outbox.append(_sent(state, pending))
    return replace(state, outbox=tuple(outbox)), tuple(effects)


# -- questions ---------------------------------------------------------------------------------------------------------


def why_it_waits(state: State) -> str:
    """Why the budget hasn't the room for the oldest update that is held back; empty where none is."""
    held = [one for one in state.outbox if one.held and state.is_current(one.parcel.ticket)]
    return thrift.why_it_waits(state, _size(held[0])) if held else ""


# -- what several of them need -----------------------------------------------------------------------------------------


def _incomplete(state: State, pending: Pending, receipt: Receipt) -> Step:
    size = pending.parcel.ref.size
    hold_s = thrift.wait_s(state, size)
    known = tuple(index for index in receipt.missing if index < pending.parcel.ref.parts) or (0,)
    later = replace(pending, sent=True, held=hold_s > 0)
    later = replace(later, resend_at=state.now + max(hold_s, RESEND_S), patience_s=2 * RESEND_S)
    outbox = tuple(later if one is pending else one for one in state.outbox)
    if not hold_s:
        return replace(state, outbox=outbox), (fx.SendParts(pending.parcel, known),)
    told = () if pending.held else _told_it_waits(state, pending, hold_s, thrift.why_it_waits(state, size))
    return replace(state, outbox=outbox), told


def _told_it_waits(state: State, pending: Pending, hold_s: float, why: str) -> tuple[Effect, ...]:
    """The owner hears of it, and the coordinator where its round won't last so long: nobody is to wait for it."""
    ticket, announced = pending.parcel.ticket, state.announced
    say = fx.Say(f"round {ticket.round} ({ticket.task}): the update waits: {why}", logging.WARNING)
    if announced is None or announced.message.phase is not Phase.COLLECTING or Ticket.of(announced.message) != ticket:
        return (say,)
    if state.now + hold_s < announced.until:
        return (say,)
    stock = state.data if isinstance(state.data, Stock) else Stock("", 0, 0)
    examples = stock.examples if ticket.task == "train" else stock.held_out
    return say, fx.SendJoin(ticket, accepts=False, reason=why, examples=examples)


def _sent(state: State, pending: Pending) -> Pending:
    """It was sent now. Where its attempt ends before it would go again, it goes once more while it still counts."""
    sent, announced = replace(pending, sent=True, held=False), state.announced
    ours = announced is not None and Ticket.of(announced.message) == pending.parcel.ticket
    left = announced.until - state.now if announced is not None and ours else 0.0
    nonce = pending.parcel.ticket.nonce
    if SOONEST_S < left <= pending.patience_s and pending.hurried != nonce:
        return replace(sent, resend_at=state.now + max(SOONEST_S, left / 2), hurried=nonce)
    patience_s = min(2 * pending.patience_s, LONGEST_RESEND_S)
    return replace(sent, resend_at=state.now + pending.patience_s, patience_s=patience_s)


def _hastened(state: State, asked: Ticket, until: float) -> State:
    """What an earlier attempt was sent, and would not go again before this one is over, goes for this one."""
    soon = state.now + SOONEST_S
    late = [
        pending
        for pending in state.outbox
        if pending.sent and not pending.held and pending.hurried != asked.nonce and soon < until <= pending.resend_at
        if pending.parcel.ticket != asked and _task(pending.parcel.ticket) == _task(asked)
    ]
    if not late:
        return state
    hastened = (replace(one, resend_at=soon, hurried=asked.nonce) if one in late else one for one in state.outbox)
    return replace(state, outbox=tuple(hastened))


def _size(pending: Pending) -> int:
    """Bytes that are sent of it next."""
    ref = pending.parcel.ref
    return ref.size if _goes_whole(pending) else -(-ref.size // ref.parts)


def _goes_whole(pending: Pending) -> bool:
    """Whether all of it is sent next, and not its first part alone, which has the coordinator ask for what it lacks."""
    return not pending.sent and pending.parcel.ref.size <= parts.LARGE


def _rested(state: State, receipt: Receipt) -> State:
    seconds = min(receipt.come_back_after_s, LONGEST_REST_S)
    if seconds <= 0:
        return state
    task = None if receipt.outcome is Outcome.REJECTED else _task(Ticket.of(receipt))
    if task is not None and state.rest is not None and state.rest.task is None:
        return state  # the longer silence covers it
    return replace(state, rest=Rest(state.now + seconds, seconds, task))


def _task(ticket: Ticket) -> tuple[str, int, Task]:
    return ticket.run, ticket.round, ticket.task


def _overlaps(state: State, ticket: Ticket) -> bool:
    return state.run is not None and state.run.max_staleness is not None and ticket.task == "train"
