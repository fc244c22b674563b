"""What the coordinator's one thread takes in: the link's events, and the word to stop."""

from __future__ import annotations

import queue
from dataclasses import dataclass, replace
from typing import Final

from coordinator.guard import GUARDED
from coordinator.leftovers import MODELS
from schemas.codec import MAX_JSON, MAX_PART
from schemas.errors import FedbeatError
from schemas.link.link import Event, Inbound, Sink
from schemas.topics import Kind, Topics


@dataclass(frozen=True, slots=True)
class Stop:
    """In the queue: end now, for ``error`` if there is one."""

    error: FedbeatError | None


BACKLOG: Final = 64 * 2**20
MESSAGE: Final = 512  # bytes that one takes beside its payload, at least
# Bytes that are read of what comes at QoS 0.
_MOST: Final[dict[Kind | None, int]] = dict.fromkeys({Kind.COORDINATOR, Kind.DEVICE} | GUARDED, MAX_JSON + 1)
_MOST.update(dict.fromkeys({Kind.PLAN_PART} | MODELS, MAX_PART + 1))

Events = queue.SimpleQueue[Event | Stop]


def intake(events: Events, topics: Topics) -> Sink:
    """What puts a link's events in ``events``.

    The broker holds back what came at QoS 1, unacknowledged; what came at QoS 0 it sends without end, so here is its
    bound. Of such a message no more is kept than it may have, and of an answer nothing: that is refused anyway. Of
    statuses that come while others wait, ``BACKLOG`` bytes are kept, and twice as much of a coordinator's: what is
    lost is said again at the next heartbeat.
    """
    waiting = 0  # bytes at QoS 0 since the queue was last empty

    def put(event: Event) -> None:
        nonlocal waiting
        if isinstance(event, Inbound) and not event.qos:
            address = topics.parse(event.topic)
            kind = None if address is None else address.kind
            event = replace(event, payload=event.payload[: _MOST.get(kind, 0)])
            with_it = MESSAGE + len(event.payload) + (0 if events.empty() else waiting)
            if with_it > (2 * BACKLOG if kind is Kind.COORDINATOR else BACKLOG):
                return
            waiting = with_it
        events.put(event)

    return put
