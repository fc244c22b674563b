"""The simulated coordinator: the real service, whole, on a disk of its own.

``CoordinatorService.run`` blocks only where it waits for its next event. Its queue is the simulator's: waiting there is
what lets the rest of the world go on, in the same thread, until something arrives for the coordinator, its time is up,
or it is killed where it waits.
"""

from __future__ import annotations

import queue
import random
from collections import deque
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, cast
from unittest import mock

import coordinator.service
from coordinator import observers as seen
from coordinator.reactor import Events, Reactor, Stop
from coordinator.service import CoordinatorService, RunResult
from schemas.link.link import Event, Inbound, Sink, Will
from tests.simulation.disk import Disk, Image, Journal, Killed
from tests.simulation.nodes import Clock, SimLink
from tests.simulation.scenario import TOPICS

if TYPE_CHECKING:
    from tests.simulation.world import World

NAME: Final = "coordinator"
KEPT_MODELS: Final = 4


class CoordinatorNode:
    """The coordinator through all its lives."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.name = NAME
        self.draw = random.Random(f"{world.scenario.seed}/{NAME}")  # noqa: S311  - no secret
        self.wall_s = 1.8e9
        self.image: Image = {}
        self.life: Life | None = None
        self.lives = 0
        self.disk_full = False

    def next_life(self) -> Life:
        """A new process, which has yet to ``live``."""
        self.lives += 1
        self.life = Life(self)
        return self.life

    def live(self, life: Life) -> RunResult | None:
        """One life of its process: how the run ended, None where the process was killed.

        Raises what ``CoordinatorService.run`` does.
        """
        try:
            return life.run()
        except Killed:
            return None
        finally:
            if life.alive:
                self.image = life.disk.left(power_cut=False)
                life.end()
            self.world.discard(life.disk)

    def fill(self, *, full: bool) -> None:
        """Let nothing more fit on its disk, or something again."""
        self.disk_full = full
        if self.life is not None:
            self.life.disk.full = full

    def wall(self) -> datetime:
        """The wall clock."""
        return datetime.fromtimestamp(self.wall_s, UTC) + timedelta(seconds=self.world.now)


class Life:
    """One life of the coordinator's process; also the queue its service waits at."""

    def __init__(self, node: CoordinatorNode) -> None:
        self.node = node
        self.world = node.world
        self.clock = Clock(lambda: self.world.now, node.draw)
        root = self.world.base / f"{NAME}.{node.lives}"
        self.disk = self.world.disks.add(Disk(root, node.image, node.draw, full=node.disk_full))
        self.disk.committed = self._committed
        self._aimed: tuple[int, bool] | None = None  # after so many operations, and whether by a power cut
        self.began_at = self.world.now
        self.link: SimLink | None = None
        self.alive = True
        self.doomed: bool | None = None  # to be killed where it waits; whether by a power cut
        self.reactor: Reactor | None = None
        self._queue: deque[Event | Stop] = deque()
        self.service = CoordinatorService(
            self._connect,
            TOPICS,
            self.world.scenario.settings,
            self.world.scenario.plan,
            self.world.scenario.model(),
            self.disk.root,
            observer=self._observe,
            clock=self.clock.monotonic,
            wall=node.wall,
            keep_models=KEPT_MODELS,
        )
        self.service._events = cast("Events", self)

    def run(self) -> RunResult:
        """The service, until it ends."""
        with mock.patch.object(coordinator.service, "Reactor", self._watched):
            return self.service.run()

    def _watched(self, *parts: Any) -> Reactor:
        """The service's reactor, which the referee looks into."""
        self.reactor = Reactor(*parts)
        return self.reactor

    def die(self, *, power_cut: bool) -> None:
        """Be killed: the disk keeps what it would, all else is gone, and the broker notices now or later."""
        self.node.image = self.disk.left(power_cut=power_cut)
        self.end()
        self.world.coordinator_died(power_cut=power_cut)

    def end(self) -> None:
        """Do nothing any more."""
        self.alive, self.node.life = False, None
        if self.link is not None:
            self.link.die()

    def spare(self) -> None:
        """Have it not be killed any more."""
        self.disk.dies_at = self._aimed = self.doomed = None

    def doom(self, steps: int, *, power_cut: bool) -> None:
        """Have it killed at one of its next operations."""

        def die() -> None:
            self.die(power_cut=power_cut)
            raise Killed

        self.disk.dies_at, self.disk.die = self.disk.steps + steps, die

    def aim(self, steps: int, *, power_cut: bool) -> None:
        """Have it killed so many operations after it next commits a round."""
        self._aimed = steps, power_cut

    def _committed(self, journal: Journal) -> None:
        before = self.world.referee.versions
        self.world.referee.committed(self, journal)
        if self._aimed is not None and self.world.referee.versions > before:
            steps, power_cut = self._aimed
            self._aimed = None
            self.doom(steps, power_cut=power_cut)

    # The queue.

    def put(self, event: Event | Stop) -> None:
        """Something arrives."""
        self._queue.append(event)

    def get(self, timeout: float) -> Event | Stop:
        """The next event; the world goes on meanwhile. Raises ``queue.Empty`` after ``timeout`` virtual seconds."""
        world, referee = self.world, self.world.referee
        referee.coordinator_waits(self)
        until = world.now + timeout
        busy_s = world.scenario.busy_s
        if busy_s:
            world.run_until(world.now + busy_s * self.node.draw.random())
        while True:
            if self.doomed is not None:
                self.die(power_cut=self.doomed)
                raise Killed
            if self._queue:
                return self._taken()
            if not world.turn(until):
                raise queue.Empty

    def get_nowait(self) -> Event | Stop:
        """The next event, if it is there."""
        if not self._queue:
            raise queue.Empty
        return self._taken()

    def _taken(self) -> Event | Stop:
        event = self._queue.popleft()
        self.disk.step()
        if isinstance(event, Inbound):
            self.world.referee.coordinator_hears(self, event)
        return event

    # What its link and its service tell.

    def step(self) -> None:
        """Something is about to be done that a crash may come before."""
        self.disk.step()

    def said(self, topic: str, payload: bytes) -> None:
        """It has published something."""
        self.world.remember(topic, payload)
        self.world.referee.coordinator_said(self, topic, payload)

    def acked(self, message: Inbound) -> None:
        """It has acknowledged a message."""
        self.world.referee.coordinator_acked(self, message)

    def _connect(self, sink: Sink, will: Will) -> SimLink:
        self.link = SimLink(self, self.world.broker, NAME, sink, will, keep_session=True, gated=True)
        return self.link

    def _observe(self, event: seen.Observation, /) -> None:
        self.world.referee.observed(self, event)
