"""The link's twin without a network, to a broker in the same process. See ``memory_broker`` for what that promises.

Links may be used from several threads; the order of what happens is then the threads' own.
"""

from __future__ import annotations

from collections import deque
from functools import partial

from schemas.errors import BrokerUnreachable, PayloadTooLarge
from schemas.link.backoff import Backoff
from schemas.link.filters import check_filter, check_topic
from schemas.link.link import Connected, Disconnected, Event, Qos, Sent, Sink, Will
from schemas.link.memory_broker import Faults, MemoryBroker
from schemas.link.outbound import Outbound, Publication

__all__ = ["Faults", "MemoryBroker", "MemoryLink"]


class MemoryLink:
    """A ``Link`` to a ``MemoryBroker``; see there."""

    def __init__(
        self,
        broker: MemoryBroker,
        client_id: str,
        sink: Sink,
        will: Will | None = None,
        *,
        keep_session: bool = False,
        bulk_window: int = 8,
        backoff: Backoff | None = None,
        gated: bool = False,
    ) -> None:
        """``keep_session``: what wasn't acknowledged, or came while offline, comes after a reconnect.

        ``gated``: see ``Link``.
        """
        self.client_id = client_id
        self.will = will
        self.keep_session = keep_session
        self.emit = sink
        self.connection: object | None = None
        self.frozen = False
        self._broker = broker
        self._backoff = backoff or Backoff()
        self._outbound = Outbound(bulk_window)
        self._filters: dict[str, Qos] = {}
        self._forgotten: set[str] = set()
        self._under_way: deque[Publication] = deque()
        self._arrives_at = 0.0
        self._token = 0
        self._number = 0  # of connections
        self._failures = 0
        self._closed = False
        self._gated = gated
        self._held = gated

    def open(self) -> None:
        """Connect."""
        with self._broker.lock:
            self._broker.soon(self._connect)
            self._broker.run()

    def publish(self, topic: str, payload: bytes, *, qos: Qos = 1, retain: bool = False, bulk: bool = False) -> int:
        """Queue a publication; see ``Link``."""
        check_topic(topic)
        with self._broker.lock:
            limit = self._broker.limit if self.connection else None
            if limit is not None and len(payload) > limit:
                raise PayloadTooLarge(f"{len(payload)} bytes for {topic}, the broker takes {limit}: lower part_size")
            self._token += 1
            if not self._closed:
                self._outbound.put(Publication(self._token, topic, payload, qos, retain, bulk))
            self._flush()
            token = self._token
            self._broker.run()
            return token

    def subscribe(self, *filters: str, qos: Qos = 1) -> int:
        """Subscribe; see ``Link``."""
        for pattern in filters:
            check_filter(pattern)
        with self._broker.lock:
            wanted = dict.fromkeys(filters, qos)
            self._filters.update(wanted)
            self._forgotten.difference_update(filters)
            self._token += 1
            token = self._token
            if self.connection and not self.frozen:
                arrived_at = self._broker.subscribe(self.client_id, wanted)
                self._broker.at(arrived_at, partial(self._answer, token, self.connection))
            self._broker.run()
            return token

    def release(self, connection: int) -> None:
        """Let publications through; see ``Link``."""
        with self._broker.lock:
            if not self._held or not self.connection or connection != self._number:
                return
            self._held = False
            self._outbound.drop_retained()
            self._flush()
            self._broker.run()

    def unsubscribe(self, *filters: str) -> None:
        """Forget subscriptions."""
        with self._broker.lock:
            for pattern in filters:
                self._filters.pop(pattern, None)
            if self.connection and not self.frozen:
                self._broker.unsubscribe(self.client_id, filters)
            else:
                self._forgotten.update(filters)

    def close(self, farewell: Will | None = None, timeout_s: float = 5.0) -> None:  # noqa: ARG002 - nothing takes time
        """Say goodbye and disconnect; what is queued while offline is lost. See ``Link``."""
        with self._broker.lock:
            if self._closed:
                return
            if farewell is not None:
                self.publish(farewell.topic, farewell.payload, retain=True)
            while self._under_way and not self.frozen:
                self._broker.accept(self._under_way.popleft())
            self._closed = True
            self._broker.disconnect(self)
            self.connection = None
            self._broker.soon(partial(self.emit, Disconnected()))
            self._broker.run()

    def broken(self, why: str) -> None:
        """The broker says the connection is gone."""
        self.connection, self.frozen = None, False
        self._under_way.clear()
        self._retry(why, self._outbound.lost())

    def _connect(self) -> None:
        if self._closed or self.connection:
            return
        present = self._broker.connect(self)
        if present is None:
            self._retry("nothing answers")
            return
        self.connection = object()
        self._held = self._gated
        self._failures = 0
        self._number += 1
        self._tell(Connected(present, self._broker.limit, self._number))
        self._broker.unsubscribe(self.client_id, tuple(self._forgotten))
        self._forgotten.clear()
        self._broker.redeliver(self.client_id)
        self._broker.subscribe(self.client_id, self._filters)
        self._flush()

    def _retry(self, why: str, again: int = 0) -> None:
        self._failures += 1
        wait_s = self._backoff.wait_s(self._failures, self._broker.draw)
        self._tell(Disconnected(BrokerUnreachable(f"the broker in memory: {why}"), retry_in_s=wait_s, again=again))
        self._broker.at(self._broker.now_s + wait_s, self._connect)

    def _flush(self) -> None:
        """Hand the broker what may go."""
        while (
            self.connection
            and not (self._held or self.frozen)
            and (publication := self._outbound.take(bulk=False) or self._outbound.take(bulk=True))
        ):
            if not self._broker.faults.uplink_s and not self._under_way:
                self._broker.accept(publication)
                self._settle(publication)
                continue
            self._under_way.append(publication)
            self._arrives_at = max(self._arrives_at, self._broker.uplink_at())
            self._broker.at(self._arrives_at, partial(self._reach, self.connection))

    def _reach(self, connection: object) -> None:
        """The oldest publication under way reaches the broker, if that connection still holds."""
        if self.connection is connection and not self.frozen and self._under_way:
            publication = self._under_way.popleft()
            self._broker.accept(publication)
            self._broker.at(self._broker.uplink_at(), partial(self._acknowledged, publication, connection))

    def _acknowledged(self, publication: Publication, connection: object) -> None:
        if self.connection is connection and not self.frozen:
            self._settle(publication)
            self._flush()

    def _settle(self, publication: Publication) -> None:
        if publication.qos:
            self._outbound.settle(publication.token)
            for token in publication.tokens:
                self._tell(Sent(token))

    def _answer(self, token: int, connection: object) -> None:
        if self.connection is connection:
            self.emit(Sent(token))

    def _tell(self, event: Event) -> None:
        self._broker.soon(partial(self.emit, event))
