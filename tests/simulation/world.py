"""One simulated federation: virtual time, a broker, nodes, mishaps and a referee, in one thread and from one seed."""

from __future__ import annotations

import hashlib
import heapq
import itertools
import logging
import os
import random
import shutil
import traceback
from collections import Counter, deque
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from unittest import mock

import coordinator.service
from coordinator.service import RunResult
from schemas.errors import BrokerUnreachable, FederationError, StateError, Superseded
from schemas.link.memory import MemoryBroker
from schemas.link.memory_broker import Client
from schemas.link.outbound import Publication
from tests.simulation.coordinators import NAME, SECOND, CoordinatorNode, Life, LifeBeside, watched
from tests.simulation.devices import DeviceNode
from tests.simulation.disk import Disk, Disks
from tests.simulation.faults import Mishaps
from tests.simulation.leaders import Leaders
from tests.simulation.liars import Liar
from tests.simulation.referee import Referee, Violation
from tests.simulation.scenario import CALM, Scenario

TAIL: Final = 60  # lines of the trace that are kept
REPLAYED: Final = 40  # messages of each kind that may come once more
UNNOTICED: Final = 0.5  # share of power cuts that the broker only notices after a while
KEEPALIVE_S: Final = 45.0  # the longest it takes to
DOWN_S: Final = (0.1, 2.0, 40.0)  # how long a node is down, at most

_REPLAYED: Final = ("/model", "/rounds/current", "/update/", "/join/", "/devices/")  # in their topics


@dataclass(eq=False)
class Outcome:
    """What came of one seed."""

    seed: int
    rounds: int = 0  # closed: committed or abandoned
    committed: int = 0
    failures: int = 0  # of the run, each gone on from
    virtual_s: float = 0.0
    trace: str = ""  # digest of all that happened
    faults: Counter[str] = field(default_factory=Counter)
    violation: str = ""
    tail: tuple[str, ...] = ()


class World:
    """One seed's federation. ``run`` is the whole of its life."""

    def __init__(self, scenario: Scenario, base: Path) -> None:
        self.scenario = scenario
        self.base = base
        self.disks = Disks(base)
        self.faults: Counter[str] = Counter()
        self.heard: dict[str, deque[tuple[str, bytes]]] = {}  # what somebody might say again, by what it is
        self.draw = random.Random(f"{scenario.seed}/world")  # noqa: S311  - no secret
        link = random.Random(f"{scenario.seed}/link")  # noqa: S311
        self.broker = _Broker(self, link)
        self.referee = Referee(self)
        self.leaders = Leaders(self)
        self.calm = not scenario.mishaps
        self.failures = 0
        self.coordinator = CoordinatorNode(self, NAME, scenario.settings)
        self.second = CoordinatorNode(self, SECOND, scenario.second_settings)
        self.devices = [DeviceNode(self, one) for one in scenario.members if one.kind in {"honest", "slow"}]
        self.liars = [Liar(self, one) for one in scenario.members if one.kind not in {"honest", "slow"}]
        self.mishaps = Mishaps(self)
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._trace = hashlib.sha256()
        self._tail: deque[str] = deque(maxlen=TAIL)

    @property
    def now(self) -> float:
        """Virtual seconds since the start."""
        return self.broker.now_s

    def at(self, when: float, action: Callable[[], None]) -> None:
        """Have ``action`` done at a time; those of one time in the order of the calls."""
        heapq.heappush(self._due, (when, next(self._order), action))

    def note(self, text: str) -> None:
        """Write a line of the trace."""
        line = f"{self.now:.6f} {text}"
        self._trace.update(line.encode())
        self._tail.append(line)

    def remember(self, topic: str, payload: bytes) -> None:
        """Keep what was said, for somebody to say it again."""
        for kind in _REPLAYED:
            if kind in topic:
                self.heard.setdefault(kind, deque(maxlen=REPLAYED)).append((topic, payload))

    def turn(self, until: float) -> bool:
        """Do what comes next, if it comes by ``until``; else let time pass until then, and say False."""
        ours = self._due[0][0] if self._due else float("inf")
        theirs = self.broker.next_due_s
        if theirs is not None and theirs <= min(ours, until):
            self.broker.advance(max(0.0, theirs - self.now))
            return True
        if ours > until:
            self.broker.advance(max(0.0, until - self.now))
            self.broker.now_s = max(self.broker.now_s, until)  # sums of floats may fall short of it
            return False
        self.broker.advance(max(0.0, ours - self.now))
        heapq.heappop(self._due)[2]()
        self.referee.time_passes()
        return True

    def run_until(self, until: float) -> None:
        """Let time pass."""
        while self.turn(until):
            pass

    def run(self) -> Outcome:
        """Everything, from the first start to the run's end. Never raises for a violation."""
        outcome = Outcome(self.scenario.seed)
        with ExitStack() as stack:
            stack.enter_context(_quiet("edge"))
            stack.enter_context(self.disks.patched())
            stack.enter_context(mock.patch.object(os, "urandom", self.draw.randbytes))
            stack.enter_context(mock.patch.object(coordinator.service, "Reactor", watched))
            try:
                try:
                    self._live()
                finally:
                    self.end_second(power_cut=False)
            except Violation as violation:
                outcome.violation = str(violation)
            except Exception as error:  # noqa: BLE001  - what a node must never raise
                outcome.violation = f"crash: {error!r}"
                self._tail.extend(traceback.format_exception(error))
        outcome.rounds, outcome.committed = self.referee.rounds, self.referee.versions
        outcome.virtual_s, outcome.faults, outcome.failures = self.now, self.faults, self.failures
        outcome.trace, outcome.tail = self._trace.hexdigest(), tuple(self._tail)
        return outcome

    def _live(self) -> None:
        for device in self.devices:
            self.at(device.member.arrives_at, device.start)
        for liar in self.liars:
            self.at(liar.member.arrives_at, liar.start)
        self.mishaps.begin()
        self.at(self.scenario.calm_at, self._calm_down)
        while (result := self._coordinate(self.coordinator.next_life())) is None or result.stopped:
            self.run_until(self.now + self.draw.random() * self.draw.choice(DOWN_S))
        self.referee.finished(result)

    def _coordinate(self, life: Life) -> RunResult | None:
        name = life.node.name
        self.note(f"{name} starts")
        try:
            return life.node.live(life)
        except Superseded:
            self.note(f"{name} ends: there is another one")
            self.faults["coordinator superseded"] += 1
        except FederationError as error:  # what its documentation says it may end with; its operator starts it again
            self.note(f"run failed: {error}")
            self.failures += life.node is self.coordinator
            self.referee.failed()
        except BrokerUnreachable:  # not within its first ten seconds
            self.note(f"{name} ends: no broker")
        except StateError as error:
            self.note(f"{name} ends: its disk won't")
            self.referee.disk_refused(life, error)
        return None

    def start_second(self) -> Life:
        """Start a second coordinator; there must be none."""
        life = self.second.next_life(beside=True)
        assert isinstance(life, LifeBeside)
        life.start(lambda: self._coordinate(life))
        return life

    @property
    def is_contested(self) -> bool:
        """Whether a second coordinator is up."""
        return self.second.life is not None

    def end_second(self, *, power_cut: bool) -> None:
        """Kill the second coordinator, where there is one."""
        if isinstance(life := self.second.life, LifeBeside):
            life.kill(power_cut=power_cut)

    def _calm_down(self) -> None:
        """From here on nothing goes wrong any more, and what is down comes back."""
        self.note("calm")
        self.calm = True
        self.broker.faults = CALM
        self.broker.start()
        if self.second.life is not None:
            self.second.life.service.stop()
        for name in (NAME, SECOND, *(device.name for device in self.devices)):
            self.broker.mend(name)
            self.broker.cut(name)
        nodes: list[CoordinatorNode | DeviceNode] = [self.coordinator, *self.devices]
        for node in nodes:
            node.fill(full=False)
            if node.life is not None:
                node.life.spare()
        for device in self.devices:
            device.start()
        if self.scenario.mishaps.get("command"):
            self.mishaps.resume_all()

    # What befalls nodes.

    def device_died(self, node: DeviceNode, *, power_cut: bool) -> None:
        """The broker notices, or thinks for a while that it is still there; and it comes back some time."""
        self.note(f"{node.name} dies{' by a power cut' if power_cut else ''}")
        self._lost(node.name, power_cut=power_cut)
        self.at(self.now + self.draw.random() * self.draw.choice(DOWN_S), node.start)

    def coordinator_died(self, node: CoordinatorNode, *, power_cut: bool) -> None:
        """The broker notices, or thinks for a while that it is still there."""
        self.note(f"{node.name} dies{' by a power cut' if power_cut else ''}")
        self._lost(node.name, power_cut=power_cut)

    def discard(self, disk: Disk) -> None:
        """A process is gone: nobody looks at its directory any more."""
        self.disks.drop(disk)
        shutil.rmtree(disk.root, ignore_errors=True)

    def _link_of(self, client_id: str) -> Client | None:
        session = self.broker._sessions.get(client_id)
        return None if session is None else session.link

    def _lost(self, client_id: str, *, power_cut: bool) -> None:
        if not power_cut or self.draw.random() >= UNNOTICED:
            self.broker.cut(client_id)
            return
        self.broker.freeze(client_id)
        link = self._link_of(client_id)

        def notice() -> None:
            if link is not None and self._link_of(client_id) is link:
                self.broker.cut(client_id)

        self.at(self.now + self.draw.random() * KEEPALIVE_S, notice)


class _Broker(MemoryBroker):
    """The world's, which is watched."""

    def __init__(self, world: World, draw: random.Random) -> None:
        super().__init__(faults=world.scenario.faults, draw=draw)
        self._world = world

    def accept(self, publication: Publication) -> None:
        """Take a publication."""
        self._world.leaders.accepted(publication)
        super().accept(publication)

    def stop(self, *, forget: bool = False) -> None:
        """Go down."""
        super().stop(forget=forget)
        if forget:
            self._world.leaders.forgotten()


class _quiet:  # noqa: N801  - a context manager
    """Nobody reads the log of a logger."""

    def __init__(self, name: str) -> None:
        self._logger = logging.getLogger(name)

    def __enter__(self) -> None:
        self._before, self._logger.disabled = self._logger.level, False
        self._logger.setLevel(logging.CRITICAL + 1)

    def __exit__(self, *_: object) -> None:
        self._logger.setLevel(self._before)
