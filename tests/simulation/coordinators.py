"""The simulated coordinator: the real service, whole, on a disk of its own.

``CoordinatorService.run`` blocks only where it waits for its next event. Its queue is the simulator's: waiting there is
what lets the rest of the world go on, in the same thread, until something arrives for the coordinator, its time is up,
or it is killed where it waits. A second coordinator has a thread of its own, which hands over where it waits: one of
the two threads stands still at any time, so that there is an order to all that happens.
"""

from __future__ import annotations

import math
import queue
import random
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from threading import Event as Flag
from threading import Semaphore, Thread
from typing import TYPE_CHECKING, Any, Final, cast

from coordinator import observers as seen
from coordinator.identity import instance_of
from coordinator.reactor import Events, Reactor, Stop
from coordinator.service import CoordinatorService, RunResult
from schemas.link.link import Connected, Event, Inbound, Sink, Will
from schemas.messages import RunSettings
from tests.simulation.disk import Disk, Image, Journal, Killed
from tests.simulation.leaders import STATUS
from tests.simulation.nodes import Clock, SimLink
from tests.simulation.scenario import TOPICS

if TYPE_CHECKING:
    from tests.simulation.world import World

NAME: Final = "coordinator"
SECOND: Final = "coordinator-2"  # of another state directory, and with a run of its own
KEPT_MODELS: Final = 4
IDLE_HEARTBEAT_S: Final = 300.0


class CoordinatorNode:
    """The coordinator through all its lives."""

    def __init__(self, world: World, name: str, settings: RunSettings) -> None:
        self.world = world
        self.name = name
        self.settings = settings
        self.draw = random.Random(f"{world.scenario.seed}/{name}")  # noqa: S311  - no secret
        self.wall_s = 1.8e9
        self.image: Image = {}
        self.life: Life | None = None
        self.lives = 0
        self.disk_full = False

    def next_life(self, *, beside: bool = False) -> Life:
        """A new process, which has yet to ``live``; ``beside`` the first coordinator's."""
        self.lives += 1
        self.life = LifeBeside(self) if beside else Life(self)
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
        root = self.world.base / f"{node.name}.{node.lives}"
        self.disk = self.world.disks.add(Disk(root, node.image, node.draw, full=node.disk_full))
        self.disk.committed = self._committed
        self._aimed: tuple[int, bool] | None = None  # after so many operations, and whether by a power cut
        self.link: SimLink | None = None
        self.alive = True
        self.began_at = self.world.now
        self.doomed: bool | None = None  # to be killed where it waits; whether by a power cut
        self.reactor: Reactor | None = None
        self.said_at = self.looks_since = self.began_at  # when it last said its status; since when its first look lasts
        self.promised_s = 0.0  # for how long it may then be silent
        self.leads_since = math.inf
        self.last_seen: dict[str, Any] | None = None  # status of a coordinator, as it was given it
        self.silenced = 0  # the MUST by which it may not publish any more
        self._queue: deque[Event | Stop] = deque()
        self.service = CoordinatorService(
            self._connect,
            TOPICS,
            node.settings,
            self.world.scenario.plan,
            self.world.scenario.model(),
            self.disk.root,
            observer=self._observe,
            clock=self.clock.monotonic,
            wall=node.wall,
            keep_models=KEPT_MODELS,
            idle_heartbeat_s=IDLE_HEARTBEAT_S,
            look=self._look if self.world.scenario.second else None,
        )
        self.service._events = cast("Events", self)

    def run(self) -> RunResult:
        """The service, until it ends."""
        return self.service.run()

    @property
    def instance(self) -> str:
        """The name of its state directory."""
        return instance_of(self.disk.root)

    def die(self, *, power_cut: bool) -> None:
        """Be killed: the disk keeps what it would, all else is gone, and the broker notices now or later."""
        self.node.image = self.disk.left(power_cut=power_cut)
        self.end()
        self.world.coordinator_died(self.node, power_cut=power_cut)

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
        committed = self.world.referee.committed(self, journal)
        if self._aimed is not None and committed:
            steps, power_cut = self._aimed
            self._aimed = None
            self.doom(steps, power_cut=power_cut)

    # The queue.

    def put(self, event: Event | Stop) -> None:
        """Something arrives."""
        if isinstance(event, Connected) and self.reactor is None:
            self.looks_since = self.world.now
        self._queue.append(event)

    def empty(self) -> bool:
        """Whether nothing waits."""
        return not self._queue

    def get(self, timeout: float) -> Event | Stop:
        """The next event; the world goes on meanwhile. Raises ``queue.Empty`` after ``timeout`` virtual seconds."""
        world, referee = self.world, self.world.referee
        referee.coordinator_waits(self)
        until = world.now + timeout
        busy_s = world.scenario.busy_s
        if busy_s:
            self._be_busy(world.now + busy_s * self.node.draw.random())
        while True:
            if self.doomed is not None:
                self.die(power_cut=self.doomed)
                raise Killed
            if self._queue:
                return self._taken()
            if not self._wait(until):
                raise queue.Empty

    def _be_busy(self, until: float) -> None:
        self.world.run_until(until)

    def _wait(self, until: float) -> bool:
        """Have the world go on a little; False once it is ``until``."""
        return self.world.turn(until)

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
            if event.topic == STATUS:
                self.world.leaders.hears(self, event)
        return event

    # What its link and its service tell.

    def step(self) -> None:
        """Something is about to be done that a crash may come before."""
        self.disk.step()

    def said(self, topic: str, payload: bytes) -> None:
        """It has published something."""
        self.world.leaders.said(self, topic, payload)
        self.world.remember(topic, payload)
        self.world.referee.coordinator_said(self, topic, payload)

    def acked(self, message: Inbound) -> None:
        """It has acknowledged a message."""
        self.world.referee.coordinator_acked(self, message)

    def _connect(self, sink: Sink, will: Will) -> SimLink:
        self.link = SimLink(self, self.world.broker, self.node.name, sink, will, keep_session=True, gated=True)
        return self.link

    def _look(self, sink: Sink) -> SimLink:
        self.link = SimLink(self, self.world.broker, self.node.name, sink, keep_session=True)
        return self.link

    def _observe(self, event: seen.Observation, /) -> None:
        self.world.referee.observed(self, event)


class LifeBeside(Life):
    """One of a second coordinator: its thread runs only while the first one's waits for it to ``go_on``."""

    def __init__(self, node: CoordinatorNode) -> None:
        super().__init__(node)
        self._over = Flag()
        self._thread: Thread | None = None
        self._go, self._done = Semaphore(0), Semaphore(0)
        self._error: BaseException | None = None

    def start(self, live: Callable[[], object]) -> None:
        """Begin to ``live``, in a thread."""

        def main() -> None:
            self._go.acquire()
            try:
                live()
            except BaseException as error:  # noqa: BLE001  - raised again, in the thread that waits
                self._error = error
            finally:
                self._over.set()
                self._done.release()

        self._thread = Thread(target=main, name=self.node.name, daemon=True)
        self._thread.start()
        self.go_on()

    def go_on(self) -> None:
        """Let it do what it can do now. Raises what its thread has raised."""
        if self._over.is_set():
            return
        self._go.release()
        self._done.acquire()
        if self._over.is_set() and self._thread is not None:
            self._thread.join()
        if self._error is not None:
            raise self._error

    def put(self, event: Event | Stop) -> None:
        """Something arrives, and is looked at in a moment."""
        super().put(event)
        self.world.at(self.world.now, self.go_on)

    def kill(self, *, power_cut: bool) -> None:
        """Have it die where it waits."""
        self.doomed = power_cut
        self.go_on()

    def _be_busy(self, until: float) -> None:
        while self.world.now < until and self.doomed is None:
            self._wait(until)

    def _wait(self, until: float) -> bool:
        if self.world.now >= until:
            return False
        self.world.at(until, self.go_on)
        self._done.release()
        self._go.acquire()
        return True


def watched(events: Life, *parts: Any, **named: Any) -> Reactor:
    """A service's reactor, which the referee looks into; in place of its class."""
    events.reactor = Reactor(cast("Events", events), *parts, **named)
    return events.reactor
