"""A device's vocabulary: what can happen to it (events) and what it wants done (effects). No rules here."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Final, Literal, Self

from edge.budget import Budget
from edge.jobs import Described, Evaluated, Failure, Merged, Personalised, Trained
from edge.pace import Pace
from edge.personal_settings import Origin, PersonalSettings
from schemas.errors import Reject
from schemas.messages import (
    BlobRef,
    Command,
    CoordinatorStatus,
    DeviceStatus,
    ModelPointer,
    Receipt,
    RoundAnnouncement,
    RunSettings,
    Task,
    TrainSettings,
    Update,
)

BlobKind = Literal["plan", "model", "step"]


@dataclass(frozen=True, slots=True)
class Ticket:
    """One attempt at one task of one round; ``nonce`` is the attempt's own."""

    run: str
    round: int
    task: Task
    nonce: str

    @classmethod
    def of(cls, message: RoundAnnouncement | Receipt) -> Self:
        """The one a message is about."""
        return cls(message.run, message.round, message.task, message.nonce)


@dataclass(frozen=True, slots=True)
class Parcel:
    """An update on disk: what it answers, and the blob whose parts are sent until a final receipt comes."""

    ticket: Ticket
    ref: BlobRef


# -- events ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Tick:
    """It is now ``now``, in monotonic seconds. Comes before every batch of other events."""

    now: float


@dataclass(frozen=True, slots=True)
class Connected:
    """The broker took us, with every subscription."""


@dataclass(frozen=True, slots=True)
class Disconnected:
    """The broker is gone."""


@dataclass(frozen=True, slots=True)
class CoordinatorSeen:
    """The coordinator's status, or its last will."""

    status: CoordinatorStatus


@dataclass(frozen=True, slots=True)
class RunSeen:
    """The run there is now."""

    run: RunSettings


@dataclass(frozen=True, slots=True)
class ModelSeen:
    """The newest global model there is; its parts are there to be fetched."""

    pointer: ModelPointer


@dataclass(frozen=True, slots=True)
class RoundSeen:
    """What the coordinator asks for."""

    announcement: RoundAnnouncement


@dataclass(frozen=True, slots=True)
class ReceiptSeen:
    """What became of a join or an update of ours."""

    receipt: Receipt


@dataclass(frozen=True, slots=True)
class CommandSeen:
    """What the operator asks for."""

    command: Command


@dataclass(frozen=True, slots=True)
class PlanReady:
    """The plan with this digest is on disk; ``recipe`` is how it wants the data prepared."""

    digest: str
    recipe: str


@dataclass(frozen=True, slots=True)
class ModelReady:
    """The model ``pointer`` names is on disk."""

    pointer: ModelPointer


@dataclass(frozen=True, slots=True)
class StepReady:
    """The step to the model ``pointer`` names is on disk, beside the model and the steps it leads on from."""

    pointer: ModelPointer


@dataclass(frozen=True, slots=True)
class PartArriving:
    """A part of the model or step that is fetched has come, and it was not the last; ``size`` bytes of it."""

    size: int


@dataclass(frozen=True, slots=True)
class MergeKept:
    """The model of ``KeepMerged`` is on disk."""

    pointer: ModelPointer


@dataclass(frozen=True, slots=True)
class MergeFailed:
    """The disk did not take it."""

    reason: str


@dataclass(frozen=True, slots=True)
class FetchFailed:
    """A blob could not be had. ``lasting``: asking again at once won't help; its owner should know.

    ``rejected`` is given where what came was at fault, so that the shell counts it.
    """

    kind: BlobKind
    digest: str
    reason: str
    lasting: bool = False
    rejected: Reject | None = None


@dataclass(frozen=True, slots=True)
class JobDone:
    """The trainer has a result; its key says of which job."""

    result: Described | Trained | Evaluated | Personalised | Merged


@dataclass(frozen=True, slots=True)
class JobFailed:
    """The trainer has none."""

    failure: Failure


@dataclass(frozen=True, slots=True)
class HoldingLost:
    """A job can't begin: the plan or the model on disk is damaged, and has been set aside."""

    key: str
    plan: bool
    model: bool


@dataclass(frozen=True, slots=True)
class JobProgressed:
    """The trainer is so far with the training of this key; ``checkpoint`` is what to go on from, empty for none."""

    key: str
    fraction: float  # of its batches that are done
    checkpoint: bytes = b""


@dataclass(frozen=True, slots=True)
class DataSeen:
    """The files of the recordings look so: another ``footprint`` than before where they have changed."""

    footprint: str


@dataclass(frozen=True, slots=True)
class UpdateStored:
    """The update is on disk, and will survive a power cut."""

    parcel: Parcel


@dataclass(frozen=True, slots=True)
class StoreFailed:
    """The update could not be put on disk."""

    ticket: Ticket
    reason: str


@dataclass(frozen=True, slots=True)
class UpdateLost:
    """The update's bytes are on disk no more, or damaged: it can't be sent again."""

    ticket: Ticket


@dataclass(frozen=True, slots=True)
class Moved:
    """So many bytes of payload were published and received since the last one."""

    count: int


@dataclass(frozen=True, slots=True)
class Uploaded:
    """The broker has all parts of an update, of ``size`` bytes, ``seconds`` after they were given to the link."""

    size: int
    seconds: float


@dataclass(frozen=True, slots=True)
class StopRequested:
    """The owner wants this device to stop."""


Event = (
    Tick
    | Connected
    | Disconnected
    | CoordinatorSeen
    | RunSeen
    | ModelSeen
    | RoundSeen
    | ReceiptSeen
    | CommandSeen
    | PlanReady
    | ModelReady
    | StepReady
    | PartArriving
    | MergeKept
    | MergeFailed
    | FetchFailed
    | JobDone
    | JobFailed
    | HoldingLost
    | JobProgressed
    | DataSeen
    | UpdateStored
    | StoreFailed
    | UpdateLost
    | Moved
    | Uploaded
    | StopRequested
)

# -- effects -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class FetchPlan:
    """Get the plan, from disk or from the broker; answer ``PlanReady`` or ``FetchFailed``."""

    ref: BlobRef


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
    """Fit the model on disk to the device's owner, on from the personal one on disk where that was made likewise."""

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
    """Remember over restarts how long training takes."""

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
    | StoreUpdate
    | SendParts
    | Forget
    | PublishStatus
    | TellWork
    | Say
)
