"""Every message as a frozen model, valid by construction. No bytes and no topics here: see ``codec`` and ``topics``.

Those in which a device tells of its own ECG are in ``findings``: learning has no part in them.

Numbers carry their unit in their name (``_s`` seconds, ``_c`` degrees Celsius). Fields a newer peer adds are
ignored; fields it leaves out take the defaults below, or make the message malformed where there is none.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, FailFast, Field, StringConstraints, model_validator

MAX_CLASSES = 1000
LARGEST = 1e9  # of a number that nothing else bounds
MAX_PARTS = 100_000
MAX_DEVICES = 10_000
TAG = 16  # digits of a digest that tell models apart

Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]{2,62}$")]
Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Tag = Annotated[str, StringConstraints(pattern=rf"^[0-9a-f]{{{TAG}}}$")]  # how a digest begins
Nonce = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{16}$")]
Text = Annotated[str, StringConstraints(max_length=500)]
Instance = Annotated[str, StringConstraints(pattern=r"^([0-9a-f]{16})?$")]
Word = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9 _.+-]{0,63}$")]
Count = Annotated[int, Field(ge=0, le=2**53)]
Examples = Annotated[int, Field(ge=1, le=2**31)]  # of one update
RoundNumber = Annotated[int, Field(ge=0, le=999_999_999)]
PartIndex = Annotated[int, Field(ge=0, lt=MAX_PARTS)]
Seconds = Annotated[float, Field(ge=0, le=31_536_000)]
Positive = Annotated[float, Field(gt=0, le=LARGEST)]
NonNegative = Annotated[float, Field(ge=0, le=LARGEST)]
Task = Literal["train", "evaluate"]
# [true][predicted], examples. Lists stop at their first fault: a list of nothing but faults would fill the memory.
Confusion = Annotated[
    tuple[Annotated[tuple[Count, ...], Field(max_length=MAX_CLASSES), FailFast()], ...],
    Field(max_length=MAX_CLASSES),
    FailFast(),
]


class Message(BaseModel):
    """The base of all messages: immutable, finite numbers only, unknown fields ignored."""

    model_config = ConfigDict(
        frozen=True,
        extra="ignore",
        allow_inf_nan=False,
        protected_namespaces=(),
        defer_build=True,  # a device never meets half of them, and they take half a megabyte
    )


class BlobRef(Message):
    """A blob too large for one message: what its parts must add up to."""

    digest: Digest  # SHA-256 of the whole blob
    size: Annotated[int, Field(ge=1, le=2**33)]  # bytes
    parts: Annotated[int, Field(ge=1, le=MAX_PARTS)]


class ClassMetrics(Message):
    """One class, beat by beat or window by window, on held-out people."""

    name: Word
    examples: Count
    sensitivity: float | None  # recall; None where the class has no example
    ppv: float | None  # precision; None where the class was never predicted
    f1: float | None


class Metrics(Message):
    """How a global model did on held-out examples, from counts added up over devices."""

    examples: Count
    loss: float
    accuracy: float  # 1 where there is one class, which says nothing
    macro_f1: float | None  # mean F1 over the classes the plan reports, absent ones left out; None of one class
    classes: Annotated[tuple[ClassMetrics, ...], Field(max_length=MAX_CLASSES), FailFast()] = ()
    confusion: Confusion = ()
    synthetic: Count = 0  # of the devices that evaluated it, those whose examples are of made-up people

    @property
    def tells_classes(self) -> bool:
        """Whether there are classes to tell apart; where the plan learns a reconstruction, the loss is all there is."""
        return len(self.confusion) != 1


class Counts(Message):
    """A device's evaluation: numbers that add up exactly over devices."""

    examples: Count
    loss_sum: NonNegative
    confusion: Confusion

    @model_validator(mode="after")
    def _square_and_complete(self) -> Self:
        width = len(self.confusion)
        if any(len(row) != width for row in self.confusion):
            raise ValueError("the confusion matrix must be square")
        if sum(map(sum, self.confusion)) != self.examples:
            raise ValueError("the confusion matrix must add up to the number of examples")
        return self


class CoordinatorState(StrEnum):
    """What the coordinator is doing, as its retained status says."""

    STARTING = "starting"
    RUNNING = "running"
    PAUSED = "paused"  # its disk is full, say; ``detail`` tells, and it goes on by itself
    FINISHED = "finished"
    STOPPED = "stopped"  # by its operator; it will go on where it was
    OFFLINE = "offline"  # its last will


class CoordinatorStatus(Message):
    """Retained on ``coordinator``, and its last will."""

    state: CoordinatorState
    session: Count  # rises at each start; a will of an older session is stale
    instance: Instance = ""  # whose sessions these are: the name of its state directory
    run: Name | None = None
    round: RoundNumber = 0
    rounds: RoundNumber = 0
    phase: str = ""
    model_version: RoundNumber = 0
    software: Text = ""
    heartbeat_s: Seconds = 30.0  # how often this message comes while it serves
    since: Text = ""  # wall clock of its start, ISO 8601, for people; no decision rests on these two
    said: Text = ""  # and of this message
    detail: Text = ""


class TrainSettings(Message):
    """How a device trains in one round."""

    optimizer: Literal["sgd", "adam"] = "sgd"
    learning_rate: Positive = 0.05
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    weight_decay: NonNegative = 0.0
    proximal: NonNegative = 0.0  # mu of FedProx (Li et al. 2020); 0 switches it off
    epochs: Annotated[int, Field(ge=1, le=1000)] = 1
    local_steps: Annotated[int, Field(ge=1, le=1_000_000)] | None = None  # instead of epochs, where given
    batch_size: Annotated[int, Field(ge=1, le=65_536)] = 32
    class_weights: Literal["none", "balanced"] | Annotated[tuple[Positive, ...], Field(max_length=MAX_CLASSES)] = "none"
    max_examples: Annotated[int, Field(ge=1, le=10_000_000)] | None = None  # at most this many a round, drawn by seed


class StrategySettings(Message):
    """How the coordinator turns a round's deltas into the next model."""

    name: Word = "fedavg"
    weighting: Literal["examples", "equal"] = "examples"
    learning_rate: Positive = 1.0  # of the server
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9  # FedAvgM; beta 1 of the adaptive ones
    beta2: Annotated[float, Field(ge=0, lt=1)] = 0.99
    tau: Positive = 1e-3  # adaptivity: larger is closer to plain averaging


class PlanRef(Message):
    """Which training plan a run uses, and the parts it comes in."""

    name: Word
    blob: BlobRef


class RunSettings(Message):
    """Retained on ``run``: all a device must know to take part in any round of the run."""

    run: Name
    rounds: RoundNumber
    plan: PlanRef
    codec: Word = "float32"  # of ``schemas.compression.NAMES``, or "auto": each device chooses
    downlink: Word = "none"  # codec of the steps from version to version; none: every version is fetched whole
    train: TrainSettings = TrainSettings()
    strategy: StrategySettings = StrategySettings()
    evaluate: bool = True
    goal: Annotated[int, Field(ge=1, le=MAX_DEVICES)] | None = None  # updates that close a round; None: all selected
    quorum: Annotated[int, Field(ge=1, le=MAX_DEVICES)] = 1  # updates below which a round is abandoned
    deadline_s: Annotated[float, Field(gt=0, le=31_536_000)] = 600.0
    max_staleness: Annotated[int, Field(ge=1, le=1000)] | None = None  # versions an update may be behind; None: 0
    max_weight: Annotated[int, Field(ge=1, le=2**20)] = 100_000  # examples one device can count for
    part_size: Annotated[int, Field(ge=1024, le=16 * 2**20)] = 120_000  # bytes of payload in a part
    seed: Count = 0


class ModelPointer(Message):
    """Retained on ``model``: the newest global model. Published after its parts, and those of ``step``."""

    run: Name
    version: RoundNumber
    digest: Digest  # of the parameters: ``Parameters.digest``
    previous: Digest | None  # digest of the version before; None for version 0
    blob: BlobRef
    step: BlobRef | None = None  # ``steps.encode``: makes this version of the one before; None where there is none
    metrics: Metrics | None = None


class Phase(StrEnum):
    """The phases of a round; the last two are its ends."""

    SELECTING = "selecting"  # waiting for enough devices
    COLLECTING = "collecting"
    AGGREGATING = "aggregating"
    COMMITTED = "committed"
    ABANDONED = "abandoned"


class RoundAnnouncement(Message):
    """Retained on ``rounds/current``: what devices are asked to do now."""

    run: Name
    round: RoundNumber
    task: Task
    phase: Phase
    attempt: Annotated[int, Field(ge=0, le=1_000_000)] = 0  # of this round and task; an abandoned one is tried again
    nonce: Nonce  # of this attempt; every answer carries it
    model_version: RoundNumber  # to start from, or to evaluate
    model_digest: Digest
    opened: Text  # wall clock, ISO 8601, for people; no decision rests on it
    deadline_s: Seconds  # from the opening to the end, on the coordinator's monotonic clock
    remaining_s: Seconds  # of that, when this message was published
    cohort: Annotated[float, Field(ge=0, le=1)] = 1.0  # a device takes part where cohort.draw(nonce, device) < cohort
    goal: Count
    quorum: Count
    selected: Count = 0  # devices that were asked when the attempt opened, or have joined since
    joined: Count = 0
    received: Count = 0


class RoundSummary(Message):
    """Retained on ``rounds/<n>``: how round n ended."""

    run: Name
    round: RoundNumber
    outcome: Literal["committed", "abandoned"]
    reason: Text = ""
    model_version: RoundNumber  # after the round
    devices: Annotated[tuple[Name, ...], Field(max_length=MAX_DEVICES), FailFast()] = ()  # in the model
    synthetic: Count = 0  # of these devices, those whose examples are of made-up people
    examples: Count = 0
    train_loss: float | None = None  # mean over examples of the devices' last epoch
    declined: dict[Name, Text] = Field(default_factory=dict)
    rejected: dict[str, Count] = Field(default_factory=dict)  # reason -> messages
    seconds: Seconds = 0.0
    uplink_bytes: Count = 0
    metrics: Metrics | None = None


class Join(Message):
    """A device's answer to a round's announcement."""

    run: Name
    round: RoundNumber
    task: Task
    nonce: Nonce
    device: Name
    accepts: bool
    reason: Text = ""  # why it declines
    examples: Count = 0


class Outcome(StrEnum):
    """What became of what a device sent."""

    ACCEPTED = "accepted"
    DUPLICATE = "duplicate"  # had already been accepted; just as final
    LATE = "late"  # the round had closed
    REJECTED = "rejected"
    INCOMPLETE = "incomplete"  # parts are missing: send those again
    NOTED = "noted"  # a join that declined, or one that isn't selected


class Receipt(Message):
    """The coordinator's answer to a join or an update. All but ``incomplete`` are final for that round and task."""

    run: Name
    round: RoundNumber
    task: Task
    nonce: Nonce
    device: Name
    outcome: Outcome
    reason: Text = ""
    missing: Annotated[tuple[PartIndex, ...], Field(max_length=1000), FailFast()] = ()  # parts to send again
    come_back_after_s: Seconds = 0.0


class Health(Message):
    """What an owner wants to know of a failing Pi; None where the device can't tell."""

    temperature_c: float | None = None
    throttled: bool | None = None
    memory_available_mb: float | None = None
    disk_free_mb: float | None = None
    load: float | None = None
    uptime_s: float | None = None
    agent_peak_mb: float | None = None  # most memory the device's program has had since it started
    trainer_peak_mb: float | None = None  # and its trainer process, up to its newest answer
    recording: Text | None = None  # how its recorder gets on, where it has one


class DeviceState(StrEnum):
    """What a device is doing, as its retained status says."""

    STARTING = "starting"
    IDLE = "idle"
    FETCHING = "fetching"
    TRAINING = "training"
    EVALUATING = "evaluating"
    SENDING = "sending"
    PAUSED = "paused"
    TROUBLE = "trouble"  # alive, can't take part; ``detail`` says why
    STOPPED = "stopped"  # by its owner
    OFFLINE = "offline"  # its last will


class DeviceStatus(Message):
    """Retained on ``devices/<device>``, and its last will; republished as a heartbeat."""

    device: Name
    session: Count  # rises at each start
    state: DeviceState
    examples: Count = 0  # to train on
    held_out: Count = 0  # to evaluate on
    synthetic: bool | None = None  # whether those are of made-up people; None, as most leave it out, where they aren't
    model_version: RoundNumber | None = None
    last_round: RoundNumber | None = None  # whose update was accepted
    software: Text = ""
    health: Health | None = None
    heartbeat_s: Seconds = 30.0  # how often this message comes
    progress: Annotated[float, Field(ge=0, le=1)] | None = None  # of the training in hand that is done
    codec: Word | None = None  # that it chose for its newest update, where the run leaves it to devices
    budget_left: Annotated[float, Field(ge=0, le=1)] | None = None  # of the bytes its owner lets it move within a day
    detail: Text = ""


class Command(Message):
    """What the operator asks of one device."""

    command: Literal["pause", "resume", "evict", "query"]
    reason: Text = ""


class Part(Message):
    """One part of a blob."""

    blob: BlobRef
    index: PartIndex
    payload: bytes


class Update(Message):
    """What a device sends for a round: a compressed delta for ``train``, counts for ``evaluate``."""

    model_config = ConfigDict(arbitrary_types_allowed=True)  # memoryview: a delta can be as large as the model

    round: RoundNumber
    task: Task
    nonce: Nonce  # of the announcement, which names a run as well
    device: Name
    model_version: RoundNumber
    model_tag: Tag
    examples: Examples
    payload: bytes | memoryview = b""  # ``compression.encode`` of the delta; empty for ``evaluate``
    train_loss: float | None = None
    counts: Counts | None = None

    @model_validator(mode="after")
    def _fits_its_task(self) -> Self:
        if self.task == "train" and not self.payload:
            raise ValueError("a train update carries a delta")
        if self.task == "evaluate" and (self.counts is None or self.payload):
            raise ValueError("an evaluate update carries counts and nothing else")
        return self
