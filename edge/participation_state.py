"""What a device remembers between two events. Frozen; no rules here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from edge.events import Parcel, Ticket
from schemas.messages import (
    BlobRef,
    CoordinatorState,
    CoordinatorStatus,
    DeviceStatus,
    ModelPointer,
    RoundAnnouncement,
    RunSettings,
)

_SERVING: Final = frozenset({CoordinatorState.STARTING, CoordinatorState.RUNNING})


@dataclass(frozen=True, slots=True)
class Identity:
    """Who the device is; the same for as long as it runs."""

    device: str
    session: int  # rises at each start
    heartbeat_s: float = 30.0
    software: str = ""


@dataclass(frozen=True, slots=True)
class Plan:
    """The plan on disk."""

    digest: str  # of the blob
    recipe: str  # how it wants the data prepared


@dataclass(frozen=True, slots=True)
class Describing:
    """The trainer is counting what there is; ``trouble`` is why it could not the last time."""

    recipe: str
    trouble: str = ""


@dataclass(frozen=True, slots=True)
class Stock:
    """What there is, prepared by ``recipe``."""

    recipe: str
    examples: int
    held_out: int


@dataclass(frozen=True, slots=True)
class Unusable:
    """Why the data can't be used by ``recipe``; looked at again at ``retry_at``."""

    recipe: str
    reason: str
    retry_at: float


@dataclass(frozen=True, slots=True)
class Trouble:
    """The disk does not take what must be kept; tried again at ``until``."""

    reason: str
    until: float


@dataclass(frozen=True, slots=True)
class Work:
    """The attempt in hand. ``declined`` carries the reason; ``silent`` has nothing to say."""

    ticket: Ticket
    model_version: int
    model_digest: str
    stage: Literal["waiting", "running", "storing", "declined", "silent"]
    reason: str = ""
    crashes: int = 0


@dataclass(frozen=True, slots=True)
class Pending:
    """An update without a final receipt. ``sent``: whether its parts have ever been handed to the link."""

    parcel: Parcel
    sent: bool
    resend_at: float
    patience_s: float


@dataclass(frozen=True, slots=True)
class Announced:
    """The newest announcement, until when it stands on our clock, and which coordinator session it came in."""

    message: RoundAnnouncement
    until: float
    session: int | None

    @staticmethod
    def rank(message: RoundAnnouncement) -> tuple[int, bool, int]:
        """Announcements of a run come in this order."""
        return message.round, message.task == "evaluate", message.attempt


@dataclass(frozen=True, slots=True)
class State:
    """All of it. ``begin`` in ``participation`` makes the first one."""

    identity: Identity
    now: float = 0.0
    connected: bool = False
    stopped: bool = False
    paused: str | None = None  # not None: by the operator, who gave this reason
    coordinator: CoordinatorStatus | None = None
    heard: bool = False  # it, since we are connected
    run: RunSettings | None = None
    pointer: ModelPointer | None = None  # the newest offered
    announced: Announced | None = None
    model: ModelPointer | None = None  # the one on disk
    plan: Plan | None = None
    unfit: tuple[str, str] | None = None  # digest of a plan that doesn't fit our data, and why
    fetching_plan: BlobRef | None = None
    fetching_model: ModelPointer | None = None
    fetch_at: float = 0.0  # not before this
    data: Describing | Stock | Unusable | None = None
    trouble: Trouble | None = None
    work: Work | None = None
    outbox: tuple[Pending, ...] = ()
    settled: tuple[Ticket, ...] = ()  # the newest tickets with a final answer, oldest first
    last_round: int | None = None  # whose update was accepted
    shown: DeviceStatus | None = None  # since we are connected
    shown_at: float = 0.0

    @property
    def served(self) -> bool:
        """Whether a coordinator is there, as far as we know."""
        return self.coordinator is not None and self.coordinator.state in _SERVING

    @property
    def holds_plan(self) -> bool:
        """Whether the run's plan is here."""
        return self.run is not None and self.plan is not None and self.plan.digest == self.run.plan.blob.digest

    @property
    def wants_plan(self) -> bool:
        """Whether the run's plan is neither here nor on its way."""
        return self.run is not None and not self.holds_plan and self.fetching_plan != self.run.plan.blob

    @property
    def wants_model(self) -> bool:
        """Whether the newest model of the run is neither here nor on its way."""
        if self.pointer is None or not self.is_current(self.pointer):
            return False
        wanted = _identity(self.pointer)
        return all(known is None or _identity(known) != wanted for known in (self.model, self.fetching_model))

    def is_current(self, thing: Ticket | ModelPointer) -> bool:
        """Whether it belongs to the run there is now."""
        return self.run is not None and self.run.run == thing.run

    def key(self, ticket: Ticket) -> str:
        """What the trainer knows the job for ``ticket`` by."""
        return "/".join((self.identity.device, ticket.run, str(ticket.round), ticket.task, ticket.nonce))

    def data_key(self, recipe: str) -> str:
        """What the trainer knows the counting of our data by."""
        return f"{self.identity.device}/data/{recipe}"


def _identity(pointer: ModelPointer) -> tuple[str, int, str]:
    return pointer.run, pointer.version, pointer.digest
