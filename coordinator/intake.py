"""What the coordinator's one thread takes in: the link's events, and the word to stop."""

from __future__ import annotations

import queue
from dataclasses import dataclass, replace

from schemas.codec import MAX_JSON
from schemas.errors import FedbeatError
from schemas.link.link import Event, Inbound, Sink
from schemas.topics import Kind, Topics


@dataclass(frozen=True, slots=True)
class Stop:
    """In the queue: end now, for ``error`` if there is one."""

    error: FedbeatError | None


Events = queue.SimpleQueue[Event | Stop]


def intake(events: Events, topics: Topics) -> Sink:
    """What puts a link's events in ``events``.

    Of what came at QoS 0, of which any number may wait there, it keeps no more than a status has, and of answers
    nothing: those are refused anyway.
    """

    def put(event: Event) -> None:
        if isinstance(event, Inbound) and not event.qos:
            address = topics.parse(event.topic)
            most = MAX_JSON + 1 if address is not None and address.kind in (Kind.COORDINATOR, Kind.DEVICE) else 0
            event = replace(event, payload=event.payload[:most])
        events.put(event)

    return put
