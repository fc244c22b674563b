"""What an earlier run left retained in the coordinator's part of the tree, which a new run is to clear.

Devices go by the run's name and are not misled by it; people who look at the broker are, and it takes its room.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from schemas.link.link import Event, Inbound, Link, Sent
from schemas.topics import Address, Kind, Topics

KINDS: Final = frozenset({Kind.PLAN_PART, Kind.MODEL_PART, Kind.DELTA_PART, Kind.ROUND, Kind.SUMMARY})
QUIET_S: Final = 0.3  # they come in one burst; this long without another one ends it
LONGEST_S: Final = 5.0  # what has not come by then stays
MOST: Final = 20_000  # topics, and so does what is beyond


def filters(topics: Topics) -> tuple[str, ...]:
    """What to subscribe to, to hear of them; that of summaries matches the current round too."""
    return tuple(topics.filter(kind) for kind in Kind if kind in KINDS - {Kind.ROUND})


class Leftovers:
    """Listens over ``link``. Parts come with them, at QoS 0, so that nothing of it waits for our acknowledgement."""

    def __init__(self, link: Link, topics: Topics, now: Callable[[], float]) -> None:
        """``now`` is in monotonic seconds."""
        self.found: dict[Address, None] = {}  # each once, in the order they came
        self._link = link
        self._topics = topics
        self._now = now
        self._token: int | None = None
        self._heard_at: float | None = None  # the newest of them, or the broker's answer
        self._began = now()

    def look(self) -> None:
        """Subscribe; after each connect."""
        self._token, self._heard_at, self._began = None, None, self._now()
        self._token = self._link.subscribe(*filters(self._topics), qos=0)

    def take(self, event: Event) -> None:
        """Note what is one."""
        match event:
            case Sent(token) if token == self._token:
                self._heard_at = self._now()
            case Inbound(topic=topic, retained=True):
                address = self._topics.parse(topic)
                if address is not None and address.kind in KINDS and len(self.found) < MOST:
                    self.found[address] = None
                    self._heard_at = self._now()

    @property
    def left_s(self) -> float:
        """For how long more are waited for."""
        until = self._began + LONGEST_S
        if self._heard_at is not None:
            until = min(until, self._heard_at + QUIET_S)
        return max(0.0, until - self._now())

    def end(self) -> None:
        """Listen no more; the broker may keep the session."""
        self._link.unsubscribe(*filters(self._topics))
