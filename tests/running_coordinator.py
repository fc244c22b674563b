"""A real coordinator on a thread of its own, for tests to talk to: on a broker in memory, with a clock they move.

Nothing happens by time alone: the coordinator's clock stands still until ``skip``. What anybody publishes is written
down in ``log``, with who did it and how.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from coordinator import observers as seen
from coordinator.run_store import Wall, utc
from coordinator.service import CoordinatorService, RunResult
from schemas import codec
from schemas.link.link import Event, Inbound, Link, Qos, Sink, Will
from schemas.link.memory import MemoryBroker, MemoryLink
from schemas.messages import DeviceState, DeviceStatus, RoundAnnouncement, RunSettings
from schemas.topics import Address, Kind
from tests.scripted_device import Script, ScriptedDevice
from tests.test_service import MODEL, PLAN, TOPICS, run_settings

LIMIT_S = 10.0
PARTS = ("/plan/", "/model/")

O = TypeVar("O", bound=seen.Observation)  # noqa: E741 - as short as other type variables


@dataclass(frozen=True, slots=True)
class Said:
    """One publication."""

    client: str
    topic: str
    payload: bytes
    qos: Qos
    retain: bool

    @property
    def kind(self) -> Kind | None:
        """What its topic carries."""
        address = TOPICS.parse(self.topic)
        return None if address is None else address.kind


class Tap(MemoryLink):
    """A link that writes down what it publishes, and counts the topics of retained parts it has subscribed to."""

    def __init__(
        self, log: list[Said], broker: MemoryBroker, client_id: str, sink: Sink, will: Will | None = None
    ) -> None:
        super().__init__(broker, client_id, sink, will)
        self.open_parts: set[str] = set()
        self.most_open = 0
        self._log = log

    def publish(self, topic: str, payload: bytes, *, qos: Qos = 1, retain: bool = False, bulk: bool = False) -> int:
        """Publish."""
        self._log.append(Said(self.client_id, topic, payload, qos, retain))
        return super().publish(topic, payload, qos=qos, retain=retain, bulk=bulk)

    def subscribe(self, *filters: str, qos: Qos = 1) -> int:
        """Subscribe."""
        self.open_parts.update(one for one in filters if any(part in one for part in PARTS))
        self.most_open = max(self.most_open, len(self.open_parts))
        return super().subscribe(*filters, qos=qos)

    def unsubscribe(self, *filters: str) -> None:
        """Forget subscriptions."""
        self.open_parts.difference_update(filters)
        super().unsubscribe(*filters)


class RunningCoordinator:
    """One coordinator and scripted devices. ``settings`` are those of ``run_settings``."""

    def __init__(
        self,
        directory: Path,
        *,
        make_link: Callable[[Sink, Will], Link] | None = None,
        wall: Wall = utc,
        idle_heartbeat_s: float = 0.0,
        **settings: object,
    ) -> None:
        """``make_link`` connects it elsewhere than to ``broker``."""
        self.directory = directory
        self.settings: RunSettings = run_settings(**settings)
        self.broker = MemoryBroker()
        self.log: list[Said] = []
        self.heard: list[Inbound] = []  # all that was ever on the broker
        self.seen: list[seen.Observation] = []
        self.sieve: Callable[[Event], Event | None] = lambda event: event  # what of its link's events it gets
        self._now = 1000.0
        self._wall = wall
        self._idle_heartbeat_s = idle_heartbeat_s
        self._make_link = make_link or self._tap
        self._stirred = threading.Event()
        self._ended: list[RunResult | BaseException] = []
        self._watcher = MemoryLink(self.broker, "watcher", self._watch)
        self._anybody = MemoryLink(self.broker, "anybody", lambda _event: None)

    def __enter__(self) -> Self:
        """Start it, and wait until it is connected. Devices made before are there from its first moment."""
        self._watcher.subscribe(f"{TOPICS.prefix}#")
        self._watcher.open()
        self._anybody.open()
        self._service = CoordinatorService(
            self._connect,
            TOPICS,
            self.settings,
            PLAN,
            MODEL,
            self.directory,
            observer=self._observe,
            clock=lambda: self._now,
            wall=self._wall,
            idle_heartbeat_s=self._idle_heartbeat_s,
        )
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        self.until(lambda: bool(self.count(seen.Connected) or self._ended), "its broker")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Stop it; the second time it doesn't wait for its broker."""
        deadline = time.monotonic() + LIMIT_S
        while self._thread.is_alive() and time.monotonic() < deadline:
            self._service.stop()
            self._thread.join(0.1)

    @property
    def ended(self) -> bool:
        """Whether the run is over."""
        return bool(self._ended)

    def result(self) -> RunResult:
        """How the run ended, once it has; raises what it raised."""
        self.until(lambda: bool(self._ended), "the end of the run")
        (end,) = self._ended
        if isinstance(end, BaseException):
            raise end
        return end

    def device(self, name: str, script: Script | None = None, *, start: bool = True) -> ScriptedDevice:
        """A device on this broker; a silent one unless told otherwise."""
        device = ScriptedDevice(name, TOPICS, PLAN.manifest(), self.link, script or Script(silent=True))
        return device.start() if start else device

    def link(self, client_id: str, sink: Sink, will: Will) -> Tap:
        """A link to this broker."""
        return Tap(self.log, self.broker, client_id, sink, will)

    def say(self, address: Address | str, payload: bytes, *, retain: bool = False) -> None:
        """Publish anything, as anybody."""
        topic = TOPICS.prefix + address if isinstance(address, str) else TOPICS.topic(address)
        self._anybody.publish(topic, payload, retain=retain)

    def status(
        self, device: str, state: DeviceState, session: int = 1, *, retain: bool = True, examples: int = 10
    ) -> None:
        """Publish a device's status."""
        status = DeviceStatus(device=device, session=session, state=state, examples=examples)
        self.say(Address(Kind.DEVICE, device=device), codec.encode(status), retain=retain)

    def skip(self, seconds: float) -> None:
        """Have it deal with what was sent to it, move its clock, and have it look there."""
        self.handled()
        self.advance(seconds)
        self.handled()

    def advance(self, seconds: float) -> None:
        """Move its clock, and leave it to it when it looks there."""
        self._now += seconds

    def handled(self) -> None:
        """Wait until it has dealt with all that was sent to it so far and looked at its clock, or has ended."""
        for _ in range(2):  # the first may be taken in before it looks, the second is not
            self._knock()

    def _knock(self) -> None:
        before = self.count(seen.MessageRejected)
        self.say(Address(Kind.JOIN, number=1, device="nobody"), b"?")
        self.until(
            lambda: self.count(seen.MessageRejected) > before or bool(self._ended), "the coordinator to take a message"
        )

    def until(self, condition: Callable[[], bool], what: str) -> None:
        """Wait until ``condition``; the test fails where it doesn't come true."""
        deadline = time.monotonic() + LIMIT_S
        while True:
            self._stirred.clear()
            if condition():
                return
            assert time.monotonic() < deadline, f"still waiting for {what}; so far: {self.seen[-20:]}"
            self._stirred.wait(0.05)

    def of(self, kind: type[O]) -> list[O]:
        """What it let be seen of one kind; without the rubbish of ``handled``."""
        return [one for one in tuple(self.seen) if isinstance(one, kind) and getattr(one, "device", "") != "nobody"]

    def count(self, kind: type[seen.Observation]) -> int:
        """How often it let something of one kind be seen, the rubbish of ``handled`` included."""
        return sum(isinstance(one, kind) for one in tuple(self.seen))

    def opened(self, attempts: int = 1) -> RoundAnnouncement:
        """The newest announcement that collects, once so many attempts have been opened."""
        self.until(lambda: self.count(seen.RoundOpened) >= attempts, f"attempt {attempts}")
        self.handled()
        asked = codec.decode(Kind.ROUND, self.broker.retained[TOPICS.topic(Address(Kind.ROUND))])
        assert isinstance(asked, RoundAnnouncement)
        return asked

    def _connect(self, sink: Sink, will: Will) -> Link:
        def pass_on(event: Event) -> None:
            if (passed := self.sieve(event)) is not None:
                sink(passed)

        self.sink = sink
        return self._make_link(pass_on, will)

    def _tap(self, sink: Sink, will: Will) -> Link:
        return self.link("coordinator", sink, will)

    def _run(self) -> None:
        try:
            self._ended.append(self._service.run())
        except BaseException as error:  # noqa: BLE001 - for ``result`` to raise
            self._ended.append(error)
        self._stirred.set()

    def _observe(self, event: seen.Observation, /) -> None:
        self.seen.append(event)
        self._stirred.set()

    def _watch(self, event: Event) -> None:
        if isinstance(event, Inbound):
            self.heard.append(event)
            self._stirred.set()
