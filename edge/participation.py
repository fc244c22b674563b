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
  ``RESEND_S``, then after twice as long each time, and at once after a reconnect and for a new coordinator session,
  which hears the join again too. Updates of another run wait for that run; the oldest beyond ``OUTBOX`` are dropped.
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
from typing import Final, assert_never

from edge.events import (
    CancelJob,
    CommandSeen,
    Connected,
    CoordinatorSeen,
    Disconnected,
    Effect,
    Event,
    FetchFailed,
    FetchModel,
    FetchPlan,
    Forget,
    JobDone,
    JobFailed,
    ModelReady,
    ModelSeen,
    Parcel,
    PlanReady,
    PublishStatus,
    ReceiptSeen,
    RoundSeen,
    RunSeen,
    Say,
    SendJoin,
    SendParts,
    StartDescribing,
    StartEvaluation,
    StartTraining,
    StopFetching,
    StopRequested,
    StoreFailed,
    StoreUpdate,
    Tick,
    Ticket,
    UpdateStored,
)
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
from schemas import cohort
from schemas.messages import (
    Command,
    CoordinatorState,
    DeviceState,
    DeviceStatus,
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
MAX_TEXT: Final = 500  # characters, as messages.Text allows

_PRESENT: Final = frozenset({CoordinatorState.STARTING, CoordinatorState.RUNNING})
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
    return state, effects if state.stopped else (*effects, *(done := _settle(state))[1])
