"""A run in which somebody is killed again and again, and the same run in peace.

``Mayhem`` draws, from one seed, whom to kill and when: at a random instant, or right after a message of some kind has
gone by, which is when the victim is in the middle of dealing with it. Everybody comes back at once. ``survive`` runs
until there were enough kills and the run is done, then runs it again without any, and compares.
"""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from edge.core.attempt import CRASHES
from schemas import messages
from schemas.messages import Join, ModelPointer, Receipt
from schemas.topics import Kind
from tests.chaos.evidence import begun_again, differences, lost, trained_again
from tests.chaos.federation import Federation
from tests.chaos.spy import Heard, Spy
from tests.link_mosquitto import Mosquitto

VICTIMS: Final = {"device": 6, "coordinator": 6, "trainer": 4, "broker": 4}  # and how often, of 20
OWN: Final = (Kind.UPDATE_PART, Kind.RECEIPT)  # after which a device has done its part of a round
AIMS: Final = {  # what has just gone by when they die
    "device": (Kind.ROUND, Kind.JOIN, *OWN, *OWN, Kind.MODEL),
    "coordinator": (Kind.ROUND, Kind.JOIN, Kind.UPDATE_PART, Kind.RECEIPT, Kind.MODEL_PART, Kind.MODEL, Kind.SUMMARY),
    "trainer": (Kind.ROUND, Kind.JOIN, Kind.UPDATE_PART),
    "broker": (Kind.ROUND, Kind.JOIN, Kind.UPDATE_PART, Kind.RECEIPT, Kind.MODEL_PART, Kind.MODEL),
}
LONGEST_S: Final = 0.5  # to a kill at a random instant: some rounds, or what somebody needs to come back
AIM_S: Final = 2.0  # for the message that is aimed at
HAIR_S: Final = 0.02  # after an aimed one's message
PROGRESS_S: Final = 90.0  # for a round to end however many were killed


@dataclass(slots=True)
class Outcome:
    """What a killed run came to."""

    seed: int
    kills: dict[str, int] = field(default_factory=dict)
    aimed: dict[str, int] = field(default_factory=dict)
    rounds: int = 0
    seconds: float = 0.0
    violations: list[str] = field(default_factory=list)


class Mayhem:
    """Kills, one after the other, in a federation at work."""

    def __init__(self, federation: Federation, spy: Spy, seed: int) -> None:
        self._federation = federation
        self._spy = spy
        self._random = random.Random(seed)  # noqa: S311 - a schedule that can be drawn again, not a secret
        self._never = threading.Event()
        self.kills: Counter[str] = Counter()
        self.aimed: Counter[str] = Counter()
        self.faults: list[str] = []
        self._died: Counter[tuple[str, int]] = Counter()  # trainers by device and the newest version

    def strike(self) -> None:
        """Kill somebody."""
        draw = self._random
        victim = draw.choices(tuple(VICTIMS), tuple(VICTIMS.values()))[0]
        name = draw.choice(self._federation.names)
        aim = draw.choice((None, draw.choice(AIMS[victim])))
        instant = draw.uniform(0, LONGEST_S if aim is None else HAIR_S)
        own = name if victim == "device" and aim in OWN else None
        if own is not None:
            self._hold_up(own)
        if aim is not None and self._spy.next(lambda one: _is(one, aim, own), len(self._spy.heard), AIM_S):
            self.aimed[aim.name.lower()] += 1
        self._never.wait(instant)  # the blow falls at a random instant: nothing is waited for
        match victim:
            case "device":
                self._federation.kill(name)
                self._federation.start(name)
            case "coordinator":
                self._federation.kill("coordinator")
                self._federation.start("coordinator")
            case "broker":
                self._federation.broker.kill()
                self._federation.broker.start()
            case _ if not self._kill_trainer(name):
                return
        self.kills[victim] += 1

    def breathe(self) -> None:
        """Every second time, let a round be committed before the next blow; nobody may have ended by himself."""
        for name in self._federation.fallen():
            self.faults.append(f"{name} ended by itself")
            self._federation.kill(name)
            self.faults.append(self._federation.said(name)[-2000:])
            self._federation.start(name)
        newest = max(map(_version, self._spy.of(Kind.MODEL)), default=-1)
        if self._random.random() < 1 / 2:
            found = self._spy.next(lambda one: _version(one) > newest, len(self._spy.heard), PROGRESS_S)
            stalled = f"no round was committed within {PROGRESS_S:g} s after {self.kills}"
            assert found is not None, f"{stalled}\n{self._told()}"

    def _told(self) -> str:
        """What everybody, who is killed for that, had to say, and what was on the broker last."""
        fallen = self._federation.fallen()
        for name in ("coordinator", *self._federation.names):
            self._federation.kill(name)
        said = (
            f"{name}{' (ended by itself)' if name in fallen else ''}:\n{self._federation.said(name)[-3000:]}"
            for name in ("coordinator", *self._federation.names)
        )
        return "\n".join((*said, *(f"{one!r:.200}" for one in self._spy.heard[-30:])))

    def _hold_up(self, device: str) -> None:
        """Keep the round open that ``device`` will have done its part of, so that it comes back within it."""
        other = self._random.choice([name for name in self._federation.names if name != device])
        self.kills["trainer"] += self._kill_trainer(other)

    def _kill_trainer(self, name: str) -> bool:
        """Not so often within a round that the device gives it up, as it is to: then the round is made anew."""
        child, version = self._federation.trainer(name), max(map(_version, self._spy.of(Kind.MODEL)), default=-1)
        if child is None or self._died[name, version] >= CRASHES - 1:
            return False
        self._died[name, version] += 1
        try:
            os.kill(child, signal.SIGKILL)
        except ProcessLookupError:
            return False
        return True


def survive(home: Path, seed: int, kills: int, *, devices: int = 3, strategy: str = "fedavg") -> Outcome:
    """Run a federation with so many kills, and the same in peace; what both left is looked through for faults."""
    began, outcome = time.monotonic(), Outcome(seed)
    with Mosquitto(_made(home / "broker")) as broker, Mosquitto(_made(home / "calm")) as calm:
        options = ("--seed", str(seed), "--strategy", strategy)
        federation = Federation(_made(home / "killed"), broker, devices, options=options)
        federation.begin()
        twin = federation.twin(home / "twin", calm)
        with Spy(broker.port) as spy, federation:
            mayhem = Mayhem(federation, spy, seed)
            while mayhem.kills.total() < kills:
                mayhem.strike()
                mayhem.breathe()
            ledger = federation.conclude()
            heard = spy.heard
        outcome.violations += differences(ledger, twin.run_in_peace(federation.rounds))
    outcome.kills, outcome.aimed, outcome.rounds = dict(mayhem.kills), dict(mayhem.aimed), federation.rounds
    outcome.violations += [*mayhem.faults, *ledger.faults(federation.rounds), *lost(heard, ledger), *begun_again(heard)]
    for name in federation.names:
        outcome.violations += trained_again(name, federation.state(name), federation.rounds)
    for name in federation.deaths:
        outcome.violations += [f"{name}: {each}" for each in _tracebacks(federation.said(name))]
    if outcome.violations:
        outcome.violations += [f"on the broker: {one}" for one in _refusals(heard)]
    outcome.seconds = time.monotonic() - began
    return outcome


def _refusals(heard: Sequence[Heard]) -> Iterator[Join | Receipt]:
    """What took somebody out of an attempt."""
    for message in (one.message for one in heard):
        if isinstance(message, Join) and not message.accepts:
            yield message
        if isinstance(message, Receipt) and message.outcome is messages.Outcome.REJECTED:
            yield message


def _is(one: Heard, kind: Kind, device: str | None) -> bool:
    address = one.address
    return address is not None and address.kind is kind and (device is None or device == address.device)


def _tracebacks(said: str) -> Iterator[str]:
    """Each traceback, as far as its last lines tell."""
    for each in said.split("Traceback (most recent call last):")[1:]:
        yield f"a traceback: {each[:2000]}"


def _version(one: Heard) -> int:
    return one.message.version if isinstance(one.message, ModelPointer) else -1


def _made(directory: Path) -> Path:
    directory.mkdir(parents=True)
    return directory
