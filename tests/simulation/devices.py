"""A simulated device: the real agent, store, outbox and fetcher, on a disk of its own, with a trainer that only waits.

A delta follows from the model, the round's seed, the device, and how often it has trained for that ticket: a device
that trains twice where it should have sent its first update again gives itself away by its bytes.
"""

from __future__ import annotations

import hashlib
import random
from collections import Counter, deque
from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING, Final

import numpy as np

from edge.agent import Agent, Happening
from edge.core.jobs import (
    Describe,
    Described,
    Evaluate,
    Evaluated,
    Failure,
    Job,
    Merge,
    Merged,
    Personalise,
    Personalised,
    Progressed,
    Result,
    Train,
    Trained,
)
from edge.core.personal_settings import PersonalSettings, Verdict
from edge.dataspec import DataSpec
from edge.device import Device
from edge.model_reader import ModelReader
from edge.store import claim
from edge.training import feedback
from schemas import compression
from schemas.errors import StateError
from schemas.link.link import Inbound, Sink, Will
from schemas.messages import Counts
from schemas.parameters import Parameters
from tests.simulation.disk import Disk, Image, Killed
from tests.simulation.nodes import Clock, SimLink
from tests.simulation.scenario import TOPICS, Member

if TYPE_CHECKING:
    from tests.simulation.world import World

HEARTBEAT_S: Final = 30.0
IDLE_HEARTBEAT_S: Final = 300.0
RETRY_S: Final = 5.0  # after a start that a full disk prevented
TRAINER_CRASHES: Final = 0.03
PERSONAL: Final = PersonalSettings(method="ditto")  # of every device with an odd number of examples
VERDICT: Final = Verdict(examples=8, personal_loss=0.5, global_loss=1.0, personal_f1=0.5, global_f1=0.5)


class DeviceNode:
    """One device through all its lives."""

    def __init__(self, world: World, member: Member) -> None:
        self.world = world
        self.member = member
        self.name = member.name
        self.draw = random.Random(f"{world.scenario.seed}/{self.name}")  # noqa: S311  - no secret
        self.wall_s = 1.8e9
        self.life: Life | None = None
        self.lives = 0
        self.image: Image = {}
        self.trained: Counter[str] = Counter()  # by job key
        self.disk_full = False

    def start(self) -> None:
        """Start its process."""
        if self.life is not None:
            return
        self.lives += 1
        life = Life(self)
        try:
            life.begin()
        except StateError:
            life.end()
            self.image = life.disk.left(power_cut=False)
            life.gone()
            self.world.at(self.world.now + RETRY_S, self.start)
        except Killed:
            pass

    def kill(self, *, power_cut: bool) -> None:
        """End its process now, between two of its operations."""
        if self.life is not None:
            self.life.die(power_cut=power_cut)

    def fill(self, *, full: bool) -> None:
        """Let nothing more fit on its disk, or something again."""
        self.disk_full = full
        if self.life is not None:
            self.life.disk.full = full

    def wall(self) -> float:
        """The wall clock, in seconds since 1970."""
        return self.wall_s + self.world.now


class Life:
    """One life of a device's process."""

    def __init__(self, node: DeviceNode) -> None:
        self.node = node
        self.world = node.world
        self.number = node.lives
        self.clock = Clock(lambda: self.world.now, node.draw)
        root = self.world.base / f"{node.name}.{node.lives}"
        self.disk = self.world.disks.add(Disk(root, node.image, node.draw, full=node.disk_full))
        self.agent: Agent | None = None
        self.link: SimLink | None = None
        self.alive = True
        self._claimed = ExitStack()
        self._waiting: deque[Happening] = deque()
        self._alarm: float | None = None

    def begin(self) -> None:
        """Start the agent, on what is on disk. Raises ``StateError``."""
        node = self.node
        node.life = self
        session = self._claimed.enter_context(claim(self.disk.root, node.wall))
        data, personal = DataSpec(path="nowhere"), PERSONAL if node.member.examples % 2 else None
        device = Device(
            node.name, session, data, self.disk.root, HEARTBEAT_S, idle_heartbeat_s=IDLE_HEARTBEAT_S, personal=personal
        )
        self.agent = Agent(device, TOPICS, self._connect, SimTrainer(self), self._post)
        self.world.referee.device_started(self, self.agent)
        self.agent.start()
        self._set_alarm()

    def die(self, *, power_cut: bool) -> None:
        """Be killed: the disk keeps what it would, all else is gone, and the broker notices now or later."""
        node = self.node
        node.image = self.disk.left(power_cut=power_cut)
        self.end()
        self.world.device_died(node, power_cut=power_cut)
        self.world.referee.device_died(self, power_cut=power_cut)

    def end(self) -> None:
        """Do nothing any more."""
        self.alive, self.node.life = False, None
        if self.link is not None:
            self.link.die()

    @property
    def has_updates(self) -> bool:
        """Whether it has updates without a receipt."""
        return self.agent is not None and bool(self.agent._state.outbox)

    def gone(self) -> None:
        """Take away what the process had open."""
        self._claimed.close()
        self.world.discard(self.disk)

    def step(self) -> None:
        """Something is about to be done that a crash may come before."""
        self.disk.step()

    def said(self, topic: str, payload: bytes) -> None:
        """It has published something."""
        if "/devices/" not in topic:  # what it says of itself is not worth repeating; that it is gone, is
            self.world.remember(topic, payload)
        self.world.referee.device_said(self, topic, payload)

    def acked(self, message: Inbound) -> None:
        """It has acknowledged a message."""

    def spare(self) -> None:
        """Have it not be killed any more."""
        self.disk.dies_at = None

    def doom(self, steps: int, *, power_cut: bool) -> None:
        """Have it killed at one of its next operations."""

        def die() -> None:
            self.die(power_cut=power_cut)
            raise Killed

        self.disk.dies_at, self.disk.die = self.disk.steps + steps, die

    def later(self, seconds: float, action: Callable[[], None]) -> None:
        """Do something in some time, if it still lives then."""

        def act() -> None:
            if self.alive:
                self._guarded(action)

        self.world.at(self.world.now + seconds, act)

    def _connect(self, client_id: str, sink: Sink, will: Will) -> SimLink:
        self.link = SimLink(self, self.world.broker, client_id, sink, will)
        self.world.remember(will.topic, will.payload)
        return self.link

    def _post(self, _agent: Agent, happening: Happening) -> None:
        if not self._waiting:
            self.later(0.0, self._drain)
        self._waiting.append(happening)

    def _drain(self) -> None:
        agent = self.agent
        assert agent is not None
        while self._waiting:
            happening = self._waiting.popleft()
            self.world.referee.device_hears(self, happening)
            agent.handle(happening, self.clock.monotonic())
            self.world.referee.device_turned(self)
        self._set_alarm()

    def _set_alarm(self) -> None:
        assert self.agent is not None
        due = self.agent.wake_at()
        if due != self._alarm and due is not None:
            self.later(max(0.0, due - self.clock.monotonic()), lambda: self._ring(due))
        self._alarm = due

    def _ring(self, due: float) -> None:
        if due != self._alarm or self.agent is None:
            return
        self.world.referee.moves(self.node.name)
        self._alarm = None
        self.agent.tick(max(due, self.clock.monotonic()))  # sums of floats may fall short of it
        self.world.referee.device_turned(self)
        self._set_alarm()

    def _guarded(self, action: Callable[[], None]) -> None:
        try:
            action()
        except Killed:
            pass
        finally:
            if not self.alive:
                self.gone()


class SimTrainer:
    """Answers each job some time later; now and then it crashes."""

    def __init__(self, life: Life) -> None:
        self._life = life
        self._cancelled: set[str] = set()

    def submit(self, job: Job, on_result: Callable[[Progressed | Result | Failure], None]) -> None:
        """Take a job."""
        life, node = self._life, self._life.node
        self._cancelled.discard(job.key)
        if isinstance(job, Personalise):
            life.later(node.member.training_s, lambda: self._personalised(job, on_result))
            return
        if not isinstance(job, Describe | Merge):
            node.trained[job.key] += 1
            life.world.referee.device_trains(life, job.key)
        times, takes = node.trained[job.key], node.draw.random() * node.member.training_s
        if isinstance(job, Describe):
            takes = node.draw.random()
        crashes = node.draw.random() < TRAINER_CRASHES

        def answer() -> None:
            if job.key in self._cancelled:
                return
            if crashes:
                on_result(Failure(key=job.key, kind="crash", message="signal 9"))
            else:
                on_result(self._result(job, times))

        life.later(takes, answer)

    def _personalised(self, job: Personalise, on_result: Callable[[Progressed | Result | Failure], None]) -> None:
        if job.key not in self._cancelled:
            on_result(Personalised(key=job.key, model=job.model, verdict=VERDICT, seconds=0.1))

    def cancel(self, key: str) -> None:
        """Forget a job."""
        self._cancelled.add(key)

    def suspend(self, key: str) -> Progressed | None:
        """Forget a job; nothing of it is kept."""
        self._cancelled.add(key)
        return None

    def warm(self) -> None:
        """It is always."""

    def _result(self, job: Job, times: int) -> Result:
        member, plan = self._life.node.member, self._life.world.scenario.plan
        if isinstance(job, Describe):
            return Described(
                key=job.key, examples=member.examples, held_out=member.held_out, class_counts={"calm": member.examples}
            )
        manifest = plan.manifest()
        model = ModelReader().read(job.model, manifest)
        if isinstance(job, Merge):
            return Merged(key=job.key, model=compression.encode("float32", model, np.random.default_rng(0)))
        if isinstance(job, Evaluate):
            right = int(model.digest(), 16) % (member.held_out + 1)
            confusion = ((right, member.held_out - right), (0, 0))
            counts = Counts(examples=member.held_out, loss_sum=float(times), confusion=confusion)
            return Evaluated(key=job.key, counts=counts, seconds=0.1)
        assert isinstance(job, Train)
        delta = delta_of(model, member.name, job, times)
        encoded = feedback.encode(job.codec, delta, job.residual, np.random.default_rng(job.seed))
        assert not encoded.trouble
        return Trained(
            key=job.key,
            payload=encoded.payload,
            examples=member.examples,
            train_loss=0.5,
            seconds=0.1,
            residual=encoded.residual,
        )


def delta_of(model: Parameters, device: str, job: Train, times: int) -> Parameters:
    """What a device learns from a model when it trains for a job for the ``times``-th time."""
    text = f"{model.digest()}/{device}/{job.seed}/{times}"
    seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
    size = model.manifest.size
    return Parameters(model.manifest, np.random.default_rng(seed).normal(0, 0.1, size).astype(np.float32))
