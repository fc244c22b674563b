"""Thirty percent of the devices die in every round, and no round waits for them longer than its deadline.

Half of the dead are killed, which the broker notices. The others lose their power in mid-round: their connections stay
open, nobody hears of it before the round is over, and the round has to end by its deadline. All come back afterwards.
"""

from __future__ import annotations

import json
import random
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from schemas.messages import Phase, RoundAnnouncement
from tests.chaos.evidence import Ledger, lost
from tests.chaos.mortals import LONGEST_S, Mortals
from tests.chaos.spy import Heard, Spy
from tests.link_mosquitto import Mosquitto
from tests.running_commands import COORDINATOR, Running

DEVICES: Final = 20
DYING: Final = 6  # of them, in each round
QUORUM: Final = 5
DEADLINE_S: Final = 2.0
GRACE_S: Final = 1.0  # after the deadline, by which every round has closed
_CLOSED: Final = frozenset({Phase.AGGREGATING, Phase.COMMITTED, Phase.ABANDONED})


@dataclass(slots=True)
class Attrition:
    """What the rounds came to; seconds are the coordinator's own, on its monotonic clock."""

    seed: int
    deaths: dict[str, int] = field(default_factory=dict)
    seconds: list[float] = field(default_factory=list)  # of each attempt at a round
    committed: int = 0
    violations: list[str] = field(default_factory=list)
    took_s: float = 0.0


def endure(home: Path, seed: int, rounds: int) -> Attrition:
    """Run so many rounds."""
    began, found = time.monotonic(), Attrition(seed, {"killed": 0, "power": 0})
    draw = random.Random(seed)  # noqa: S311 - a schedule that can be drawn again, not a secret
    with Mosquitto(home) as broker, Spy(broker.port) as spy, Mortals(home / "devices", broker.port, DEVICES) as devices:
        fixed = ("--plan", "watch", "--no-evaluate", "--json", "--seed", str(seed), "--devices-min", str(QUORUM))
        about = ("--broker", broker.address, "--state", "state", "--rounds", str(rounds), "--deadline", str(DEADLINE_S))
        with Running(*COORDINATOR, "start", *fixed, *about, cwd=home) as coordinator:
            asked: set[str] = set()
            while coordinator.alive:
                opened = spy.next(lambda one: _nonce(one) not in {"", *asked}, 0, 1.0)
                if opened is not None:
                    asked.add(_nonce(opened))
                    _decimate(devices, spy, draw, opened, found)
            done = coordinator.end()
    if done.code != 0 or "Traceback" in done.err:
        found.violations.append(f"the coordinator ended with {done.code}: {done.err[-1000:]}")
    ended = [event["summary"] for event in map(json.loads, done.out.splitlines()) if event["event"] == "round_closed"]
    found.seconds = [summary["seconds"] for summary in ended]
    found.committed = sum(summary["outcome"] == "committed" for summary in ended)
    found.violations += [
        f"round {summary['round']} took {summary['seconds']:.2f} s, its deadline is {DEADLINE_S:g} s"
        for summary in ended
        if summary["seconds"] > DEADLINE_S + GRACE_S
    ]
    found.violations += lost(spy.heard, Ledger.read(home / "state"))
    found.took_s = time.monotonic() - began
    return found


def _decimate(devices: Mortals, spy: Spy, draw: random.Random, opened: Heard, found: Attrition) -> None:
    """Take some devices' lives within the round that ``opened`` opens, and give them back when it is over."""
    never = threading.Event()
    instants = sorted((draw.uniform(0, LONGEST_S), name) for name in draw.sample(devices.names, DYING))
    began = time.monotonic()
    for number, (instant, name) in enumerate(instants):
        never.wait(max(0.0, began + instant - time.monotonic()))  # they die at random: nothing is waited for
        if number % 2:
            devices.cut_power(name)
        else:
            devices.kill(name)
        found.deaths["power" if number % 2 else "killed"] += 1
    spy.next(lambda one: _closes(one, opened), 0, 10 * DEADLINE_S)
    for number, (_, name) in enumerate(instants):
        if number % 2:
            devices.kill(name)
        devices.start(name)


def _nonce(heard: Heard) -> str:
    """Of the attempt that a message opens."""
    asked = heard.message
    return asked.nonce if isinstance(asked, RoundAnnouncement) and asked.phase is Phase.COLLECTING else ""


def _closes(heard: Heard, opened: Heard) -> bool:
    """Whether a message says that an attempt is over, or that the next has begun, which says the same."""
    one, asked = heard.message, opened.message
    if not isinstance(one, RoundAnnouncement) or not isinstance(asked, RoundAnnouncement):
        return False
    over = one.nonce == asked.nonce and one.phase in _CLOSED
    return over or (one.round, one.attempt) > (asked.round, asked.attempt)
