"""The round's vocabulary: what can happen to it (events) and what it wants done (effects). No rules here."""

from __future__ import annotations

from dataclasses import dataclass

from coordinator.fleet import View
from coordinator.observers import Observation
from schemas.errors import Reject
from schemas.messages import DeviceStatus, Join, Metrics, Outcome, Phase, RoundSummary, Task


@dataclass(frozen=True, slots=True)
class Version:
    """A global model: its number and the digest of its parameters."""

    number: int
    digest: str


@dataclass(frozen=True, slots=True)
class Ticket:
    """One attempt at one task of one round; every answer carries its nonce."""

    round: int
    task: Task
    attempt: int
    nonce: str


@dataclass(frozen=True, slots=True)
class Header:
    """All of an update but its content, which stays with the shell under ``digest``."""

    device: str
    round: int
    task: Task
    nonce: str
    model: Version  # that it starts from; of its digest the tag alone
    examples: int
    train_loss: float | None
    digest: str  # of the update's bytes
    size: int  # of the update's bytes


# -- events ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Tick:
    """It is now ``now``, in monotonic seconds. Comes before and after every batch of other events."""

    now: float


@dataclass(frozen=True, slots=True)
class FleetChanged:
    """Somebody came, went, or can do something else than before."""

    view: View


@dataclass(frozen=True, slots=True)
class StatusReceived:
    """A device's status, for the fleet to judge; the round hears of it as ``FleetChanged``."""

    status: DeviceStatus


@dataclass(frozen=True, slots=True)
class StatusCleared:
    """Somebody removed a device's retained status."""

    device: str


@dataclass(frozen=True, slots=True)
class JoinReceived:
    """A device answered an announcement."""

    join: Join


@dataclass(frozen=True, slots=True)
class UpdateReceived:
    """An update arrived: all of it and valid, or where ``admission.refusal`` is against it, perhaps only its start."""

    header: Header


@dataclass(frozen=True, slots=True)
class UpdateRestored:
    """The journal holds this update of the open attempt: it was accepted before a restart, and still is."""

    header: Header


@dataclass(frozen=True, slots=True)
class UpdateSeen:
    """A device sent part of an update that was accepted before: it has missed the receipt."""

    header: Header


@dataclass(frozen=True, slots=True)
class UpdateStalled:
    """An update has been waiting for its ``missing`` parts; ``header`` where it answers another attempt than this."""

    device: str
    missing: tuple[int, ...]
    header: Header | None = None


@dataclass(frozen=True, slots=True)
class Rejected:
    """Bytes that change nothing. ``round`` is given where they were meant as an update, ``header`` if it was read."""

    reason: Reject
    detail: str
    topic: str
    device: str | None = None
    round: int | None = None
    header: Header | None = None


@dataclass(frozen=True, slots=True)
class Committed:
    """The shell did what ``Conclude`` of a train task asks; the model is on disk as ``version``."""

    version: Version


@dataclass(frozen=True, slots=True)
class Measured:
    """The shell did what ``Conclude`` of an evaluate task asks."""

    metrics: Metrics


@dataclass(frozen=True, slots=True)
class Failed:
    """What the open attempt has accepted can't be made into a result, and never could be: ``reason`` says why."""

    reason: str


@dataclass(frozen=True, slots=True)
class StopRequested:
    """The operator wants to stop here and go on another time."""


Event = (
    Tick
    | FleetChanged
    | JoinReceived
    | UpdateReceived
    | UpdateRestored
    | UpdateSeen
    | UpdateStalled
    | Rejected
    | Committed
    | Measured
    | Failed
    | StopRequested
)

# -- effects -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Announce:
    """Publish the round as it stands. Times are monotonic; the shell gives people the wall clock's."""

    ticket: Ticket
    phase: Phase
    model: Version
    opened_at: float
    deadline_s: float
    cohort: float
    goal: int
    quorum: int
    selected: int = 0
    joined: int = 0
    received: int = 0


@dataclass(frozen=True, slots=True)
class Open:
    """Start an empty accumulator and journal the attempt; comes before its announcement."""

    announcement: Announce


@dataclass(frozen=True, slots=True)
class Reopened:
    """The attempt that was open before a restart: its cohort bound, and how long it had been open, as marked.

    ``asked``: how many devices it may wait for, likewise.
    """

    cohort: float
    elapsed_s: float = 0.0
    asked: int = 0


@dataclass(frozen=True, slots=True)
class Mark:
    """Journal for how long the attempt has been open, so that a restart goes on with the same deadline.

    ``asked``: how many devices it may wait for.
    """

    ticket: Ticket
    elapsed_s: float
    asked: int


@dataclass(frozen=True, slots=True)
class Keep:
    """Put the update on disk; before any other effect of its batch, and before the broker's ack."""

    header: Header


@dataclass(frozen=True, slots=True)
class Fold:
    """Fold the update into the round's accumulator, then forget its content.

    ``staleness`` is in versions, None where rounds don't overlap.
    """

    header: Header
    staleness: int | None = None


@dataclass(frozen=True, slots=True)
class Reply:
    """Publish a receipt."""

    device: str
    round: int
    task: Task
    nonce: str
    outcome: Outcome
    reason: str = ""
    missing: tuple[int, ...] = ()
    come_back_after_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Conclude:
    """Make the result of what was folded, commit and publish it; answer ``Committed`` or ``Measured``, or ``Failed``.

    The summary's ``model_version`` is the new version's already; metrics are for the shell to add.
    """

    ticket: Ticket
    summary: RoundSummary


@dataclass(frozen=True, slots=True)
class Abandon:
    """Forget the accumulator of ``ticket``; its updates, by their digests, count for nothing."""

    ticket: Ticket
    summary: RoundSummary
    updates: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Summarise:
    """Publish how a round ended, or the same with metrics."""

    summary: RoundSummary


@dataclass(frozen=True, slots=True)
class Finish:
    """End the run: done, stopped, or failed with the text of a ``FederationError``."""

    stopped: bool = False
    error: str | None = None


Effect = Announce | Open | Mark | Keep | Fold | Reply | Conclude | Abandon | Summarise | Finish | Observation
