"""What a device's answer changes in the open attempt, and what the device is told. Pure; ``round`` closes attempts.

Nothing here takes longer for a larger fleet: an attempt's rosters are persistent maps, in which one more device is a
few steps down a tree, and the old one stays what it was.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from coordinator import observers as seen
from coordinator.admission import UNKNOWN, answers, is_stranger, key, refusal, staleness, was_asked
from coordinator.events import Effect, Fold, Header, Keep, Rejected, Ticket, UpdateStalled
from coordinator.reports import come_back, receipt, reply
from coordinator.round_state import Collecting, State, Step, without
from schemas import cohort
from schemas.errors import Reject
from schemas.messages import Join, Outcome

MAX_TEXT: Final = 500  # characters, as messages.Text allows
DECLINED_S: Final = 10.0  # for one that declines: with it the attempt may end any moment, and the next one may need it


def join(state: State, join: Join) -> Step:  # noqa: PLR0911  - a case a line
    """Take a join."""
    stage, device = state.stage, join.device
    if not isinstance(stage, Collecting) or not answers(join, stage.ticket):
        if not was_asked(state, join):
            return rejected(state, Rejected(Reject.WRONG_RUN, "it answers nothing this run ever asked", "", device))
        late = join.accepts and state.rules.max_staleness is None  # else what it will send may count all the same
        return state, (receipt(join, Outcome.LATE, "the round is over"),) if late else ()
    if not cohort.has(stage.ticket.nonce, device, stage.cohort):
        back_in = come_back(state, stage, device)
        return state, (receipt(join, Outcome.NOTED, "not drawn for this round", back_in),)
    if device in stage.received:
        return state, ()
    if is_stranger(state, stage, device):
        return rejected(state, Rejected(Reject.UNKNOWN_DEVICE, UNKNOWN, "", device))
    if join.accepts:
        after = replace(
            stage,
            joined=stage.joined.set(device, None),
            declined=without(stage.declined, device),
            awaited=stage.awaited.set(device, None),
            newcomers=stage.newcomers + stage.is_newcomer(device),
        )
        after = replace(after, asked=after.involved)
        joined = seen.DeviceJoined(state.round, state.task, device, len(after.joined))
        return replace(state, stage=after), () if device in stage.joined else (joined,)
    reason = join.reason or "it does not say why"
    after = replace(
        _declining(stage, device, reason),
        joined=without(stage.joined, device),
        newcomers=stage.newcomers - (device in stage.joined and device not in stage.selected),
    )
    effects = (
        receipt(join, Outcome.NOTED, "declined", come_back(state, stage, device, DECLINED_S)),
        *(() if device in stage.declined else (seen.DeviceDeclined(state.round, state.task, device, reason),)),
    )
    return replace(state, stage=after), effects


def update(state: State, header: Header) -> Step:
    """Take an update; whether that closes the attempt is for ``round`` to see."""
    refused = refusal(state, header)
    if refused is None:
        return accept(state, header, (Keep(header),))
    outcome, reason, text = refused
    if reason is Reject.EQUIVOCATION:
        state, noted = rejected(state, Rejected(reason, text, "", header.device))
        return state, (*noted, receipt(header, outcome, text))
    if reason is not None:
        return rejected(state, Rejected(reason, text, "", header.device, header.round, header))
    return state, (receipt(header, outcome, text),)


def accept(state: State, header: Header, effects: tuple[Effect, ...]) -> Step:
    """Count an update that belongs to the open attempt, after ``effects``."""
    stage = state.stage
    assert isinstance(stage, Collecting)  # or it would not belong
    name, behind = key(stage, header), staleness(state, header)
    stage = replace(
        stage,
        joined=stage.joined.set(name, None) if name == header.device else stage.joined,
        newcomers=stage.newcomers + (name == header.device and stage.is_newcomer(name)),
        declined=without(stage.declined, name),
        awaited=without(stage.awaited, name),
        received=stage.received.set(name, header),
    )
    stage = replace(stage, asked=stage.involved)
    accepted = seen.UpdateAccepted(
        header.round,
        header.task,
        header.device,
        header.examples,
        header.train_loss,
        header.size,
        len(stage.received),
        behind or 0,
    )
    # Trained for an earlier attempt at this very round: the device has nothing more to do in it.
    earlier = header.round == stage.ticket.round and header.nonce != stage.ticket.nonce
    answer = receipt(header, Outcome.ACCEPTED, back_in=come_back(state, stage, name) if earlier else 0.0)
    state = replace(state, stage=stage, resting=without(state.resting, header.device))
    return state, (*effects, Fold(header, behind), answer, accepted)


def missing(state: State, stalled: UpdateStalled) -> tuple[Effect, ...]:
    """Ask for parts that have not come."""
    stage, header = state.stage, stalled.header
    if not isinstance(stage, Collecting) or (header is None and stalled.device in stage.received):
        return ()
    asked = header or stage.ticket
    return (reply(stalled.device, asked, Outcome.INCOMPLETE, "parts are missing", missing=stalled.missing),)


def rejected(state: State, event: Rejected) -> Step:
    """Count what changes nothing, and tell its device where it was meant as an update."""
    count = {**state.rejected, event.reason.value: state.rejected.get(event.reason.value, 0) + 1}
    state = replace(state, rejected=count)
    rejected = seen.MessageRejected(event.reason.value, event.detail, event.topic, event.device)
    stage, device = state.stage, event.device
    answered: Ticket | Header | None = event.header
    if answered is None and isinstance(stage, Collecting) and stage.ticket.round == event.round:
        answered = stage.ticket
    if event.round is None or device is None or answered is None:
        return state, (rejected,)
    text = f"{event.reason.value}: {event.detail}"[:MAX_TEXT]
    back_in = 0.0
    if isinstance(stage, Collecting) and is_stranger(state, stage, device):
        back_in = come_back(state, stage, device)
    elif isinstance(stage, Collecting) and answers(answered, stage.ticket) and device not in stage.received:
        state = replace(state, stage=_declining(stage, device, f"its update was rejected, {text}"[:MAX_TEXT]))
        if stage.ticket.task == "train":  # which it is silent to from now on, so that none may count on it
            back_in = come_back(state, stage, device)
            state = replace(state, resting=state.resting.set(device, state.now + back_in))
    return state, (rejected, reply(device, answered, Outcome.REJECTED, text, back_in))


def _declining(stage: Collecting, device: str, reason: str) -> Collecting:
    """``stage`` with nothing to be expected of ``device``."""
    return replace(stage, declined=stage.declined.set(device, reason), awaited=without(stage.awaited, device))
