"""What a link has still to publish, and what the broker has still to acknowledge. Pure; the link holds the lock.

Three rules live here. Bulk publications share a window, so that everything else overtakes them. A retained
publication that still waits is replaced by a newer one on its topic, so that weeks offline cost one message a topic.
What was in flight when a connection broke goes again, first, in its old order.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, replace

from schemas.link.link import Qos


@dataclass(frozen=True, slots=True)
class Publication:
    """One message to publish. ``stands_for``: tokens of older ones on its topic that it replaced."""

    token: int
    topic: str
    payload: bytes
    qos: Qos = 1
    retain: bool = False
    bulk: bool = False
    stands_for: tuple[int, ...] = ()

    @property
    def tokens(self) -> tuple[int, ...]:
        """All tokens that are done with when this publication is."""
        return (*self.stands_for, self.token)


class Outbound:
    """A queue for bulk, a queue for everything else, and what is in flight."""

    def __init__(self, bulk_window: int) -> None:
        """``bulk_window``: how many bulk publications may be in flight at once."""
        if bulk_window < 1:
            raise ValueError("the bulk window must let at least one publication through")
        self._wanted_window = bulk_window
        self._window = bulk_window
        self._maximum = 0
        self._waiting: dict[bool, OrderedDict[int, Publication]] = {False: OrderedDict(), True: OrderedDict()}
        self._retained: dict[str, Publication] = {}  # of the waiting ones, by topic
        self._in_flight: dict[int, Publication] = {}
        self._bulk_in_flight = 0
        self.limit_to(65_535)

    def limit_to(self, in_flight: int) -> None:
        """Keep at most ``in_flight`` publications unacknowledged, which is MQTT 5's receive maximum."""
        self._maximum = in_flight
        self._window = max(1, min(self._wanted_window, in_flight // 2))  # half is left for what overtakes bulk

    @property
    def idle(self) -> bool:
        """Whether everything is published and acknowledged."""
        return not (self._in_flight or self._waiting[False] or self._waiting[True])

    def put(self, publication: Publication) -> None:
        """Queue a publication."""
        if publication.retain:
            if older := self._retained.get(publication.topic):
                del self._waiting[older.bulk][older.token]
                publication = replace(publication, stands_for=(*older.tokens, *publication.stands_for))
            self._retained[publication.topic] = publication
        self._waiting[publication.bulk][publication.token] = publication

    def take(self, *, bulk: bool) -> Publication | None:
        """The next publication to send, in flight from now on if it is to be acknowledged; None: nothing may go."""
        queue = self._waiting[bulk]
        if not queue or len(self._in_flight) >= self._maximum or (bulk and self._bulk_in_flight >= self._window):
            return None
        token, publication = queue.popitem(last=False)
        if publication.retain:
            del self._retained[publication.topic]
        if publication.qos:
            self._in_flight[token] = publication
            self._bulk_in_flight += publication.bulk
        return publication

    def settle(self, token: int) -> Publication | None:
        """The broker answered ``token``; what it was, or None where it is not in flight."""
        publication = self._in_flight.pop(token, None)
        if publication is not None:
            self._bulk_in_flight -= publication.bulk
        return publication

    def drop_retained(self) -> None:
        """Forget the retained publications that wait."""
        for publication in self._retained.values():
            del self._waiting[publication.bulk][publication.token]
        self._retained.clear()

    def lost(self) -> int:
        """The connection is gone: what was in flight, of so many bytes, waits again, before everything else."""
        size = sum(len(publication.payload) for publication in self._in_flight.values())
        again = [*self._in_flight.values(), *self._waiting[False].values(), *self._waiting[True].values()]
        self._in_flight.clear()
        self._retained.clear()
        self._bulk_in_flight = 0
        for queue in self._waiting.values():
            queue.clear()
        for publication in again:
            self.put(publication)
        return size
