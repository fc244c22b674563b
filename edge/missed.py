"""What a device does about messages that a broker threw away, as it may when a queue is full. Pure.

Nothing says that one is missing: both ends were told that it was sent. But announcements name the model they start
from, and a coordinator's status the round and the model it is at, so that a device sees that it has missed the pointer
to that model, the run's settings, or an announcement. All are retained: whoever subscribes again hears them again.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Final

from edge import effects as fx
from edge.participation_state import Behind, State, Step
from schemas.messages import Phase

PATIENCE_S: Final = 10.0  # in which what follows from one message to another is on its way
LONGEST_S: Final = 600.0  # between two times that it asks; each is twice as long as the one before


def ask_again(state: State) -> Step:
    """Subscribe again where something is missing for too long."""
    what = _missing(state) if state.connected and state.served and state.listening else ""
    if not what:
        return (state if state.behind is None else replace(state, behind=None)), ()
    if state.behind is None:
        return replace(state, behind=Behind(state.now + PATIENCE_S, PATIENCE_S)), ()
    if state.now < state.behind.ask_at:
        return state, ()
    patience_s = min(2 * state.behind.patience_s, LONGEST_S)
    text = f"{what} hasn't come, maybe since the broker's queue was full: subscribing again"
    behind = Behind(state.now + patience_s, patience_s)
    return replace(state, behind=behind), (fx.Listen(True), fx.Say(text, logging.WARNING))


def wake_at(state: State) -> tuple[float, ...]:
    """When it is to ask, or to ask again."""
    return () if state.behind is None else (state.behind.ask_at,)


def _missing(state: State) -> str:
    """What has been spoken of and is not here; empty where nothing is known to be."""
    status, announced, run = state.coordinator, state.announced, state.run
    if status is None:
        return ""
    if status.run is not None and (run is None or run.run != status.run):
        return f"the run {status.run}"
    if run is None:
        return ""
    message = announced.message if announced is not None and announced.message.run == run.run else None
    version = max(status.model_version, message.model_version if message is not None else 0)
    pointer = state.pointer if state.pointer is not None and state.is_current(state.pointer) else None
    if pointer is None or pointer.version < version:
        return f"the pointer to model {version}"
    if status.phase == Phase.COLLECTING and (message is None or message.round < status.round):
        return f"the announcement of round {status.round}"
    return ""
