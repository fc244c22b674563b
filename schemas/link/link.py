"""The seam between Fedbeat and a broker: a few verbs that MQTT, the in-memory broker and tests all speak.

Every verb returns at once. What comes back comes as an event to the ``sink`` given at construction, called on the
link's own thread: it must only put the event in a queue. Nothing here knows the federation's topics.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, Protocol

from schemas.errors import LinkError

Qos = Literal[0, 1]


@dataclass(frozen=True, slots=True)
class Will:
    """What the broker publishes, retained, at QoS 1, when the connection breaks without a goodbye."""

    topic: str
    payload: bytes


@dataclass(frozen=True, slots=True)
class Connected:
    """The broker took us; subscriptions have been sent again. ``limit``: largest payload it takes, where it says.

    ``connection`` counts them, from 1.
    """

    session_present: bool = False
    limit: int | None = None
    connection: int = field(default=1, compare=False)


@dataclass(frozen=True, slots=True)
class Disconnected:
    """The connection is gone. ``error`` is None after ``close``; the link keeps trying unless ``fatal``.

    ``again``: bytes of payload that were under way, and go once more over the next connection.
    """

    error: LinkError | None = None
    fatal: bool = False
    retry_in_s: float | None = None
    again: int = 0


@dataclass(frozen=True, slots=True)
class Inbound:
    """A message. The broker forgets it only after ``ack``, which may be called from any thread, once.

    How many wait for that is bounded at ``qos`` 1 alone.
    """

    topic: str
    payload: bytes
    retained: bool = False
    duplicate: bool = False
    ack: Callable[[], None] = field(default=lambda: None, compare=False, repr=False)
    qos: Qos = 1


@dataclass(frozen=True, slots=True)
class Sent:
    """The broker acknowledged what ``publish`` or ``subscribe`` gave this token to; that proves nothing of delivery."""

    token: int


@dataclass(frozen=True, slots=True)
class Refused:
    """The broker said it threw a publication away, or lets us not subscribe; the connection goes on.

    It comes instead of ``Sent`` where the broker can say so (MQTT 5), and where a payload queued before the broker's
    limit was known turns out too large. ``token`` is None for a subscription.
    """

    token: int | None
    error: LinkError


Event = Connected | Disconnected | Inbound | Sent | Refused
Sink = Callable[[Event], None]


class Link(Protocol):
    """A connection to one broker, reconnecting by itself until closed.

    One that is made ``gated`` subscribes at each connect, and publishes nothing over that connection until ``release``.
    """

    def open(self) -> None:
        """Start connecting; ``Connected`` or ``Disconnected`` follows."""

    def publish(self, topic: str, payload: bytes, *, qos: Qos = 1, retain: bool = False, bulk: bool = False) -> int:
        """Queue a publication and return its token; ``Sent`` follows at QoS 1, also when it was queued offline.

        ``bulk`` publications share a window of a few in flight, so that everything else overtakes them.
        A retained publication that still waits is replaced by a newer one on its topic; both tokens are then
        ``Sent`` together. After ``close`` nothing is published any more.
        Raises ``PayloadTooLarge`` where the broker has said it would not take the payload, ``ValueError`` for a
        topic that nothing can be published to.
        """

    def subscribe(self, *filters: str, qos: Qos = 1) -> int:
        """Subscribe, now if connected and again at every connect. Retained messages come each time this is called.

        All filters travel together. ``Sent`` follows with the token that is returned, where this connection lasts until
        the broker has answered; brokers send what they retain just before that or just after.
        Raises ``ValueError`` for what is no filter.
        """

    def release(self, connection: int) -> None:
        """Let publications through over this connection; nothing changes where it is gone, or the link isn't gated.

        Retained ones that have waited for it are dropped, without an answer: who opens a gate says all of them anew, in
        an order that those would break.
        """

    def unsubscribe(self, *filters: str) -> None:
        """Forget subscriptions."""

    def close(self, farewell: Will | None = None, timeout_s: float = 5.0) -> None:
        """Publish ``farewell`` retained where given, flush what is queued within ``timeout_s``, disconnect, stop.

        ``Disconnected`` without an error is the last event. The last will is not published. Not for the sink to call.
        """
