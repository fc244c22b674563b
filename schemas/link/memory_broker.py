"""The broker in this process that ``memory``'s links connect to: a good one, with faults on order.

Nothing here has a thread or a clock. What a verb causes happens before it returns, on the caller's thread, one event
at a time, so that a whole federation replays exactly; what takes time (a delay, a reconnect) waits for
``MemoryBroker.advance``.
"""

from __future__ import annotations

import heapq
import random
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import Protocol

from schemas.link import filters
from schemas.link.backoff import Draw
from schemas.link.link import Inbound, Qos, Sink, Will
from schemas.link.outbound import Publication

matches = lru_cache(4096)(filters.matches)  # each message is held against each subscription


@dataclass(frozen=True, slots=True)
class Faults:
    """What goes wrong between the broker and its clients; publishers are told ``Sent`` all the same, as in life."""

    loss: float = 0.0  # probability that a message is thrown away, as a full queue does
    duplicate: float = 0.0  # probability that it comes twice
    delay_s: float = 0.0  # longest delay, each uniform below it; a subscriber's messages stay in order
    reorder: bool = False  # but those of one topic may overtake those of another
    uplink_s: float = 0.0  # longest way of a publication to the broker, and of ``Sent`` back; what breaks one loses it


class Client(Protocol):
    """What the broker has to do with of a link."""

    client_id: str
    will: Will | None
    keep_session: bool
    emit: Sink
    connection: object | None  # another one for each; None while there is none
    frozen: bool  # half-open: nothing comes through

    def broken(self, why: str) -> None:
        """The connection is gone."""


@dataclass(slots=True)
class _Message:
    topic: str
    payload: bytes
    qos: Qos
    retained: bool
    tried: bool = False


@dataclass(slots=True)
class _Session:
    """What the broker knows of a client id."""

    client_id: str
    filters: dict[str, Qos] = field(default_factory=dict)
    unacked: dict[int, _Message] = field(default_factory=dict)
    link: Client | None = None
    clear_at_s: dict[str, float] = field(default_factory=dict)  # when the last message on its way arrives; by topic


class MemoryBroker:
    """A broker in this process; ``now_s`` is its clock, which only ``advance`` moves."""

    def __init__(self, *, limit: int | None = None, faults: Faults | None = None, draw: Draw | None = None) -> None:
        """``limit``: largest payload in bytes; ``draw``: where faults and jitter come from. ``faults`` may change."""
        self.limit = limit
        self.faults = faults or Faults()
        self.now_s = 0.0
        self.draw = draw or random.Random(0)  # noqa: S311 - faults, no secret
        self.lock = threading.RLock()
        self._up = True
        self._sessions: dict[str, _Session] = {}
        self._retained: dict[str, _Message] = {}
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._order = 0
        self._running = False
        self._barred: set[str] = set()

    @property
    def retained(self) -> Mapping[str, bytes]:
        """The retained payloads by topic, as they are now."""
        with self.lock:
            return {topic: message.payload for topic, message in self._retained.items()}

    @property
    def next_due_s(self) -> float | None:
        """When ``advance`` next has something to do."""
        return self._due[0][0] if self._due else None

    def advance(self, seconds: float) -> None:
        """Move the clock; what falls due happens in its order, each at its own time."""
        with self.lock:
            until = self.now_s + seconds
            while self._due and self._due[0][0] <= until:
                self.now_s = max(self.now_s, self._due[0][0])
                self.run()
            self.now_s = until

    def cut(self, client_id: str, *, bar: bool = False) -> None:
        """Break a client's connection without a goodbye, which publishes its last will; ``bar`` it until ``mend``."""
        with self.lock:
            if bar:
                self._barred.add(client_id)
            session = self._sessions.get(client_id)
            if session is not None and session.link is not None:
                self._lose(session, session.link, "the connection broke")
            self.run()

    def freeze(self, client_id: str) -> None:
        """Have a client's connection hang, half-open: nothing comes through, and nobody notices until ``cut``."""
        with self.lock:
            session = self._sessions.get(client_id)
            if session is not None and session.link is not None:
                session.link.frozen = True

    def mend(self, client_id: str) -> None:
        """Let a barred client in at its next attempt."""
        with self.lock:
            self._barred.discard(client_id)

    def stop(self, *, forget: bool = False) -> None:
        """Go down, breaking all connections; ``forget`` retained messages and sessions, as a crash may."""
        with self.lock:
            self._up = False
            for session in list(self._sessions.values()):
                if session.link is not None:
                    self._lose(session, session.link, "the broker went down")
            if forget:
                self._sessions.clear()
                self._retained.clear()
            self.run()

    def start(self) -> None:
        """Come back; links find out at their next attempt."""
        with self.lock:
            self._up = True

    # What links call, holding the lock.

    def at(self, when_s: float, action: Callable[[], None]) -> None:
        """Have ``action`` done at a time; those of one time in the order of the calls."""
        self._order += 1
        heapq.heappush(self._due, (when_s, self._order, action))

    def soon(self, action: Callable[[], None]) -> None:
        """Have ``action`` done after what is already due now."""
        self.at(self.now_s, action)

    def run(self) -> None:
        """Do all that is due now, also what that causes; the outermost caller does it, so events never nest."""
        if self._running:
            return
        self._running = True
        try:
            while self._due and self._due[0][0] <= self.now_s:
                heapq.heappop(self._due)[2]()
        finally:
            self._running = False

    def uplink_at(self) -> float:
        """When something that a client and the broker say to each other now arrives."""
        return self.now_s + self.draw.random() * self.faults.uplink_s

    def connect(self, link: Client) -> bool | None:
        """Whether a session was kept for it; None: nothing answers."""
        if not self._up or link.client_id in self._barred:
            return None
        session = self._sessions.get(link.client_id)
        if session is not None and session.link is not None:
            self._lose(session, session.link, "another client connects with our client id")
            session = self._sessions.get(link.client_id)
        present = session is not None and link.keep_session
        if session is None or not present:
            session = self._sessions[link.client_id] = _Session(link.client_id)
        session.link = link
        return present

    def redeliver(self, client_id: str) -> None:
        """Send again what a kept session has not acknowledged."""
        session = self._sessions[client_id]
        for number, message in session.unacked.items():
            self._send(session, number, message)

    def disconnect(self, link: Client) -> None:
        """A goodbye: no last will."""
        session = self._sessions.get(link.client_id)
        if session is not None and session.link is link:
            session.link = None
            if not link.keep_session:
                del self._sessions[link.client_id]

    def accept(self, publication: Publication) -> None:
        """Retain where asked, and deliver to everyone who subscribes."""
        if publication.retain:
            # Out and in again: retained messages come in the order they were last published.
            self._retained.pop(publication.topic, None)
            if publication.payload:
                self._retained[publication.topic] = _Message(
                    publication.topic, publication.payload, publication.qos, retained=True
                )
        for session in list(self._sessions.values()):
            granted = [qos for pattern, qos in session.filters.items() if matches(pattern, publication.topic)]
            if granted:
                qos: Qos = 1 if publication.qos and max(granted) else 0
                self._deliver(session, _Message(publication.topic, publication.payload, qos, retained=False))

    def subscribe(self, client_id: str, filters: Mapping[str, Qos]) -> float:
        """Subscribe, and deliver what is retained; when all of that has arrived."""
        session = self._sessions[client_id]
        session.filters.update(filters)
        for pattern, qos in filters.items():
            for kept in list(self._retained.values()):
                if matches(pattern, kept.topic):
                    both: Qos = 1 if qos and kept.qos else 0
                    self._deliver(session, _Message(kept.topic, kept.payload, both, retained=True))
        return max((*session.clear_at_s.values(), self.now_s))

    def unsubscribe(self, client_id: str, filters: tuple[str, ...]) -> None:
        """Forget subscriptions."""
        for pattern in filters:
            self._sessions[client_id].filters.pop(pattern, None)

    def _lose(self, session: _Session, link: Client, why: str) -> None:
        session.link = None
        if not link.keep_session:
            self._sessions.pop(session.client_id, None)
        if link.will is not None:
            will = Publication(0, link.will.topic, link.will.payload, retain=True)
            self.soon(partial(self.accept, will))
        link.broken(why)

    def _deliver(self, session: _Session, message: _Message) -> None:
        if self.draw.random() < self.faults.loss:
            return
        self._order += 1
        number = self._order
        if message.qos:
            session.unacked[number] = message
        if session.link is not None:
            self._send(session, number, message)

    def _send(self, session: _Session, number: int, message: _Message) -> None:
        delay_s, queue = self.draw.random() * self.faults.delay_s, message.topic if self.faults.reorder else ""
        arrives_at = max(session.clear_at_s.get(queue, 0.0), self.now_s + delay_s)
        session.clear_at_s = {queue: at_s for queue, at_s in session.clear_at_s.items() if at_s > self.now_s}
        session.clear_at_s[queue] = arrives_at
        assert session.link is not None
        copies = 2 if self.draw.random() < self.faults.duplicate else 1
        for _ in range(copies):
            self.at(arrives_at, partial(self._arrive, session, number, message, session.link.connection))

    def _arrive(self, session: _Session, number: int, message: _Message, connection: object) -> None:
        """A message reaches its subscriber, if that connection is still the one it was sent over."""
        if session.link is None or session.link.connection is not connection or session.link.frozen:
            return
        duplicate, message.tried = message.tried, True
        ack = partial(self._ack, session, number, connection)
        session.link.emit(Inbound(message.topic, message.payload, message.retained, duplicate, ack, message.qos))

    def _ack(self, session: _Session, number: int, connection: object) -> None:
        with self.lock:
            if session.link is not None and session.link.connection is connection:
                session.unacked.pop(number, None)
