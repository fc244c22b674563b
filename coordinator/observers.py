"""What can be watched while a federation runs: frozen events for a live table, a plain log or JSON lines.

The service calls its observer on its own thread, one event at a time; an observer must be quick and must not raise.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Protocol

from schemas.messages import Metrics, RoundSummary, Task


@dataclass(frozen=True, slots=True)
class Started:
    """The service is up; ``version`` is the model it goes on from and ``next_round`` what it does first."""

    run: str
    plan: str
    rounds: int
    next_round: int
    version: int
    resumed: bool


@dataclass(frozen=True, slots=True)
class Connected:
    """The broker took us."""


@dataclass(frozen=True, slots=True)
class Disconnected:
    """The broker is gone; the link tries again after ``retry_in_s``, or not at all where that is None."""

    reason: str
    retry_in_s: float | None


@dataclass(frozen=True, slots=True)
class RivalDoubted:
    """Another coordinator may serve the federation; it is given ``wait_s`` to show a sign of life."""

    run: str | None
    session: int
    wait_s: float


@dataclass(frozen=True, slots=True)
class RivalReplaced:
    """It has shown none, and we go on in its place."""

    run: str | None
    session: int


@dataclass(frozen=True, slots=True)
class Overwritten:
    """Somebody else had published on a retained topic of ours: we have done so again."""

    topic: str


@dataclass(frozen=True, slots=True)
class Paused:
    """The disk takes no more, for a reason that says which and what to do; the round's clock stands still."""

    reason: str


@dataclass(frozen=True, slots=True)
class Resumed:
    """It takes more again, and the round goes on where it stood."""


@dataclass(frozen=True, slots=True)
class FleetSeen:
    """How many devices are ready, can train and can evaluate has changed."""

    ready: int
    trainers: int
    evaluators: int


@dataclass(frozen=True, slots=True)
class DeviceTroubled:
    """A device is there and can't take part in anything, for a reason that as many ``others`` have begun to give."""

    device: str
    reason: str
    others: int = 0


@dataclass(frozen=True, slots=True)
class Selecting:
    """A round waits for devices until ``deadline_s`` from now."""

    round: int
    attempt: int
    quorum: int
    deadline_s: float


@dataclass(frozen=True, slots=True)
class RoundOpened:
    """Devices are asked for a task; ``goal`` updates close it, or all selected ones' answers where that is None."""

    round: int
    task: Task
    attempt: int
    selected: int
    goal: int | None
    quorum: int
    deadline_s: float


@dataclass(frozen=True, slots=True)
class DeviceJoined:
    """A device takes part."""

    round: int
    task: Task
    device: str
    joined: int


@dataclass(frozen=True, slots=True)
class DeviceDeclined:
    """A device doesn't take part, and says why."""

    round: int
    task: Task
    device: str
    reason: str


@dataclass(frozen=True, slots=True)
class UpdateAccepted:
    """A device's update counts; ``size`` is in bytes on the wire, ``received`` counts this one."""

    round: int
    task: Task
    device: str
    examples: int
    train_loss: float | None
    size: int
    received: int
    staleness: int = 0  # versions its model was behind


@dataclass(frozen=True, slots=True)
class MessageRejected:
    """Something that arrived changed nothing; ``device`` is None where the topic names none."""

    reason: str
    detail: str
    topic: str
    device: str | None


@dataclass(frozen=True, slots=True)
class RoundClosed:
    """A round was committed or an attempt abandoned."""

    summary: RoundSummary


@dataclass(frozen=True, slots=True)
class ModelEvaluated:
    """How a version did on devices' held-out examples."""

    round: int
    version: int
    devices: int
    metrics: Metrics


@dataclass(frozen=True, slots=True)
class EvaluationFailed:
    """No device evaluated the round's version; the round stands without metrics."""

    round: int
    reason: str


@dataclass(frozen=True, slots=True)
class DataMadeUp:
    """The first devices whose examples are of made-up people have come: no figure of theirs is about patients."""

    device: str
    others: int = 0


@dataclass(frozen=True, slots=True)
class LabelsByRule:
    """The run's labels are a rule's: its figures say how like the rule a model is, nothing of how right."""


@dataclass(frozen=True, slots=True)
class OwnModelsAwaited:
    """All rounds are done, and the virtual devices make models of their own of the last global one."""


@dataclass(frozen=True, slots=True)
class Withheld:
    """So many of one ``kind`` (``name_of``) were kept from a log, since somebody causes them without end."""

    kind: str
    count: int


@dataclass(frozen=True, slots=True)
class Finished:
    """The service is about to end: all rounds done, stopped by its operator, or for ``error``."""

    version: int
    stopped: bool
    error: str | None


Observation = (
    Started
    | Connected
    | Disconnected
    | RivalDoubted
    | RivalReplaced
    | Paused
    | Resumed
    | FleetSeen
    | DeviceTroubled
    | Selecting
    | RoundOpened
    | DeviceJoined
    | DeviceDeclined
    | UpdateAccepted
    | MessageRejected
    | RoundClosed
    | ModelEvaluated
    | EvaluationFailed
    | Overwritten
    | DataMadeUp
    | LabelsByRule
    | OwnModelsAwaited
    | Withheld
    | Finished
)


def name_of(kind: type[Observation]) -> str:
    """What a kind of observation is called in JSON."""
    return _snake(kind.__name__)


@functools.cache
def _snake(name: str) -> str:
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name).lstrip("_")


class Observer(Protocol):
    """Whoever wants to know."""

    def __call__(self, event: Observation, /) -> None:
        """Take one event."""


def ignore(event: Observation, /) -> None:
    """Watch nothing."""
