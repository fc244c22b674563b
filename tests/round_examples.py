"""Rounds for tests: rules, fleets and answers with the fewest words, and the state machine with an obedient shell."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from coordinator.events import (
    Committed,
    Conclude,
    Effect,
    Event,
    FleetChanged,
    Header,
    JoinReceived,
    Measured,
    Reopened,
    Reply,
    Tick,
    Ticket,
    UpdateReceived,
    Version,
)
from coordinator.fleet import View
from coordinator.round import SETTLE_S, begin, step
from coordinator.round_state import Collecting, Rules, Selecting, State
from schemas.messages import Join, Metrics, Outcome

START = Version(0, "0" * 64)
METRICS = Metrics(examples=4, loss=0.5, accuracy=0.75, macro_f1=0.5)


def names(count: int) -> list[str]:
    return [f"dev-{number}" for number in range(count)]


def view(trainers: Iterable[str], evaluators: Iterable[str] = (), complaints: dict[str, str] | None = None) -> View:
    trainers, evaluators = frozenset(trainers), frozenset(evaluators)
    return View(trainers | evaluators, trainers, evaluators, complaints or {})


class Run:
    """The machine and all it has asked for, with a shell that does what it is asked at once."""

    def __init__(self, rules: Rules, reopened: Reopened | None = None, *, obedient: bool = True) -> None:
        self.obedient = obedient
        self.effects: list[Effect] = []
        self.state, effects = begin(State(rules, START, 1, Selecting(0.0), 0.0), reopened)
        self._take(effects)

    def do(self, *events: Event) -> list[Effect]:
        """Step through events; what came of them, and of the shell's answers."""
        before = len(self.effects)
        for event in events:
            self.state, effects = step(self.state, event)
            self._take(effects)
        return self.effects[before:]

    def _take(self, effects: tuple[Effect, ...]) -> None:
        self.effects.extend(effects)
        for effect in effects if self.obedient else ():
            if isinstance(effect, Conclude) and effect.ticket.task == "train":
                number = self.state.model.number + 1
                self.do(Committed(Version(number, f"{number:064x}")))
            elif isinstance(effect, Conclude):
                self.do(Measured(METRICS))

    @property
    def open(self) -> Collecting:
        assert isinstance(self.state.stage, Collecting)
        return self.state.stage

    def of(self, kind: type[Effect]) -> list[Effect]:
        return [effect for effect in self.effects if isinstance(effect, kind)]

    def opened(self, devices: Iterable[str], evaluators: Iterable[str] = ()) -> Run:
        """Wait until the round is open to ``devices``."""
        self.do(FleetChanged(view(devices, evaluators)), Tick(self.state.now + SETTLE_S))
        return self

    def join(
        self, device: str, *, accepts: bool = True, reason: str = "", ticket: Ticket | None = None
    ) -> list[Effect]:
        ticket = ticket or self.open.ticket
        join = join_to(ticket, device, accepts=accepts, reason=reason)
        return self.do(JoinReceived(join), Tick(self.state.now))

    def update(self, device: str, **changes: object) -> list[Effect]:
        return self.do(UpdateReceived(self.header(device, **changes)), Tick(self.state.now))

    def header(self, device: str, **changes: object) -> Header:
        if "ticket" in changes:
            ticket = changes.pop("ticket")
            assert isinstance(ticket, Ticket)
        else:
            ticket = self.open.ticket
        return update_of(ticket, device, self.state.model, **changes)


def join_to(ticket: Ticket, device: str, *, accepts: bool = True, reason: str = "") -> Join:
    """The answer of ``device`` to being asked."""
    return Join(
        run="run-1",
        round=ticket.round,
        task=ticket.task,
        nonce=ticket.nonce,
        device=device,
        accepts=accepts,
        reason=reason,
    )


def update_of(ticket: Ticket, device: str, model: Version, /, **changes: object) -> Header:
    """What ``device`` answers, having started from ``model``."""
    header = Header(
        device=device,
        round=ticket.round,
        task=ticket.task,
        nonce=ticket.nonce,
        model=model,
        examples=10,
        train_loss=0.5,
        digest=f"{device}/{ticket.nonce}",
        size=100,
    )
    return dataclasses.replace(header, **changes)  # type: ignore[arg-type]  # a test's changes are right by sight


def rules(**changes: object) -> Rules:
    fields: dict[str, object] = {"run": "run-1", "rounds": 3, "deadline_s": 60.0, "evaluate": False, **changes}
    return Rules(**fields)  # type: ignore[arg-type]  # likewise


def outcomes(effects: Iterable[Effect]) -> list[Outcome]:
    return [effect.outcome for effect in effects if isinstance(effect, Reply)]
