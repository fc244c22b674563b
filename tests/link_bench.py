"""Three brokers behind one face, and clients whose connections can be cut: what the link's contract is tested on."""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from schemas.link.address import BrokerAddress
from schemas.link.backoff import Backoff
from schemas.link.embedded import EmbeddedBroker
from schemas.link.link import Connected, Disconnected, Event, Inbound, Link, Refused, Sent, Will
from schemas.link.memory import MemoryBroker, MemoryLink
from schemas.link.mqtt import MqttLink, MqttSettings
from tests.link_mosquitto import Mosquitto
from tests.link_proxy import Proxy

E = TypeVar("E", Connected, Disconnected, Inbound, Refused, Sent)
LIMIT_S = 10.0
NUDGE_S = 0.25
QUICK = Backoff(first_s=0.02, longest_s=0.2)


class Ear:
    """A sink that remembers, and waits for what is to come."""

    def __init__(self, move: Callable[[], None] | None = None, *, ack: bool = True) -> None:
        """``move``: what makes time pass where nothing else does; ``ack`` messages as they come."""
        self.events: list[Event] = []
        self._heard = threading.Condition()
        self._move = move
        self._ack = ack

    def __call__(self, event: Event) -> None:
        with self._heard:
            self.events.append(event)
            self._heard.notify_all()
        if self._ack and isinstance(event, Inbound):
            event.ack()

    def all(self, kind: type[E]) -> list[E]:
        """The events of one kind so far."""
        with self._heard:
            return [event for event in self.events if isinstance(event, kind)]

    def payloads(self, topic: str | None = None) -> list[bytes]:
        """What came so far, on one topic or all."""
        return [event.payload for event in self.all(Inbound) if topic in {None, event.topic}]

    def until(self, condition: Callable[[], bool], what: str, nudge: Callable[[], object] | None = None) -> None:
        """Wait until ``condition``, nudging now and then; the test fails where it doesn't come true."""
        deadline = time.monotonic() + LIMIT_S
        nudged = 0.0
        while not condition():
            if nudge is not None and time.monotonic() - nudged >= NUDGE_S:
                nudged = time.monotonic()
                nudge()
            if self._move is not None:
                self._move()
            with self._heard:
                if not condition() and self._move is None:
                    self._heard.wait(0.05)
            assert time.monotonic() < deadline, f"still waiting for {what}; so far: {self.events[-20:]}"

    def until_heard(self, *payloads: bytes, nudge: Callable[[], object] | None = None) -> None:
        """Wait until each of ``payloads`` came, as often as it stands there."""
        wanted = Counter(payloads)
        self.until(lambda: wanted <= Counter(self.payloads()), f"{payloads}", nudge)

    def until_connected(self, times: int = 1) -> None:
        """Wait until the link has connected so many times."""
        self.until(lambda: len(self.all(Connected)) >= times, f"connection {times}")

    def until_sent(self, *tokens: int) -> None:
        """Wait until the broker has acknowledged each of ``tokens``."""
        self.until(lambda: set(tokens) <= {sent.token for sent in self.all(Sent)}, f"acknowledgements of {tokens}")


@dataclass
class Client:
    """A link, what it hears, and its cable."""

    link: Link
    ear: Ear
    cut: Callable[[], None]  # and keep it cut
    mend: Callable[[], None]
    opened: bool = field(default=False)

    def open(self) -> Client:
        """Connect, and wait until that is done and the broker has seen the subscriptions, which went before."""
        self.link.open()
        self.ear.until_connected()
        self.ear.until_sent(self.link.publish("elsewhere", b"travels behind the subscriptions"))
        return self


class Bench(ABC):
    """A broker and its clients."""

    name: str
    move: Callable[[], None] | None = None

    def __init__(self) -> None:
        self._clients: list[Client] = []

    @abstractmethod
    def _make(self, client_id: str, ear: Ear, will: Will | None, *, keep_session: bool, gated: bool) -> Client: ...

    @abstractmethod
    def restart(self) -> None:
        """Stop the broker, and start it again where it was."""

    def client(
        self,
        client_id: str,
        will: Will | None = None,
        *,
        keep_session: bool = False,
        ack: bool = True,
        gated: bool = False,
    ) -> Client:
        """A client that has yet to be opened."""
        client = self._make(client_id, Ear(self.move, ack=ack), will, keep_session=keep_session, gated=gated)
        self._clients.append(client)
        return client

    def close(self) -> None:
        """Close every client."""
        for client in self._clients:
            client.mend()
            client.link.close(timeout_s=1.0)


class MemoryBench(Bench):
    """The broker in memory."""

    name = "memory"

    def __init__(self) -> None:
        super().__init__()
        self.broker = MemoryBroker(limit=1_000_000)
        self.move = lambda: self.broker.advance(0.1)

    def _make(self, client_id: str, ear: Ear, will: Will | None, *, keep_session: bool, gated: bool) -> Client:
        link = MemoryLink(self.broker, client_id, ear, will, keep_session=keep_session, gated=gated)
        return Client(link, ear, lambda: self.broker.cut(client_id, bar=True), lambda: self.broker.mend(client_id))

    def restart(self) -> None:
        """Stop the broker, and start it again where it was."""
        self.broker.stop()
        self.broker.start()


class MqttBench(Bench):
    """A broker behind a socket; each client has a cable of its own to it."""

    mqtt5: bool | None = None

    def __init__(self) -> None:
        super().__init__()
        self._proxies: list[Proxy] = []

    @property
    @abstractmethod
    def port(self) -> int:
        """Where the broker listens."""

    def _make(self, client_id: str, ear: Ear, will: Will | None, *, keep_session: bool, gated: bool) -> Client:
        proxy = Proxy(self.port)
        self._proxies.append(proxy)
        settings = MqttSettings(
            BrokerAddress("127.0.0.1", proxy.port),
            client_id,
            session_expiry_s=600 * keep_session,
            mqtt5=self.mqtt5,
            backoff=QUICK,
        )
        return Client(MqttLink(settings, ear, will, gated=gated), ear, lambda: proxy.cut(bar=True), proxy.mend)

    def close(self) -> None:
        """Close every client."""
        super().close()
        for proxy in self._proxies:
            proxy.close()


class AmqttBench(MqttBench):
    """The embedded broker, in its child process."""

    name = "amqtt"

    def __init__(self) -> None:
        super().__init__()
        self._broker = EmbeddedBroker().__enter__()

    @property
    def port(self) -> int:
        """Where the broker listens."""
        return self._broker.port

    def restart(self) -> None:
        """Stop the broker, and start another: it has nothing to come back to."""
        self._broker.__exit__(None, None, None)
        self._broker = EmbeddedBroker().__enter__()
        for proxy in self._proxies:
            proxy.target = self._broker.port

    def close(self) -> None:
        """Close every client and the broker."""
        super().close()
        self._broker.__exit__(None, None, None)


class MosquittoBench(MqttBench):
    """The real thing."""

    name = "mosquitto"

    def __init__(self, broker: Mosquitto, *, mqtt5: bool | None = None) -> None:
        super().__init__()
        self.broker = broker
        self.mqtt5 = mqtt5

    @property
    def port(self) -> int:
        """Where the broker listens."""
        return self.broker.port

    def restart(self) -> None:
        """Stop the broker, and start it again where it was."""
        self.broker.restart()
