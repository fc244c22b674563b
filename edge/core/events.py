"""What can happen to a device: its events, and what they and its effects are about. No rules here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Self

from edge.core.jobs import Described, Evaluated, Failure, Merged, Personalised, Trained
from schemas.errors import Reject
from schemas.messages import (
    BlobRef,
    Command,
    CoordinatorStatus,
    ModelPointer,
    Receipt,
    RoundAnnouncement,
    RunSettings,
    Task,
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
    """A part of what is fetched has come, not the last: ``size`` bytes that the model or the step takes less from now.

    None of a plan's, nor of a part that comes once more because it was asked for once more.
    """

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
    """The broker has most or all parts of an update, of ``size`` bytes, which has taken it ``seconds``."""

    parcel: Parcel
    size: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Uploading:
    """Since when the link has had updates under way, without a pause; None where it has none, or was just cut."""

    since: float | None


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
    | Uploading
    | StopRequested
)
