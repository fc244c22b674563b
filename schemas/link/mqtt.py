"""The link over MQTT, by paho-mqtt: the only import of paho.

One thread a link owns the socket, paho and its state machine; every verb leaves its wish under a lock and wakes that
thread. We drive paho's loop ourselves, by its documented hooks for foreign event loops, because its own loop
reconnects without jitter, holds at most 1024 file descriptors a process, and lets one large publish delay all others.
Every connection gets a fresh paho client, so that nothing survives a connection but what ``Outbound`` and the
table of subscriptions hold.

MQTT 5 is tried first. A broker that refuses it, or hangs up on it, is asked again at once in 3.1.1.
"""

from __future__ import annotations

import contextlib
import logging
import random
import selectors
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import paho.mqtt.client as paho
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from schemas.errors import BrokerRefused, BrokerUnreachable, LinkError, PayloadTooLarge, SettingsError
from schemas.link.address import BrokerAddress
from schemas.link.backoff import UNSUPPORTED_VERSION, Backoff, Draw, Verdict, judge
from schemas.link.filters import check_filter, check_topic
from schemas.link.link import Connected, Disconnected, Event, Inbound, Qos, Refused, Sent, Sink, Will
from schemas.link.outbound import Outbound, Publication

_log = logging.getLogger(__name__)

_HEADER: Final = 5 + 2 + 2 + 1  # bytes around topic and payload: fixed header, topic length, packet id, no properties
_TOPIC: Final = 256  # bytes of a topic that the limit we report leaves room for
_FILTERS_A_PACKET: Final = 64
_UNSENT: Final = 128 * 1024  # bytes the kernel may hold back unsent: what an urgent message waits behind
_LARGEST_INBOUND: Final = 17 * 2**20  # bytes of a packet we let an MQTT 5 broker send: the largest part and its envelope


_Wish = Callable[[paho.Client], object]


@dataclass(frozen=True, slots=True)
class MqttSettings:
    """How to connect. ``client_id`` must be unique at the broker, or two clients disconnect each other for ever."""

    address: BrokerAddress
    client_id: str
    ca: Path | None = None  # certificates to trust; the system's unless given
    cert: Path | None = None  # ours, with its chain
    key: Path | None = None  # in ``cert`` unless given
    keepalive_s: int = 30
    session_expiry_s: int = 0  # how long the broker keeps our session (3.1.1: as long as it likes); 0 is not at all
    bulk_window: int = 8  # bulk publications in flight
    connect_timeout_s: float = 10.0
    backoff: Backoff = field(default_factory=Backoff)

    def tls_context(self) -> ssl.SSLContext | None:
        """What TLS is to check and to show; None without TLS. Raises ``SettingsError`` for unusable files."""
        if not self.address.tls:
            if self.ca or self.cert or self.key:
                raise SettingsError(f"certificates are given, but {self.address} has no TLS: write mqtts://")
            return None
        if self.key and not self.cert:
            raise SettingsError("a private key is given without its certificate: add cert")
        try:
            context = ssl.create_default_context(cafile=self.ca)
        except (OSError, ssl.SSLError) as error:
            raise SettingsError(f"can't read certificates to trust from {self.ca}: {error}") from None
        try:
            if self.cert:
                context.load_cert_chain(self.cert, self.key)
        except (OSError, ssl.SSLError) as error:
            raise SettingsError(f"can't use the certificate {self.cert} with key {self.key}: {error}") from None
        return context


class MqttLink:
    """A ``Link`` to an MQTT broker; see there. Any verb may be called from any thread."""

    def __init__(self, settings: MqttSettings, sink: Sink, will: Will | None = None, *, draw: Draw | None = None) -> None:
        """``draw`` is where the jitter between attempts comes from.

        Raises ``SettingsError`` for unusable certificates.
        """
        self._settings = settings
        self._sink = sink
        self._will = will
        self._draw = draw or random.Random()  # noqa: S311 - jitter, no secret
        self._tls = settings.tls_context()
        self._wake_read, self._wake_write = socket.socketpair()
        self._wake_read.setblocking(False)
        self._wake_write.setblocking(False)
        self._thread = threading.Thread(target=self._run, name=f"mqtt-{settings.client_id}", daemon=True)
        self._lock = threading.Lock()  # guards all below
        self._outbound = Outbound(settings.bulk_window)
        self._filters: dict[str, Qos] = {}
        self._forgotten: set[str] = set()  # unsubscribed while offline, which a kept session hasn't heard of
        self._wishes: deque[_Wish] = deque()  # for the connection there is now
        self._tokens = 0
        self._largest: int | None = None  # bytes of a packet the broker takes
        self._woken = False
        self._close_by: float | None = None  # monotonic; not None: closing
        self._mqtt5: bool | None = None  # what the broker speaks, once we know

    def open(self) -> None:
        """Start connecting; ``Connected`` or ``Disconnected`` follows."""
        self._thread.start()

    def publish(self, topic: str, payload: bytes, *, qos: Qos = 1, retain: bool = False, bulk: bool = False) -> int:
        """Queue a publication; see ``Link``."""
        check_topic(topic)
        with self._lock:
            if error := self._too_large(topic, payload):
                raise error
            self._tokens += 1
            token = self._tokens
            if self._close_by is None:
                self._outbound.put(Publication(token, topic, payload, qos, retain, bulk))
        self._wake()
        return token

    def subscribe(self, *filters: str, qos: Qos = 1) -> None:
        """Subscribe; see ``Link``."""
        for pattern in filters:
            check_filter(pattern)
        with self._lock:
            self._filters.update(dict.fromkeys(filters, qos))
            self._forgotten.difference_update(filters)
            self._wishes.append(lambda client: _subscribe(client, dict.fromkeys(filters, qos)))
        self._wake()

    def unsubscribe(self, *filters: str) -> None:
        """Forget subscriptions."""
        with self._lock:
            for pattern in filters:
                self._filters.pop(pattern, None)
            self._forgotten.update(filters)
            self._wishes.append(lambda client: _unsubscribe(client, filters))
        self._wake()

    def close(self, farewell: Will | None = None, timeout_s: float = 5.0) -> None:
        """Say goodbye, flush, disconnect, stop; see ``Link``."""
        if farewell is not None and self._close_by is None:
            self.publish(farewell.topic, farewell.payload, retain=True)
        with self._lock:
            self._close_by = self._close_by or time.monotonic() + timeout_s
        self._wake()
        if self._thread.ident is not None:
            # Past its limit the thread may still hang in a look-up or a handshake, which end by themselves.
            self._thread.join(timeout_s + 1.0)

    def _too_large(self, topic: str, payload: bytes) -> PayloadTooLarge | None:
        if self._largest is None or _HEADER + len(topic.encode()) + len(payload) <= self._largest:
            return None
        return PayloadTooLarge(
            f"{len(payload)} bytes for {topic} are more than the broker takes (packets up to {self._largest} bytes): "
            "lower part_size, or raise the broker's limit"
        )

    def _wake(self) -> None:
        with self._lock:
            if self._woken:
                return
            self._woken = True
        with contextlib.suppress(OSError):  # closed, or so full that the thread wakes anyway
            self._wake_write.send(b"\0")

    def _slept(self) -> None:
        """Take back the wake-up, before looking at what it was for."""
        with contextlib.suppress(BlockingIOError):
            self._wake_read.recv(64)
        with self._lock:
            self._woken = False

    def _given_up(self) -> bool:
        """Whether we are closing and there is nothing left to send, or no time."""
        with self._lock:
            return self._close_by is not None and (self._outbound.idle or time.monotonic() >= self._close_by)

    # What follows runs on the link's own thread.

    def _run(self) -> None:
        failures = 0
        while not self._given_up():
            began = time.monotonic()
            verdict = self._attempt()
            with self._lock:
                self._outbound.lost()
                self._largest = None
                closing = self._close_by is not None
            if closing:
                break
            if time.monotonic() - began >= self._settings.backoff.settled_s:
                failures = 0
            failures += 1
            wait_s = None if verdict.fatal else self._settings.backoff.wait_s(failures, self._draw)
            self._sink(Disconnected(verdict.error, fatal=verdict.fatal, retry_in_s=wait_s))
            self._pause(wait_s)
        self._sink(Disconnected())
        self._wake_read.close()
        self._wake_write.close()

    def _pause(self, wait_s: float | None) -> None:
        """Wait so long, or until the link is closed; None: until then."""
        until = math.inf if wait_s is None else time.monotonic() + wait_s
        while self._close_by is None and (left_s := until - time.monotonic()) > 0:
            select.select([self._wake_read], [], [], None if left_s == math.inf else left_s)
            self._slept()

    def _attempt(self) -> Verdict:
        """Connect, and serve the connection until it ends."""
        connection = _Connection(self, mqtt5=self._mqtt5 is not False)
        verdict = connection.serve()
        if self._mqtt5 is None and connection.may_be_too_new and self._close_by is None:
            connection = _Connection(self, mqtt5=False)
            verdict = connection.serve()
        if connection.accepted:
            self._mqtt5 = connection.mqtt5
        elif connection.refusal == UNSUPPORTED_VERSION:
            self._mqtt5 = None
        return verdict
