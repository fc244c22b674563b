"""The part of ``participation`` that knows whether the broker and a coordinator are there. Pure.

* A coordinator is there while its status says so, paused included, and something of it was heard within ``PATIENCE``
  of its heartbeats. Else a device takes up nothing and holds its updates; at the first sign of life it goes on as after
  a reconnect. While there is no broker, that time stands still.
* A status or will of a session before the newest seen is stale.
* Whoever may have missed what we said hears it again: a new session, and one that is back, after we have heard it. A
  broker that has lost its sessions drops what comes before.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from edge import attempt, delivery
from edge import events as ev
from edge.participation_state import State, Step
from edge.presence import STATUS_S
from schemas.messages import CoordinatorStatus

SIGNS_OF_LIFE: Final = (ev.RunSeen, ev.ModelSeen, ev.RoundSeen, ev.ReceiptSeen)  # and its status, which tells more


def connected(state: State) -> State:
    """The broker is there; the time without it was no silence of the coordinator's."""
    away_s = 0.0 if state.connected else state.now - state.lost_at
    heard_at = min(state.now, state.heard_at + away_s)
    return replace(state, connected=True, heard=False, heard_at=heard_at, shown=None, part_at=state.now)


def disconnected(state: State) -> State:
    """The broker is gone."""
    lost_at = state.now if state.connected else state.lost_at
    return replace(state, connected=False, lost_at=lost_at, shown=None)


def heard(state: State) -> Step:
    """A sign of life of the coordinator's. After a reconnect we wait for its status with what it may have missed."""
    back = state.silent and state.heard
    state = replace(state, heard_at=state.now)
    return _introduce(state) if back else (state, ())


def coordinator_seen(state: State, seen: CoordinatorStatus) -> Step:
    """A coordinator's status, or its will."""
    known = state.coordinator
    if known is not None and seen.session < known.session:
        return state, ()
    if known is not None and seen.heartbeat_s < known.heartbeat_s:  # it has something at stake again, and counts us
        state = replace(state, shown=None)
    same = state.heard and state.served and known is not None and known.session == seen.session
    state = replace(state, coordinator=seen, heard=True, heard_at=state.now)
    return (state, ()) if same or not state.served else _introduce(state)


def wake_at(state: State) -> tuple[float, ...]:
    """When a coordinator that says no more will have been silent for too long."""
    return (state.silence_at,) if state.connected and state.silence_at is not None and not state.silent else ()


def _introduce(state: State) -> Step:
    """Somebody may have missed what we said: how we are, the join again, and a part of every update."""
    state = delivery.say_again(state)
    if state.now > state.shown_at + STATUS_S:
        state = replace(state, shown=None)
    if state.work is None or not state.served:
        return state, ()
    return state, attempt.join(state, state.work)
