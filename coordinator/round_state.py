"""What a run's rounds are at one instant: frozen values, and no rules. See ``round`` for those."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, TypeVar

from immutables import Map

from coordinator.events import Effect, Header, Ticket, Version
from coordinator.fleet import View
from schemas.messages import RoundSummary, RunSettings, Task

ATTEMPTS: Final = 3  # failed ones in a row end a run, where as many deadlines have passed meanwhile
RECALL_S: Final = 60.0  # as long as a Pi takes to boot: a power cut may have stopped everybody
WINDOW: Final = 8  # rounds before this one, or as many as updates may be behind, whose attempts are remembered


@dataclass(frozen=True, slots=True)
class Rules:
    """What of a run's settings decides about its rounds."""

    run: str
    rounds: int
    deadline_s: float
    quorum: int = 1
    goal: int | None = None
    evaluate: bool = True
    seed: int = 0
    max_staleness: int | None = None  # versions an update may be behind; None: rounds don't overlap

    @classmethod
    def of(cls, settings: RunSettings) -> Rules:
        """The rules of a run."""
        return cls(
            run=settings.run,
            rounds=settings.rounds,
            deadline_s=settings.deadline_s,
            quorum=settings.quorum,
            goal=settings.goal,
            evaluate=settings.evaluate,
            seed=settings.seed,
            max_staleness=settings.max_staleness,
        )

    def evaluates(self, number: int) -> bool:
        """Whether the version that round ``number`` makes is to be evaluated: all, or the last where rounds overlap."""
        return self.evaluate and (self.max_staleness is None or number >= self.rounds)

    def ticket(self, number: int, task: Task, attempt: int) -> Ticket:
        """One attempt and its nonce, which anybody with the run's settings can compute again."""
        text = f"{self.seed}/{self.run}/{number}/{task}/{attempt}"
        return Ticket(number, task, attempt, hashlib.sha256(text.encode()).hexdigest()[:16])


Roster = Map[str, None]  # devices
V = TypeVar("V")


def roster(devices: Iterable[str]) -> Roster:
    """These devices."""
    return Map((device, None) for device in devices)


def without(devices: Map[str, V], device: str) -> Map[str, V]:
    """All but ``device``, if it is there."""
    return devices.delete(device) if device in devices else devices


@dataclass(frozen=True, slots=True)
class Selecting:
    """Waiting for devices."""

    since: float


@dataclass(frozen=True, slots=True)
class Collecting:
    """Waiting for updates. ``declined`` is by device, ``received`` by ``admission.key``; they never share one.

    ``awaited`` are those who were selected or joined, and have neither answered nor declined. After a restart nobody
    knows any more who was selected: ``asked`` is how many, and how many there are with who has joined since.
    """

    ticket: Ticket
    opened_at: float
    cohort: float
    goal: int | None
    quorum: int
    selected: frozenset[str]
    asked: int
    joined: Roster = field(default_factory=Map)
    declined: Map[str, str] = field(default_factory=Map)
    received: Map[str, Header] = field(default_factory=Map)
    awaited: Roster = field(default_factory=Map)
    newcomers: int = 0  # of ``joined``, who were not selected: counted as they come, since a fleet is long to walk
    gathers_until: float = -math.inf  # till then, after a restart, those who come back are selected; first of all inf
    told: tuple[int, int] = (0, 0)  # joined and received, as announced
    told_at: float = 0.0
    marked_at: float = 0.0  # when the time it has been open was last put on disk
    marked: int = 0  # and ``asked``, as it was then

    @property
    def involved(self) -> int:
        """How many were asked, or were selected or have joined since, where those are more."""
        return max(self.asked, len(self.selected) + self.newcomers)

    def is_newcomer(self, device: str) -> bool:
        """Whether it would be one more who joins without having been selected."""
        return device not in self.selected and device not in self.joined

    @property
    def news(self) -> tuple[int, int]:
        """What there is to tell: how many joined, and how many updates were received."""
        return len(self.joined), len(self.received)

    @property
    def silent(self) -> list[str]:
        """Who was selected and has not even joined."""
        return [name for name in self.awaited if name not in self.joined]

    @property
    def full(self) -> bool:
        """Whether the goal is reached."""
        return self.goal is not None and len(self.received) >= self.goal

    @property
    def answered_by_all(self) -> bool:
        """Whether as many have answered or declined as were asked, where that is known."""
        if not 0 < self.asked <= len(self.received) + len(self.declined):
            return False
        return self.asked <= len({header.device for header in self.received.values()}) + len(self.declined)


@dataclass(frozen=True, slots=True)
class Aggregating:
    """Waiting for the shell to make the result of what was collected."""

    collected: Collecting


@dataclass(frozen=True, slots=True)
class Resting:
    """Between an abandoned attempt and the next."""

    until: float


@dataclass(frozen=True, slots=True)
class Over:
    """Nothing happens any more."""


Stage = Selecting | Collecting | Aggregating | Resting | Over


@dataclass(frozen=True, slots=True)
class State:
    """A run at one instant. ``attempt`` is of this round and task; times are monotonic seconds."""

    rules: Rules
    model: Version
    round: int
    stage: Stage
    now: float
    task: Task = "train"
    attempt: int = 0
    failures: int = 0  # attempts abandoned in a row
    failing_since: float = 0.0  # when the first of them began
    view: View = field(default_factory=View)
    newcomer_at: float = -math.inf
    left_at: float = -math.inf  # when one that could train was last found gone, without a word
    met_anyone: bool = False
    said: Mapping[str, str] = field(default_factory=dict)  # why devices didn't take part since the last commit
    rejected: Mapping[str, int] = field(default_factory=dict)  # messages by reason, of this round
    summary: RoundSummary | None = None  # of this round's new version, until its evaluation
    lineage: tuple[Version, ...] = ()  # the versions before this one that updates may start from, newest first
    counted: frozenset[tuple[str, int]] = frozenset()  # devices and rounds whose training is in those versions
    attempts: Mapping[int, int] = field(default_factory=dict)  # how many at training, by round, of the last few
    resting: Map[str, float] = field(default_factory=Map)  # who was told to, with an update rejected, and until when

    @property
    def window(self) -> range:
        """The rounds before this one that late answers may come to."""
        return range(max(1, self.round - max(WINDOW, self.rules.max_staleness or 0)), self.round)

    @property
    def eligible(self) -> frozenset[str]:
        """Devices that could do the task now."""
        return self.trainers if self.task == "train" else self.view.evaluators

    @property
    def trainers(self) -> frozenset[str]:
        """Devices that could train now. Who rests isn't counted on: a device does, and a liar would only lie again."""
        return self.view.trainers.difference(self.still_resting) if self.resting else self.view.trainers

    @property
    def still_resting(self) -> dict[str, float]:
        """Those of ``resting`` whose time is not over."""
        return {device: until for device, until in self.resting.items() if self.now < until}

    @property
    def ticket(self) -> Ticket:
        """Of the attempt that is open, or comes next."""
        return self.rules.ticket(self.round, self.task, self.attempt)

    @property
    def goal(self) -> int | None:
        """Updates that close the task; an evaluation waits for all it asked."""
        return self.rules.goal if self.task == "train" else None

    @property
    def quorum(self) -> int:
        """Updates without which the task fails; any evaluation is better than none."""
        return self.rules.quorum if self.task == "train" else 1

    def gives_up_at(self, since: float) -> float:
        """When a quorum that isn't there, waited for ``since`` then, is not any more: never as one is about to be back.

        So neither one device that rests costs an attempt in which nobody could have been asked, nor a broker's restart
        just before the end, or a device's.
        """
        end, lacking = since + self.selecting_s, self.quorum - len(self.eligible)
        if self.task != "train":
            return end
        end = max(end, min(self.left_at, end) + RECALL_S)
        if not self.resting:
            return end
        back = sorted(until for device, until in self.still_resting.items() if device in self.view.trainers)
        return max(end, back[lacking - 1]) if 0 < lacking <= len(back) else end

    @property
    def selecting_s(self) -> float:
        """For how long a quorum is waited for: a model that is made isn't held up by who could measure it."""
        return self.rules.deadline_s if self.task == "train" else min(RECALL_S, self.rules.deadline_s)


Step = tuple[State, tuple[Effect, ...]]


def expired(before: State, after: State) -> Collecting | None:
    """The attempt that ended at its deadline as ``before`` became ``after``; None where none did."""
    stage = before.stage
    if not isinstance(stage, Collecting) or after.now < stage.opened_at + before.rules.deadline_s:
        return None
    goes_on = isinstance(after.stage, Collecting) and after.stage.ticket == stage.ticket
    return None if goes_on else stage
