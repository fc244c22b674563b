"""The federation as its retained messages tell it: what ``coordinator status`` prints, coordinator running or not."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from schemas import codec
from schemas.errors import BrokerUnreachable, FederationError, WireError
from schemas.link.link import Connected, Disconnected, Event, Inbound, Link, Sink
from schemas.messages import (
    CoordinatorStatus,
    DeviceStatus,
    Message,
    ModelPointer,
    RoundAnnouncement,
    RoundSummary,
    RunSettings,
)
from schemas.topics import Kind, Topics

QUIET_S = 0.5  # retained messages come in one burst; this long without another one ends it
KINDS = (Kind.COORDINATOR, Kind.RUN, Kind.MODEL, Kind.ROUND, Kind.SUMMARY, Kind.DEVICE)


@dataclass(slots=True)
class Snapshot:
    """What the broker holds of one federation."""

    coordinator: CoordinatorStatus | None = None
    run: RunSettings | None = None
    model: ModelPointer | None = None
    round: RoundAnnouncement | None = None
    summaries: dict[int, RoundSummary] = field(default_factory=dict)
    devices: dict[str, DeviceStatus] = field(default_factory=dict)
    unreadable: int = 0  # retained messages that no version of ours has written

    def take(self, message: Message) -> None:
        """Keep ``message`` in its place."""
        match message:
            case CoordinatorStatus():
                self.coordinator = message
            case RunSettings():
                self.run = message
            case ModelPointer():
                self.model = message
            case RoundAnnouncement():
                self.round = message
            case RoundSummary():
                self.summaries[message.round] = message
            case DeviceStatus():
                self.devices[message.device] = message
            case _:
                self.unreadable += 1

    @property
    def empty(self) -> bool:
        """Whether nothing of a federation was there."""
        return self.coordinator is None and self.run is None and not self.devices


def read(open_link: Callable[[Sink], Link], topics: Topics, timeout_s: float = 10.0) -> Snapshot:
    """Read the federation's retained messages.

    Raises ``LinkError`` where the broker can't be used, ``FederationError`` where it holds no such federation.
    """
    events: queue.Queue[Event] = queue.Queue()
    link = open_link(events.put)
    snapshot = Snapshot()
    link.subscribe(*(topics.filter(kind) for kind in KINDS))
    link.open()
    try:
        _gather(events, topics, snapshot, timeout_s)
    finally:
        link.close()
    if snapshot.empty:
        raise FederationError(
            f"the broker holds nothing of a federation {topics.federation!r}: check --federation and --root, "
            "or start a coordinator"
        )
    return snapshot


def _gather(events: queue.Queue[Event], topics: Topics, snapshot: Snapshot, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    connected = False
    while True:
        left = deadline - time.monotonic()
        if left <= 0:
            break
        try:
            event = events.get(timeout=min(left, QUIET_S) if connected else left)
        except queue.Empty:
            break
        match event:
            case Connected():
                connected = True
            case Disconnected(error=error, fatal=True) if error is not None:
                raise error
            case Disconnected(error=error) if error is not None and not connected:
                raise error
            case Inbound():
                event.ack()
                _take(event, topics, snapshot)
            case _:
                pass
    if not connected:
        raise BrokerUnreachable(f"no broker answered within {timeout_s:g} s: check --broker and that it is running")


def _take(inbound: Inbound, topics: Topics, snapshot: Snapshot) -> None:
    address = topics.parse(inbound.topic)
    if address is None or not inbound.payload:
        return
    try:
        snapshot.take(codec.decode(address.kind, inbound.payload))
    except WireError:
        snapshot.unreadable += 1
