"""What a device remembers between two events. Frozen; no rules here."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Final, Literal

from edge.core.budget import Budget
from edge.core.effects import Effect
from edge.core.events import Parcel, Ticket
from edge.core.lineage import MOST
from edge.core.pace import Pace
from edge.core.personal_settings import PersonalSettings
from schemas.messages import (
    BlobRef,
    CoordinatorState,
    CoordinatorStatus,
    DeviceStatus,
    ModelPointer,
    RoundAnnouncement,
    RunSettings,
    Task,
)

PATIENCE: Final = 2.5  # heartbeats a coordinator may be silent
SHORTEST_HEARTBEAT_S: Final = 1.0  # that is believed
OUTBOX_S: Final = 7 * 86_400.0  # for which an update waits, while the device runs

SERVING: Final = frozenset({CoordinatorState.STARTING, CoordinatorState.RUNNING, CoordinatorState.PAUSED})


@dataclass(frozen=True, slots=True)
class Identity:
    """Who the device is; the same for as long as it runs."""

    device: str
    session: int  # rises at each start
    heartbeat_s: float = 30.0
    software: str = ""
    outbox_s: float = OUTBOX_S  # how long an update waits for its receipt
    idle_heartbeat_s: float = 0.0  # instead of a shorter ``heartbeat_s`` while no coordinator has work
    personal: PersonalSettings | None = None  # how its owner's own model is made; None: there is none
    synthetic: bool = False  # whether its examples are of made-up people


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
    crashes: int = 0  # of the trainer over it, one after the other


@dataclass(frozen=True, slots=True)
class Stock:
    """What there is, prepared by ``recipe``."""

    recipe: str
    examples: int
    held_out: int
    recount: bool = False  # the trainer is counting it again, since its files have changed


@dataclass(frozen=True, slots=True)
class Unusable:
    """Why the data can't be used by ``recipe``; looked at again at ``retry_at``."""

    recipe: str
    reason: str
    retry_at: float
    crashes: int = 0


@dataclass(frozen=True, slots=True)
class Trouble:
    """The disk does not take what must be kept; tried again at ``until``."""

    reason: str
    until: float


@dataclass(frozen=True, slots=True)
class Work:
    """The attempt in hand. ``declined`` carries the reason; ``silent`` has nothing to say.

    ``passing``: it is so for trouble, such as a full disk, which may pass while the attempt is open; ``noted``: the
    coordinator has heard that it is declined.
    """

    ticket: Ticket
    model_version: int
    model_digest: str
    stage: Literal["waiting", "running", "storing", "declined", "silent"]
    reason: str = ""
    since: float = 0.0  # when it was taken up
    crashes: int = 0
    heard: bool = False  # whether the trainer has said how far it is since it last began
    began: float | None = None  # fraction of the training that was done when the trainer took it up; None until it says
    done: float = 0.0  # fraction that is done now
    done_at: float = 0.0  # when the trainer said so
    passing: bool = False
    noted: bool = False


@dataclass(frozen=True, slots=True)
class Pending:
    """An update without a final receipt. ``sent``: whether its parts have ever been handed to the link."""

    parcel: Parcel
    sent: bool
    resend_at: float
    patience_s: float
    expires_at: float = math.inf
    held: bool = False  # whether it is due and waits for the budget
    hurried: str = ""  # nonce of the attempt for which it has gone, or goes, once more before that ends


@dataclass(frozen=True, slots=True)
class Announced:
    """The newest announcement, until when it stands on our clock, and which coordinator session it came in."""

    message: RoundAnnouncement
    until: float
    session: int | None
    belied: bool = False  # whether one that comes before it was heard after it, as if this one had never been
    alone: bool = False  # whether it was heard while we are connected, and no status of a coordinator's since

    @staticmethod
    def rank(message: RoundAnnouncement) -> tuple[int, bool, int]:
        """Announcements of a run come in this order."""
        return message.round, message.task == "evaluate", message.attempt


@dataclass(frozen=True, slots=True)
class Another:
    """A coordinator that serves under a lower session than the newest, which has been silent since then."""

    status: CoordinatorStatus  # its first since then
    since: float


@dataclass(frozen=True, slots=True)
class Rest:
    """The coordinator has no use for us until then: for a task of a round, or for any training where there is none."""

    until: float
    seconds: float  # that it was to be, when it was told
    task: tuple[str, int, Task] | None  # run, round, task


@dataclass(frozen=True, slots=True)
class Behind:
    """What the coordinator has spoken of and has not come, since when, and how long to wait before asking for it."""

    what: str  # is fetched and lacks parts, or is here while there is more of its kind
    since: float
    patience_s: float
    first_s: float = 0.0  # what that was at first

    @property
    def ask_at(self) -> float:
        """When to ask."""
        return self.since + self.patience_s


@dataclass(frozen=True, slots=True)
class Kept:
    """The checkpoint on disk: of which job, and how far it is."""

    key: str
    fraction: float


@dataclass(frozen=True, slots=True)
class Fitting:
    """A global model that is fitted to the owner, by which plan and data."""

    pointer: ModelPointer
    plan: str  # digest of the blob
    data: str  # footprint of the files


@dataclass(frozen=True, slots=True)
class State:
    """All of it. ``begin`` in ``participation`` makes the first one."""

    identity: Identity
    now: float = 0.0
    ticked: bool = False  # before the first tick all times count from it
    connected: bool = False
    lost_at: float = 0.0  # when the broker went, where it is gone
    stopped: bool = False
    paused: str | None = None  # not None: by the operator, who gave this reason
    coordinator: CoordinatorStatus | None = None
    another: Another | None = None  # beside that, since we are connected
    heard: bool = False  # it, since we are connected
    heard_at: float = 0.0  # anything of it, not counting the time without a broker
    run: RunSettings | None = None
    pointer: ModelPointer | None = None  # the newest offered
    announced: Announced | None = None
    model: ModelPointer | None = None  # the newest on disk, whole or by steps
    plan: Plan | None = None
    unfit: tuple[str, str] | None = None  # digest of a plan that doesn't fit our data, and why
    fetching_plan: BlobRef | None = None
    fetching_model: ModelPointer | None = None
    by_step: bool = False  # whether that comes as a step from ``model``
    part_at: float = 0.0  # when it was begun, or a part of it came last, or the broker
    coming: int = 0  # bytes of it that have not come
    stepless: str | None = None  # digest of a model that has to be fetched whole
    steps: tuple[int, ...] = ()  # bytes of the steps on disk that lead from the snapshot there to ``model``
    merging: ModelPointer | None = None  # the version of which the trainer is making one model
    merge_at: float = 0.0  # not before this
    unmerged: tuple[str, int] = (
        "",
        0,
    )  # digest of the plan by which merging failed, and how often, one after the other
    fetch_at: float = 0.0  # not before this
    data: Describing | Stock | Unusable | None = None
    footprint: str = ""  # of its files, as they were when they were last looked at
    look_at: float = 0.0  # when they are looked at again
    trouble: Trouble | None = None
    work: Work | None = None
    kept: Kept | None = None
    personal_of: tuple[str, str] | None = None  # digest of the global model and footprint that a personal one is of
    fitting: Fitting | None = None  # what the trainer is making one of
    fit_at: float = 0.0  # not before this
    fit_crashes: int = 0  # of the trainer over it, one after the other
    pace: Pace = field(default_factory=Pace)
    rest: Rest | None = None
    outbox: tuple[Pending, ...] = ()
    settled: tuple[Ticket, ...] = ()  # the newest tickets with a final answer, oldest first
    last_round: int | None = None  # whose update was accepted
    shown: DeviceStatus | None = None  # since we are connected
    shown_at: float = 0.0
    aged_at: float = 0.0  # when our age was last put on disk
    since: float = 0.0  # the first tick
    ran_s: float = 0.0  # for how long the device had been running before, over all its starts
    budget: Budget | None = None  # of the owner; None where what is moved doesn't matter
    unkept: int = 0  # bytes moved since the budget was last put on disk
    budget_at: float = 0.0  # when that was
    listening: bool = True  # to what the coordinator tells all devices (``hearing``)
    behind: Behind | None = None  # what it says (``missed``); None where nothing is known to be missing
    partless: tuple[Behind | None, Behind | None] = (None, None)  # digests of a plan and a model with parts to come
    uploading_since: float | None = None  # one after the other; None where the link has no update under way
    speed: float | None = None  # of uploads, in bytes a second; None until one was seen
    weighed: tuple[str, str, int] | None = None  # digest of the plan, codec and bytes of the newest update
    chosen: str | None = None  # the codec of the newest training, where the run leaves it to devices

    @property
    def running_s(self) -> float:
        """For how long the device has been running, over all its starts."""
        return self.ran_s + self.now - self.since

    @property
    def served(self) -> bool:
        """Whether a coordinator is there, as far as we know: by its own word, and because we hear of it."""
        return self.silence_at is not None and not self.silent

    @property
    def silent(self) -> bool:
        """Whether a coordinator that says it is there has not been heard of for too long."""
        at = self.silence_at
        return at is not None and (self.now if self.connected else self.lost_at) >= at

    @property
    def heartbeat_s(self) -> float:
        """How often we say how we are: seldom where there is nobody who would miss us, nor work to tell of.

        A coordinator that says so seldom how it is has nothing at stake.
        """
        often_s, seldom_s = self.identity.heartbeat_s, max(self.identity.heartbeat_s, self.identity.idle_heartbeat_s)
        if self.work is not None and self.work.stage in {"running", "storing"}:
            return often_s
        if self.coordinator is None or not self.served or not self.listening:
            return seldom_s
        return min(max(often_s, self.coordinator.heartbeat_s), seldom_s)

    @property
    def silence_at(self) -> float | None:
        """When a coordinator that says it is there will have been silent for too long; None where none is there."""
        if self.coordinator is None or self.coordinator.state not in SERVING:
            return None
        return self.heard_at + self.patience_s

    @property
    def patience_s(self) -> float:
        """For how long a coordinator may be silent."""
        heartbeat_s = self.coordinator.heartbeat_s if self.coordinator else 0.0
        return PATIENCE * max(heartbeat_s, SHORTEST_HEARTBEAT_S)

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
        here = any(known is not None and _identity(known) == wanted for known in (self.model, self.fetching_model))
        return not here and not self.comes_first(self.pointer)

    def leads_on(self, pointer: ModelPointer) -> bool:
        """Whether the step to a model leads on from the one on disk, and is the shorter way."""
        if self.model is None or pointer.step is None or self.stepless == pointer.digest:
            return False
        room = len(self.steps) < MOST and sum(self.steps) + pointer.step.size <= pointer.blob.size
        return room and _follows(pointer, self.model)

    def comes_first(self, pointer: ModelPointer) -> bool:
        """Whether what is on its way is the whole model from which the step to this one leads on."""
        return self.fetching_model is not None and not self.by_step and _follows(pointer, self.fetching_model)

    def download(self, pointer: ModelPointer) -> int:
        """Bytes of the way to a model."""
        return pointer.step.size if pointer.step is not None and self.leads_on(pointer) else pointer.blob.size

    @property
    def to_fetch(self) -> int:
        """Bytes that the newest model takes beside what is here and on its way."""
        pointer = self.pointer
        if pointer is None:
            return 0
        if pointer.step is not None and self.comes_first(pointer):
            return pointer.step.size
        return self.download(pointer) if self.wants_model else 0

    def is_current(self, thing: Ticket | ModelPointer) -> bool:
        """Whether it belongs to the run there is now."""
        return self.run is not None and self.run.run == thing.run

    def key(self, ticket: Ticket) -> str:
        """What the trainer knows the job for ``ticket`` by."""
        return "/".join((self.identity.device, ticket.run, str(ticket.round), ticket.task, ticket.nonce))

    def merge_key(self, pointer: ModelPointer) -> str:
        """What the trainer knows the merging of this version's steps by; another run has a model of that number too."""
        return f"{self.identity.device}/model/{pointer.run}/{pointer.version}"

    def fit_key(self, fitting: Fitting) -> str:
        """What the trainer knows the fitting of this version to our owner by."""
        return f"{self.identity.device}/personal/{fitting.pointer.run}/{fitting.pointer.version}"

    def data_key(self, recipe: str) -> str:
        """What the trainer knows the counting of our data by."""
        return f"{self.identity.device}/data/{recipe}"


Step = tuple[State, tuple[Effect, ...]]  # what an event or a rule makes of a state, and what it wants done


def _follows(pointer: ModelPointer, model: ModelPointer) -> bool:
    """Whether ``pointer`` has a step from ``model`` that is smaller than itself."""
    if pointer.step is None or pointer.step.size >= pointer.blob.size or pointer.run != model.run:
        return False
    return (model.version + 1, model.digest) == (pointer.version, pointer.previous)


def _identity(pointer: ModelPointer) -> tuple[str, int, str]:
    return pointer.run, pointer.version, pointer.digest
