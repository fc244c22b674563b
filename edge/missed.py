"""What a device does about messages that a broker threw away, as it may when a queue is full. Pure.

Nothing says that one is missing: both ends were told that it was sent. But announcements name the model they start
from, and a coordinator's status the round and the model it is at, so that a device sees that it has missed the pointer
to that model, the run's settings, or an announcement. All are retained: whoever subscribes again hears them again.

Likewise a device that was told of a round or of a model beyond those that the coordinator goes on to speak of was told
by somebody else, or by a coordinator whose disk was set back since. It lets go of them then, of a model only where it
has not got it, and takes what it hears again: else one forged message would keep it out of the run for ever.

An announcement comes behind the pointer that it needs. A status is not held up by what is being published, which may
be a large model on a slow link, so that what it alone tells of has longer to come.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from edge import effects as fx
from edge.participation_state import Behind, State, Step
from schemas.messages import CoordinatorStatus, ModelPointer, Phase, RunSettings

PATIENCE_S: Final = 10.0  # with what an announcement names
LONGER_S: Final = 60.0  # with what a status tells of
LONGEST_S: Final = 600.0  # between two times that it asks; each is twice as long as the one before


def ask_again(state: State) -> Step:
    """Subscribe again where something is missing for too long."""
    missing = _missing(state) if state.connected and state.served and state.listening else None
    if missing is None:
        return (state if state.behind is None else replace(state, behind=None)), ()
    what, patience_s = missing
    behind = state.behind
    if behind is None or behind.what != what:
        return replace(state, behind=Behind(what, state.now, patience_s)), ()
    if state.now < behind.ask_at:
        return state, ()
    if behind.patience_s >= LONGER_S and _ahead(state):
        state = _let_go(state)
    text = (
        f"{what} hasn't come in {behind.patience_s:g} s: subscribing again, in case the broker has lost it on the way"
    )
    later = Behind(what, state.now, min(2 * behind.patience_s, LONGEST_S))
    return replace(state, behind=later), (fx.Listen(True), fx.Say(text))


def wake_at(state: State) -> tuple[float, ...]:
    """When it is to ask, or to ask again."""
    return () if state.behind is None else (state.behind.ask_at,)


def _missing(state: State) -> tuple[str, float] | None:
    """What has been spoken of and is not here, and how long it has to come; None where nothing is known to be."""
    status, run = state.coordinator, state.run
    if status is not None and status.run is not None and (run is None or run.run != status.run):
        return f"the run {status.run}", LONGER_S
    found = None if status is None or run is None else _missing_of(state, status, run)
    if found is None and (ahead := _ahead(state)):
        return f"the coordinator's word of {ahead}", LONGER_S
    return found


def _missing_of(state: State, status: CoordinatorStatus, run: RunSettings) -> tuple[str, float] | None:
    """The same of a run whose settings are here."""
    message = state.announced.message if state.announced is not None else None
    if message is not None and message.run != run.run:
        message = None
    here = state.pointer.version if state.pointer is not None and state.is_current(state.pointer) else -1
    if message is not None and here < message.model_version:
        return f"the pointer to model {message.model_version}", PATIENCE_S
    if here < status.model_version:
        return f"the pointer to model {status.model_version}", LONGER_S
    if status.phase == Phase.COLLECTING and (message is None or message.round < status.round):
        return f"the announcement of round {status.round}", LONGER_S
    return None


def _ahead(state: State) -> str:
    """What we were told of that the coordinator's status does not reach; empty where there is nothing such."""
    announced, pointer, status = state.announced, state.pointer, state.coordinator
    if status is None or state.run is None or status.run != state.run.run:
        return ""
    if announced is not None and announced.message.run == status.run and announced.message.round > status.round:
        return f"round {announced.message.round}"
    if pointer is not None and _is_out_of_reach(state, pointer, status):
        return f"model {pointer.version}"
    return ""


def _let_go(state: State) -> State:
    """Any announcement may follow the one there is, and any pointer one that is out of reach."""
    announced, pointer, status = state.announced, state.pointer, state.coordinator
    if announced is not None and status is not None and announced.message.round > status.round:
        announced = replace(announced, session=None)
    if pointer is not None and status is not None and _is_out_of_reach(state, pointer, status):
        pointer = None
    return replace(state, announced=announced, pointer=pointer)


def _is_out_of_reach(state: State, pointer: ModelPointer, status: CoordinatorStatus) -> bool:
    """Whether a model is not here, and the coordinator does not speak of it."""
    held = state.model is not None and state.model.digest == pointer.digest
    return pointer.run == status.run and pointer.version > status.model_version and not held
