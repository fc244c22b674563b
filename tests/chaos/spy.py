"""Somebody who watches a federation's topics over the broker, and remembers what went by."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

from schemas import codec
from schemas.errors import WireError
from schemas.link.address import BrokerAddress
from schemas.link.link import Connected, Event, Inbound
from schemas.link.mqtt import MqttLink
from schemas.link.mqtt_settings import MqttSettings
from schemas.messages import (
    CoordinatorState,
    CoordinatorStatus,
    DeviceState,
    DeviceStatus,
    Message,
    RoundSummary,
)
from schemas.topics import Address, Kind, Topics

LIMIT_S = 60.0
TOPICS = Topics("home")


@dataclass(frozen=True, slots=True)
class Heard:
    """One message as it went by; ``message`` is None where it is a part, empty or not to be read."""

    at: float  # monotonic seconds
    topic: str
    address: Address | None
    message: Message | None
    payload: bytes
    retained: bool  # it was there before the spy asked


class Spy:
    """A client that only listens. It comes back by itself after an outage; what went by meanwhile it has missed."""

    def __init__(self, port: int, name: str = "spy") -> None:
        self._stirred = threading.Condition()
        self._heard: list[Heard] = []
        self._connected = threading.Event()
        settings = MqttSettings(BrokerAddress.parse(f"mqtt://127.0.0.1:{port}"), name)
        self.link = MqttLink(settings, self._take)
        self.link.subscribe(f"{TOPICS.prefix}#")

    def __enter__(self) -> Self:
        self.link.open()
        assert self._connected.wait(LIMIT_S), "the spy finds no broker"
        return self

    def __exit__(self, *_: object) -> None:
        self.link.close()

    @property
    def heard(self) -> Sequence[Heard]:
        """All so far."""
        with self._stirred:
            return tuple(self._heard)

    def of(self, kind: Kind, since: int = 0) -> list[Heard]:
        """All of one kind."""
        return [one for one in self.heard[since:] if one.address is not None and one.address.kind is kind]

    def next(self, wanted: Callable[[Heard], bool], since: int, limit_s: float = LIMIT_S) -> Heard | None:
        """The first message from number ``since`` on that is wanted; None where none comes within the limit."""
        deadline = time.monotonic() + limit_s
        with self._stirred:
            while True:
                for one in self._heard[since:]:
                    if wanted(one):
                        return one
                since = len(self._heard)
                left = deadline - time.monotonic()
                if left <= 0:
                    return None
                self._stirred.wait(left)

    def until(self, wanted: Callable[[Heard], bool], what: str, since: int = 0) -> Heard:
        """The first message from number ``since`` on that is wanted; the test fails where none comes."""
        found = self.next(wanted, since)
        assert found is not None, f"nobody heard {what}; last heard: {[one.topic for one in self.heard[-20:]]}"
        return found

    def _take(self, event: Event) -> None:
        if isinstance(event, Connected):
            self._connected.set()
        if not isinstance(event, Inbound):
            return
        event.ack()
        address = TOPICS.parse(event.topic)
        message: Message | None = None
        if address is not None and address.rule.form == "json" and event.payload:
            try:
                message = codec.decode(address.kind, event.payload)
            except WireError:
                message = None
        with self._stirred:
            one = Heard(time.monotonic(), event.topic, address, message, event.payload, event.retained)
            self._heard.append(one)
            self._stirred.notify_all()


def closed_by(*devices: str) -> Callable[[Heard], bool]:
    """Whether a message says that a round has been closed with exactly these devices, just now."""

    def look(heard: Heard) -> bool:
        return isinstance(heard.message, RoundSummary) and heard.message.devices == devices and not heard.retained

    return look


def coordinator(state: CoordinatorState) -> Callable[[Heard], bool]:
    """Whether a message says that this is the coordinator's state."""

    def look(heard: Heard) -> bool:
        return isinstance(heard.message, CoordinatorStatus) and heard.message.state is state

    return look


def device_gone(heard: Heard, device: str = "dev-0") -> bool:
    """Whether a message is the last will of a device."""
    status = heard.message
    return isinstance(status, DeviceStatus) and (status.device, status.state) == (device, DeviceState.OFFLINE)
