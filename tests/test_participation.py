from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from edge import events as ev
from edge import participation, presence
from edge.events import Effect, Event, Parcel, Ticket
from edge.jobs import Failure
from edge.participation_state import Identity, State
from schemas import cohort, parts
from schemas.messages import Command, CoordinatorState, DeviceState, DeviceStatus, Outcome, Phase, Task
from tests.edge_scripts import (
    DEVICE,
    PLAN_REF,
    RUN,
    announcement,
    coordinator,
    described,
    digest,
    evaluated,
    nonce,
    pointer,
    receipt,
    run,
    trained,
)

IDENTITY = Identity(DEVICE, session=5, heartbeat_s=30.0)


@dataclass
class Bench:
    """A device on the bench: every effect is kept, and the shell's answers are given by hand or by ``obey``."""

    state: State = field(default_factory=lambda: participation.begin(IDENTITY))
    effects: list[Effect] = field(default_factory=list)

    def __call__(self, *events: Event) -> list[Effect]:
        fresh: list[Effect] = []
        for event in events:
            self.state, effects = participation.step(self.state, event)
            fresh.extend(effects)
        self.effects.extend(fresh)
        return fresh

    def at(self, now: float) -> list[Effect]:
        return self(ev.Tick(now))

    def settle(self, examples: int = 100, held_out: int = 0) -> Bench:
        """Connected, with a run, its plan, its newest model, and data looked at."""
        self(ev.Tick(1.0), ev.Connected(), ev.CoordinatorSeen(coordinator()), ev.RunSeen(run()))
        self(ev.PlanReady(PLAN_REF.digest, "watch"), ev.JobDone(described(f"{DEVICE}/data/watch", examples, held_out)))
        self(ev.ModelSeen(pointer(0)), ev.ModelReady(pointer(0)))
        return self

    def train(self, number: int = 1, payload: bytes = b"delta") -> tuple[Ticket, ev.StoreUpdate]:
        """Through round ``number`` up to the update that is to be stored."""
        message = announcement(number)
        (start,) = only(self(ev.RoundSeen(message)), ev.StartTraining)
        (store,) = only(self(ev.JobDone(trained(start.key, payload))), ev.StoreUpdate)
        return Ticket.of(message), store

    def shown(self) -> DeviceStatus:
        return presence.status(self.state)


def only[E](effects: list[Effect], kind: type[E]) -> list[E]:
    return [effect for effect in effects if isinstance(effect, kind)]
