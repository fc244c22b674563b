"""Which answers count, and what the others are. Pure; ``round`` decides when there is an attempt to answer.

In synchronous rounds only answers to the open attempt count. With ``max_staleness`` (FedBuff, Nguyen et al. 2022) the
open attempt is a buffer that takes in what was asked for up to so many versions before, too: each such update is
folded with a weight that falls with its staleness. Either way one update counts for each (run, round, task, device).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from coordinator.events import Header, Ticket, Version
from coordinator.round_state import ATTEMPTS, Collecting, State
from schemas import cohort
from schemas.errors import Reject
from schemas.messages import MAX_DEVICES, Join, Outcome

UNKNOWN: Final = f"{MAX_DEVICES} devices are known, and no more are taken"
Refusal = tuple[Outcome, Reject | None, str]


def refusal(state: State, header: Header) -> Refusal | None:  # noqa: PLR0911  - a reason a line
    """Why an update would not count now: outcome, reason and text; None where it would, if its content is valid."""
    stage = state.stage
    if not isinstance(stage, Collecting) or not belongs(state, header):
        if was_asked(state, header):
            return Outcome.LATE, None, f"round {header.round} ({header.task}) does not take updates any more"
        return Outcome.REJECTED, Reject.WRONG_RUN, "it answers nothing this run ever asked"
    models = (state.model, *state.lineage) if state.rules.max_staleness else (state.model,)
    if not any(_starts_from(header, model) for model in models):
        return Outcome.REJECTED, Reject.WRONG_RUN, f"it starts from another model than version {state.model.number}"
    if not cohort.has(stage.ticket.nonce, header.device, stage.cohort):
        return Outcome.REJECTED, Reject.NOT_SELECTED, "the device was not drawn for this round"
    if is_stranger(state, stage, header.device):
        return Outcome.REJECTED, Reject.UNKNOWN_DEVICE, UNKNOWN
    counts = stage.received.get(key(stage, header))
    if counts is None and (header.task == "evaluate" or (header.device, header.round) not in state.counted):
        return None
    same = counts is None or counts.digest == header.digest
    return Outcome.DUPLICATE, None if same else Reject.EQUIVOCATION, "an update of this device counts already"


def is_stranger(state: State, stage: Collecting, device: str) -> bool:
    """Whether there is no place for ``device``: as many as there may be are known, or have answered, without it."""
    if state.view.roll is not None and device not in state.view.roll:
        return True
    if device in stage.selected or device in stage.joined or device in stage.declined:
        return False
    return len(stage.joined) + len(stage.declined) >= MAX_DEVICES


def belongs(state: State, header: Header) -> bool:
    """Whether an update is for the open attempt: its answer, or where rounds overlap, one to an earlier round."""
    stage = state.stage
    return isinstance(stage, Collecting) and (answers(header, stage.ticket) or _is_stale(state, stage, header))


def answers(answer: Ticket | Header | Join, ticket: Ticket) -> bool:
    """Whether something answers this very attempt."""
    return (answer.round, answer.task, answer.nonce) == (ticket.round, ticket.task, ticket.nonce)


def was_asked(state: State, answer: Header | Join) -> bool:
    """Whether the run ever asked what this answers."""
    known = state.attempts.get(answer.round, 0)  # more than that at once, where the run went on after it had ended
    attempts = range(max(known, state.attempt + ATTEMPTS))
    tickets = (state.rules.ticket(answer.round, answer.task, attempt) for attempt in attempts)
    return answer.round <= state.round and any(answers(answer, ticket) for ticket in tickets)


def hears(state: State, number: int) -> bool:
    """Whether updates for round ``number`` may still count."""
    return state.round - (state.rules.max_staleness or 0) <= number <= state.round


def key(stage: Collecting, header: Header) -> str:
    """What ``stage.received`` knows an update by: its device, and where it answers an earlier round that too."""
    return header.device if header.round == stage.ticket.round else f"{header.device}@{header.round}"


def staleness(state: State, header: Header) -> int | None:
    """How many versions an update's model is behind; None in synchronous rounds, where every weight is whole."""
    asynchronous = state.rules.max_staleness is not None and header.task == "train"
    return state.model.number - header.model.number if asynchronous else None


def remembering(state: State, collected: Collecting) -> State:
    """The state with what later rounds must know of this one, for the updates that it asked for."""
    limit, first = state.rules.max_staleness, state.window.start
    attempts = {number: count for number, count in state.attempts.items() if number >= first}
    state = replace(state, attempts={**attempts, state.round: state.attempt + 1})
    if limit is None:
        return state
    new = {(header.device, header.round) for header in collected.received.values()}
    counted = frozenset(one for one in state.counted | new if one[1] > state.round - limit)
    return replace(state, lineage=(state.model, *state.lineage)[:limit], counted=counted)


def _starts_from(header: Header, model: Version) -> bool:
    return header.model.number == model.number and model.digest.startswith(header.model.digest)


def _is_stale(state: State, stage: Collecting, header: Header) -> bool:
    return (
        state.rules.max_staleness is not None
        and (stage.ticket.task, header.task) == ("train", "train")
        and state.model.number - header.model.number <= state.rules.max_staleness
        and hears(state, header.round)
        and was_asked(state, header)
    )
