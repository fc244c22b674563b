"""What a device wants done: its effects, as ``participation`` asks for them. No rules here."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Final

from edge.core.budget import Budget
from edge.core.events import BlobKind, Parcel, Ticket
from edge.core.pace import Pace
from edge.core.personal_settings import Origin, PersonalSettings
from schemas.messages import (
    BlobRef,
    DeviceStatus,
    ModelPointer,
    TrainSettings,
    Update,
)
from schemas.topics import Kind

FOLLOWED: Final = (Kind.COORDINATOR, Kind.RUN, Kind.MODEL, Kind.ROUND)  # what the coordinator tells all devices


@dataclass(frozen=True, slots=True)
class FetchPlan:
    """Get the plan of ``run``, from disk or from the broker; answer ``PlanReady`` or ``FetchFailed``."""

    ref: BlobRef
    run: str


@dataclass(frozen=True, slots=True)
class FetchModel:
    """Get the model, from the broker, and keep it instead of the one there is.

    ``PartArriving`` with each part, and at last ``ModelReady`` or ``FetchFailed``.
    """

    pointer: ModelPointer


@dataclass(frozen=True, slots=True)
class FetchStep:
    """Get the step to a model, and keep it beside the model it leads on from.

    ``PartArriving`` with each part, and at last ``StepReady`` or ``FetchFailed``.
    """

    pointer: ModelPointer


@dataclass(frozen=True, slots=True)
class DropModel:
    """Take the model and its steps from the disk."""


@dataclass(frozen=True, slots=True)
class StartMerging:
    """Have one model made of the one on disk and its steps."""

    key: str
    plan: str  # digest of the blob
    model: str  # digest of the parameters it must lead to


@dataclass(frozen=True, slots=True)
class KeepMerged:
    """Put ``model``, a snapshot of ``pointer``'s version, in place of the one on disk and the steps up to it.

    ``MergeKept`` or ``MergeFailed``.
    """

    pointer: ModelPointer
    model: bytes


@dataclass(frozen=True, slots=True)
class FetchAgain:
    """Ask once more for the parts of a fetch that were asked for and have not come."""

    kind: BlobKind


@dataclass(frozen=True, slots=True)
class StopFetching:
    """Forget a fetch that was not answered yet."""

    kind: BlobKind


@dataclass(frozen=True, slots=True)
class SendJoin:
    """Publish a join: ``reason`` is why we decline, empty where we accept."""

    ticket: Ticket
    accepts: bool
    reason: str
    examples: int


@dataclass(frozen=True, slots=True)
class LookAtData:
    """Look at the files of the recordings, without opening any; answer ``DataSeen``."""


@dataclass(frozen=True, slots=True)
class StartDescribing:
    """Have the data prepared and counted; ``JobDone`` or ``JobFailed`` with ``key`` follows, as for every job."""

    key: str
    recipe: str


@dataclass(frozen=True, slots=True)
class StartTraining:
    """Train from the model on disk, with the plan on disk, on from the checkpoint on disk where it is of this key."""

    key: str
    plan: str  # digest of the blob
    model: str  # digest of the parameters
    settings: TrainSettings
    codec: str
    seed: int
    ticket: Ticket  # whose update is to carry what earlier ones left out


@dataclass(frozen=True, slots=True)
class StartEvaluation:
    """Evaluate the model on disk, with the plan on disk."""

    key: str
    plan: str  # digest of the blob
    model: str  # digest of the parameters


@dataclass(frozen=True, slots=True)
class StartPersonalising:
    """Fit the model on disk to the device's owner."""

    key: str
    plan: str  # digest of the blob
    model: str  # digest of the parameters
    settings: TrainSettings  # of the run
    how: PersonalSettings
    seed: int


@dataclass(frozen=True, slots=True)
class KeepPersonal:
    """Put the model the device is to use on disk, instead of the one there is. It never leaves the device."""

    origin: Origin
    model: bytes


@dataclass(frozen=True, slots=True)
class WarmUp:
    """Training is expected soon: the trainer may get ready for it."""


@dataclass(frozen=True, slots=True)
class CancelJob:
    """The job's result is not wanted any more; none may come, or a late one."""

    key: str


@dataclass(frozen=True, slots=True)
class SuspendJob:
    """End a training and keep where it was, as ``KeepCheckpoint`` does."""

    key: str
    plan: str  # digest of the blob
    model: str  # digest of the parameters it started from


@dataclass(frozen=True, slots=True)
class KeepCheckpoint:
    """Put a checkpoint on disk instead of the one there is; if that fails, nothing is lost but time."""

    key: str
    plan: str  # digest of the blob
    model: str  # digest of the parameters it started from
    fraction: float
    checkpoint: bytes


@dataclass(frozen=True, slots=True)
class DropCheckpoint:
    """Nothing will go on from the checkpoint on disk."""


@dataclass(frozen=True, slots=True)
class KeepPace:
    """Remember over restarts how long training and uploads take."""

    pace: Pace


@dataclass(frozen=True, slots=True)
class KeepAge:
    """Remember over restarts how long this device has been running, by which updates in the outbox age."""


@dataclass(frozen=True, slots=True)
class KeepBudget:
    """Remember over restarts what was moved, the device having been running for ``running_s``."""

    budget: Budget
    running_s: float


@dataclass(frozen=True, slots=True)
class Listen:
    """Subscribe to what the coordinator tells all devices, or unsubscribe from it."""

    on: bool
    kinds: tuple[Kind, ...] = FOLLOWED


@dataclass(frozen=True, slots=True)
class KeepSpeed:
    """Remember over restarts how fast the link is."""

    speed: float  # bytes a second, up


@dataclass(frozen=True, slots=True)
class StoreUpdate:
    """Put the update on disk, cut into parts of ``part_size`` bytes; answer ``UpdateStored`` or ``StoreFailed``."""

    ticket: Ticket
    update: Update
    part_size: int
    plan: str  # digest of the blob
    residual: bytes = b""  # what the update leaves out, to be kept with it


@dataclass(frozen=True, slots=True)
class SendParts:
    """Publish parts of an update on disk; all of them where ``indices`` is None."""

    parcel: Parcel
    indices: tuple[int, ...] | None = None


EVICTED: Final = "evicted"  # the outcome of an update that the operator had us drop
LOST: Final = "lost"  # of one whose bytes the disk has lost: it may have counted, and is not made again
SUPERSEDED: Final = "superseded"  # of one whose attempt was abandoned: it counts nowhere


@dataclass(frozen=True, slots=True)
class Forget:
    """The update is settled: keep of it only that, and ``outcome``, so that a restart doesn't train again."""

    ticket: Ticket
    outcome: str


@dataclass(frozen=True, slots=True)
class PublishStatus:
    """Publish the status; the shell adds the health of the machine."""

    status: DeviceStatus


@dataclass(frozen=True, slots=True)
class TellWork:
    """Tell the owner what the trainer has done, and what memory it took; the shell adds the agent's own."""

    text: str
    trainer_peak_mb: float | None


@dataclass(frozen=True, slots=True)
class Say:
    """Tell the owner, in the log."""

    text: str
    level: int = logging.INFO


Effect = (
    FetchPlan
    | FetchModel
    | FetchStep
    | DropModel
    | StartMerging
    | KeepMerged
    | FetchAgain
    | StopFetching
    | SendJoin
    | LookAtData
    | StartDescribing
    | StartTraining
    | StartEvaluation
    | StartPersonalising
    | KeepPersonal
    | WarmUp
    | CancelJob
    | SuspendJob
    | KeepCheckpoint
    | DropCheckpoint
    | KeepPace
    | KeepAge
    | KeepBudget
    | KeepSpeed
    | Listen
    | StoreUpdate
    | SendParts
    | Forget
    | PublishStatus
    | TellWork
    | Say
)
