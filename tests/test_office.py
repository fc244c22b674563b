"""A newcomer's look over a link, with what comes late."""

from __future__ import annotations

import queue
from dataclasses import dataclass, field

import pytest

from coordinator import leadership as lead
from coordinator import observers as seen
from coordinator.intake import Events
from coordinator.office import first_look
from schemas import codec
from schemas.errors import Superseded
from schemas.link.link import Connected, Event, Inbound, Sent, Will
from schemas.messages import CoordinatorState, CoordinatorStatus
from schemas.topics import Address, Kind, Topics

TOPICS = Topics("ward", "fl")
TOPIC = TOPICS.topic(Address(Kind.COORDINATOR))


def said(state: CoordinatorState, *, retained: bool) -> Inbound:
    status = CoordinatorStatus(state=state, session=7, instance="b" * 16, run="run-other", heartbeat_s=30.0)
    return Inbound(TOPIC, codec.encode(status), retained=retained)


@dataclass
class Slow:
    """A machine on which each look at the queue takes a second, and the link of a broker that answers at once."""

    events: queue.SimpleQueue[Event]
    now: float = 0.0
    answers: list[Event] = field(default_factory=list)  # beside what it retains
    tokens: int = 0
    published: list[tuple[str, bytes, bool]] = field(default_factory=list)

    def clock(self) -> float:
        self.now += 1.0
        return self.now

    def open(self) -> None:
        self.events.put(Connected())

    def subscribe(self, *_filters: str, qos: int = 1) -> int:
        del qos
        self.tokens += 1
        self.events.put(said(CoordinatorState.OFFLINE, retained=True))
        self.events.put(Sent(self.tokens))
        for event in self.answers if self.tokens == lead.LOOKS else ():
            self.events.put(event)
        return self.tokens

    def publish(self, topic: str, payload: bytes, *, qos: int = 1, retain: bool = False) -> int:
        del qos
        self.published.append((topic, payload, retain))
        return 0

    def close(self, farewell: Will | None = None, timeout_s: float = 5.0) -> None:
        """Nothing is left to do."""


def look(link: Slow, observe: seen.Observer = lambda _event: None, *, sweeps: bool = False) -> None:
    """A newcomer's first look through ``link``, by its clock."""
    events: Events = link.events  # type: ignore[assignment]  # of events, to which a Stop may be added
    first_look(
        lambda _sink: link,  # type: ignore[arg-type, return-value]  # has no more than a look needs
        TOPICS,
        "a" * 16,
        events,
        observe=observe,
        alive=lambda: None,
        now=link.clock,
        sweeps=sweeps,
    )


@pytest.mark.parametrize("waiting", [0, 5])
def test_must_29_silence_is_judged_by_what_has_come_and_not_by_what_has_been_looked_at(waiting: int) -> None:
    """On a slow machine a status waits behind others. Seen to fail with the time looked at after each of them."""
    link = Slow(queue.SimpleQueue())
    link.answers = [*[Sent(0)] * waiting, said(CoordinatorState.RUNNING, retained=False)]
    with pytest.raises(Superseded, match="serves this federation"):
        look(link)


def test_must_29_a_newcomer_asks_for_a_sign_of_life_and_leaves_the_retained_status_alone() -> None:
    """Seen to fail without a question, and with a retained one, which would clear the other's status."""
    link = Slow(queue.SimpleQueue())
    link.events.put(said(CoordinatorState.RUNNING, retained=True))
    events: Events = link.events  # type: ignore[assignment]  # of events, to which a Stop may be added
    found = first_look(
        lambda _sink: link,  # type: ignore[arg-type, return-value]  # has no more than a look needs
        TOPICS,
        "a" * 16,
        events,
        observe=lambda _event: None,
        alive=lambda: None,
        now=link.clock,
        sweeps=False,
    )
    assert found is not None
    assert (found.above, link.published) == (7, [(TOPIC, b"", False)])


class Instant(queue.SimpleQueue[Event]):
    """In which nothing is waited for: time is the link's."""

    def get(self, block: bool = True, timeout: float | None = None) -> Event:  # noqa: FBT001, FBT002 - as its base has it
        del block, timeout
        return self.get_nowait()


class Back(Slow):
    """Its broker is slow to tell what an earlier run left, and its rival is offline and comes back ``at`` seconds."""

    at = 3.5

    def clock(self) -> float:
        before, self.now = self.now, self.now + 0.1
        if before < self.at <= self.now:
            self.events.put(said(CoordinatorState.RUNNING, retained=False))
        return self.now

    def subscribe(self, *filters: str, qos: int = 1) -> int:
        return super().subscribe(*filters, qos=qos) if filters == (TOPIC,) else 0

    def unsubscribe(self, *_filters: str) -> None:
        """Nothing is left to do."""


def test_who_gives_up_has_not_said_that_it_goes_on_in_the_others_place() -> None:
    """The other came back while it still looked at what an earlier run left. Seen to fail: it said so, and gave up."""
    link = Back(Instant())
    told: list[seen.Observation] = []
    with pytest.raises(Superseded, match="serves this federation"):
        look(link, told.append, sweeps=True)
    assert link.now > lead.RETURN_S + 1.0  # in which nobody was there
    assert [type(one) for one in told] == [seen.RivalDoubted]
