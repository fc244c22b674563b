"""The part of ``participation`` that knows whether the broker and a coordinator are there. Pure.

* A coordinator is there while its status says so, paused included, and something of it was heard within ``PATIENCE``
  of its heartbeats. Else a device takes up nothing and holds its updates; at the first sign of life it goes on as after
  a reconnect. While there is no broker, that time stands still.
* A status or will of a session before the newest seen is stale. But where one of a lower session serves and goes on to
  speak, and the newest does not for ``PATIENCE`` of its heartbeats, or for a minute where it said that it ends, that
  was somebody else's, or of another time: sessions have an end, and above a forged one at that end nobody could speak.
* Whoever may have missed what we said hears it again: a new session, and one that is back, after we have heard it. A
  broker that has lost its sessions drops what comes before.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Final

from edge.core import attempt, delivery
from edge.core import effects as fx
from edge.core import events as ev
from edge.core.effects import Effect
from edge.core.participation_state import PATIENCE, SERVING, Another, State, Step
from edge.core.presence import STATUS_S
from schemas.messages import CoordinatorStatus

UNHEARD_S: Final = 60.0  # for which the newest session says nothing, at least,
LONGEST_S: Final = 1500.0  # and at most, before a device follows one of a lower session that does

SIGNS_OF_LIFE: Final = (ev.RunSeen, ev.ModelSeen, ev.RoundSeen, ev.ReceiptSeen)  # and its status, which tells more


def connected(state: State) -> State:
    """The broker is there; the time without it was no silence of the coordinator's."""
    away_s = 0.0 if state.connected else state.now - state.lost_at
    heard_at = min(state.now, state.heard_at + away_s)
    state = replace(state, connected=True, heard=False, heard_at=heard_at, shown=None, part_at=state.now)
    return _accompanied(state)


def disconnected(state: State) -> State:
    """The broker is gone."""
    lost_at = state.now if state.connected else state.lost_at
    return replace(state, connected=False, lost_at=lost_at, shown=None, another=None)


def heard(state: State) -> Step:
    """A sign of life of the coordinator's. After a reconnect we wait for its status with what it may have missed."""
    back = state.silent and state.heard
    state = replace(state, heard_at=state.now)
    return _introduce(state) if back else (state, ())


def coordinator_seen(state: State, seen: CoordinatorStatus) -> Step:
    """A coordinator's status, or its will."""
    known, effects = state.coordinator, tuple[Effect, ...]()
    if known is not None and seen.session < known.session:
        if seen.state not in SERVING:
            return state, ()  # its will or farewell, as such come late
        if not _follows(state, known, seen):
            return _beside(state, seen), ()
        text = f"the coordinator of session {known.session} says nothing more: following the one of {seen.session}"
        effects = (fx.Say(text, logging.WARNING),)
    if known is not None and seen.heartbeat_s < known.heartbeat_s:  # it has something at stake again, and counts us
        state = replace(state, shown=None)
    same = state.heard and state.served and known is not None and known.session == seen.session
    state = _accompanied(replace(state, coordinator=seen, another=None, heard=True, heard_at=state.now))
    state, more = (state, ()) if same or not state.served else _introduce(state)
    return state, (*effects, *more)


def wake_at(state: State) -> tuple[float, ...]:
    """When a coordinator that says no more will have been silent for too long."""
    return (state.silence_at,) if state.connected and state.silence_at is not None and not state.silent else ()


def _accompanied(state: State) -> State:
    """The announcement is none any more that no status has come after."""
    announced = state.announced
    return state if announced is None else replace(state, announced=replace(announced, alone=False))


def _beside(state: State, seen: CoordinatorStatus) -> State:
    """Note that one of a lower session serves."""
    another = state.another
    if another is not None and _who(another.status) == _who(seen):
        return state
    return replace(state, another=Another(seen, state.now))


def _follows(state: State, known: CoordinatorStatus, seen: CoordinatorStatus) -> bool:
    """Whether ``seen`` is the word of one that has gone on to speak since ``known`` fell silent.

    The same status twice is none: a broker may repeat what it retains.
    """
    another = state.another
    if another is None or _who(another.status) != _who(seen) or another.status == seen:
        return False
    wait_s = min(PATIENCE * known.heartbeat_s, LONGEST_S) if known.state in SERVING else 0.0
    return state.now >= another.since + max(wait_s, UNHEARD_S)


def _who(status: CoordinatorStatus) -> tuple[int, str]:
    return status.session, status.instance


def _introduce(state: State) -> Step:
    """Somebody may have missed what we said: how we are, the join again, and a part of every update."""
    state = delivery.say_again(state)
    if state.now > state.shown_at + STATUS_S:
        state = replace(state, shown=None)
    work = state.work
    if work is None or not state.served:
        return state, ()
    work = replace(work, noted=False)  # its word on a decline comes once more: to go back on that before would cross it
    return replace(state, work=work), attempt.join(state, work)
