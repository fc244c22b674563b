"""Where callers leave what they want of a link, and the link's own thread fetches it: all its locking is here."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from schemas.errors import PayloadTooLarge
from schemas.link.filters import check_filter, check_topic
from schemas.link.link import Qos
from schemas.link.outbound import Outbound, Publication

HEADER: Final = 5 + 2 + 2 + 1  # bytes around topic and payload: fixed header, topic length, packet id, no properties


@dataclass(frozen=True, slots=True)
class Subscribe:
    """Subscribe to these filters, each at its QoS; ``token`` is for the broker's answer."""

    filters: Mapping[str, Qos]
    token: int


@dataclass(frozen=True, slots=True)
class Unsubscribe:
    """Forget these filters."""

    filters: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Ack:
    """Acknowledge packet ``mid`` of a connection; on any other one the number means another message."""

    connection: object = field(compare=False)
    mid: int


Order = Subscribe | Unsubscribe | Ack


class Mailbox:
    """What is to be published, what is subscribed to, orders for the connection there is, and when to stop."""

    def __init__(self, bulk_window: int, *, gated: bool = False) -> None:
        """``bulk_window``: bulk publications in flight; ``gated``: nothing goes after a connect until ``release``."""
        self.closing = threading.Event()
        self.wake, self._waker = socket.socketpair()  # ``wake`` is readable when there is something to fetch
        self.wake.setblocking(False)
        self._waker.setblocking(False)
        self._lock = threading.Lock()  # guards all below
        self._outbound = Outbound(bulk_window)
        self._gated = gated
        self._held = gated
        self._filters: dict[str, Qos] = {}
        self._forgotten: set[str] = set()  # unsubscribed while offline, which a kept session hasn't heard of
        self._orders: deque[Order] = deque()
        self._token = 0
        self._connection = 0  # how many there have been
        self._largest: int | None = None  # bytes of a packet the broker takes, while we know
        self._close_by = 0.0  # monotonic
        self._awake = False

    # For callers, on any thread.

    def publish(self, topic: str, payload: bytes, *, qos: Qos, retain: bool, bulk: bool) -> int:
        """Queue a publication; see ``Link``."""
        check_topic(topic)
        with self._lock:
            if error := self._too_large(topic, payload):
                raise error
            self._token += 1
            if not self.closing.is_set():
                self._outbound.put(Publication(self._token, topic, payload, qos, retain, bulk))
            token = self._token
        self._ring()
        return token

    def subscribe(self, filters: tuple[str, ...], qos: Qos) -> int:
        """Remember filters, and subscribe now if connected; see ``Link``."""
        for pattern in filters:
            check_filter(pattern)
        wanted = dict.fromkeys(filters, qos)
        with self._lock:
            self._filters.update(wanted)
            self._forgotten.difference_update(filters)
            self._token += 1
            token = self._token
            self._orders.append(Subscribe(wanted, token))
        self._ring()
        return token

    def unsubscribe(self, filters: tuple[str, ...]) -> None:
        """Forget filters."""
        with self._lock:
            for pattern in filters:
                self._filters.pop(pattern, None)
            self._forgotten.update(filters)
            self._orders.append(Unsubscribe(filters))
        self._ring()

    def release(self, connection: int) -> None:
        """Let publications through over this connection; see ``Link``."""
        with self._lock:
            if not self._held or connection != self._connection:
                return
            self._held = False
            self._outbound.drop_retained()
        self._ring()

    def ack(self, connection: object, mid: int) -> None:
        """Acknowledge a message that came over ``connection``."""
        with self._lock:
            self._orders.append(Ack(connection, mid))
        self._ring()

    def close(self, timeout_s: float) -> None:
        """Take nothing new, and give up what isn't sent after ``timeout_s``."""
        with self._lock:
            if not self.closing.is_set():
                self._close_by = time.monotonic() + timeout_s
                self.closing.set()
        self._ring()

    def _ring(self) -> None:
        with self._lock:
            if self._awake:
                return
            self._awake = True
            with contextlib.suppress(OSError):  # the link's thread is gone
                self._waker.send(b"\0")

    # For the link's own thread.

    def answer(self) -> None:
        """Take a wake-up back; look at everything after this."""
        with self._lock:
            self._awake = False
            with contextlib.suppress(BlockingIOError):
                self.wake.recv(64)

    def connected(self, *, largest: int | None, in_flight: int) -> tuple[dict[str, Qos], tuple[str, ...], int]:
        """A broker took us: filters to subscribe to, and to unsubscribe from, and its number. Older orders lapse.

        ``largest``: bytes of a packet it takes; ``in_flight``: publications it takes unacknowledged.
        """
        with self._lock:
            self._largest = largest
            self._outbound.limit_to(in_flight)
            forgotten = tuple(sorted(self._forgotten))
            self._forgotten.clear()
            self._orders.clear()
            self._held = self._gated
            self._connection += 1
            return dict(self._filters), forgotten, self._connection

    def disconnected(self) -> int:
        """The connection is gone; what was in flight, of so many bytes, waits again."""
        with self._lock:
            self._largest = None
            return self._outbound.lost()

    def orders(self) -> tuple[Order, ...]:
        """All orders since the last call, oldest first."""
        with self._lock:
            orders = tuple(self._orders)
            self._orders.clear()
            for order in orders:
                if isinstance(order, Unsubscribe):
                    self._forgotten.difference_update(order.filters)
            return orders

    def take(self, *, bulk: bool) -> tuple[Publication, PayloadTooLarge | None] | None:
        """The next publication to send, and why it can't be sent where it can't; None: nothing may go."""
        with self._lock:
            publication = None if self._held else self._outbound.take(bulk=bulk)
            if publication is None:
                return None
            error = self._too_large(publication.topic, publication.payload)
            if error:
                self._outbound.settle(publication.token)
            return publication, error

    def settle(self, token: int) -> Publication | None:
        """The broker answered a publication; None where it isn't in flight."""
        with self._lock:
            return self._outbound.settle(token)

    @property
    def done(self) -> bool:
        """Whether we are closing and there is nothing left that may be sent, or no time for it."""
        with self._lock:
            nothing = self._held or self._outbound.idle
            return self.closing.is_set() and (nothing or time.monotonic() >= self._close_by)

    def end(self) -> None:
        """The link's thread ends."""
        with self._lock:
            self.wake.close()
            self._waker.close()

    def _too_large(self, topic: str, payload: bytes) -> PayloadTooLarge | None:
        if self._largest is None or HEADER + len(topic.encode()) + len(payload) <= self._largest:
            return None
        return PayloadTooLarge(
            f"{len(payload)} bytes for {topic} are more than the broker takes (packets up to {self._largest} bytes): "
            "lower part_size, or raise the broker's limit"
        )
