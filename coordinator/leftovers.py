"""What is left retained in the coordinator's part of the tree that nobody needs any more, and is to be cleared.

Devices are not misled by it; people who look at the broker are, and it takes its room.

``Leftovers`` are an earlier run's, which a new run listens for before it begins. ``OldModels`` are those of our own run
that a coordinator was killed over, or that a broker has found again on its disk. Where rounds overlap there may be any
number of them, so they are listened for and not guessed. That is done after each connect, once all of the tree is out:
no device waits for it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from typing import Final

from schemas.link.link import Event, Inbound, Link, Sent
from schemas.topics import Address, Kind, Topics

MODELS: Final = frozenset({Kind.MODEL_PART, Kind.DELTA_PART})
KINDS: Final = frozenset({Kind.PLAN_PART, Kind.ROUND, Kind.SUMMARY}) | MODELS
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


class OldModels:
    """Listens for the first part of each version's model and step, which names how many there are.

    It goes out before the others and is cleared after them, so that it is there where anything of a version is. To hear
    all parts would cost as many bytes as the newest two models have, at each connect.
    """

    def __init__(self, link: Link, topics: Topics) -> None:
        self._link = link
        self._status = topics.topic(Address(Kind.COORDINATOR))
        self._firsts = tuple(topics.filter(kind, part=0) for kind in sorted(MODELS))
        self._due = True  # to be listened for
        self._listens = False
        self._token: int | None = None  # of what the broker has yet to answer
        self._found: dict[Address, None] = {}  # to be cleared, in this order

    @property
    def done(self) -> bool:
        """Whether the broker has told what it has, and no more of it is to be cleared."""
        return not (self._due or self._found or self._token is not None)

    @property
    def left(self) -> int:
        """How many topics are to be cleared still."""
        return len(self._found)

    def begin_anew(self) -> None:
        """Listen once more, when ``listen`` is called next."""
        self.listen_no_more()
        self._due, self._token = True, None
        self._found.clear()

    def listen(self) -> None:
        """Subscribe, where that is due; to the status too, so that whoever else serves is heard of first."""
        if self._due:
            self._due, self._listens = False, True
            self._link.subscribe(self._status, *self._firsts, qos=0)
            self._token = self._link.subscribe(self._status, qos=0)  # answered behind what is retained for the other

    def listen_no_more(self) -> None:
        """To be called before a model of ours is published, which would come back.

        Till then nothing comes, and some brokers send what they retain a while after their answer.
        """
        if self._listens:
            self._listens = False
            self._link.unsubscribe(*self._firsts)

    def answered(self, token: int) -> None:
        """The broker has answered something; what it retains has come, or is under way."""
        if token == self._token:
            self._token = None

    def heard(self, first: Address, parts: int, newest: int) -> None:
        """A version's first part is there, one of so many; ``newest`` is ours."""
        if first.number is None or first.number >= newest - 1:  # MUST 7: devices may be fetching the one before
            return
        for part in reversed(range(parts)):
            if len(self._found) >= MOST:
                return  # its first part stays, and is heard again
            self._found[replace(first, part=part)] = None

    def take(self, most: int) -> tuple[Address, ...]:
        """What to clear next."""
        taken = tuple(islice(self._found, most))
        for address in taken:
            del self._found[address]
        return taken


def is_first_part(address: Address) -> bool:
    """Whether ``OldModels`` is to hear of what comes there."""
    return address.kind in MODELS and address.part == 0
