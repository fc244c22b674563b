from __future__ import annotations

import pytest

from coordinator.intake import BACKLOG, MESSAGE, Events, Stop, intake
from schemas.codec import MAX_JSON
from schemas.link.link import Connected, Event, Inbound, Qos
from schemas.topics import Address, Kind, Topics

TOPICS = Topics("home")
UPDATE = TOPICS.topic(Address(Kind.UPDATE_PART, number=1, device="dev-0", part=0))
JOIN = TOPICS.topic(Address(Kind.JOIN, number=1, device="dev-0"))
DEVICE = TOPICS.topic(Address(Kind.DEVICE, device="dev-0"))
COORDINATOR = TOPICS.topic(Address(Kind.COORDINATOR))


def taken_in(event: Event) -> Event:
    events = Events()
    intake(events, TOPICS)(event)
    taken = events.get_nowait()
    assert not isinstance(taken, Stop)
    return taken


@pytest.mark.parametrize(
    ("topic", "qos", "kept"),
    [
        (UPDATE, 1, 10**6),
        (UPDATE, 0, 0),
        (JOIN, 0, 0),
        ("elsewhere", 0, 0),
        (DEVICE, 1, 10**6),
        (DEVICE, 0, MAX_JSON + 1),
        (COORDINATOR, 0, MAX_JSON + 1),
        (TOPICS.topic(Address(Kind.RUN)), 0, MAX_JSON + 1),
        (TOPICS.topic(Address(Kind.PLAN_PART, digest="0" * 64, part=0)), 0, 10**6),  # our own, to be compared
        (TOPICS.topic(Address(Kind.MODEL_PART, number=7, part=0)), 0, 10**6),  # an old one's, which says how many
        (TOPICS.topic(Address(Kind.DELTA_PART, number=7, part=0)), 0, 10**6),
    ],
)
def test_invariant_11_what_came_at_qos_0_waits_for_its_refusal_without_its_bytes(
    topic: str, qos: Qos, kept: int
) -> None:
    """No window bounds how much of it waits. Seen to fail with ``events.put`` alone."""
    taken = taken_in(Inbound(topic, bytes(10**6), qos=qos))
    assert isinstance(taken, Inbound)
    assert (taken.topic, len(taken.payload), taken.qos) == (topic, kept, qos)


def test_a_status_at_qos_0_and_all_other_events_pass_whole() -> None:
    for event in (Inbound(COORDINATOR, b"{}", qos=0), Inbound(DEVICE, b"", qos=0), Connected()):
        assert taken_in(event) == event


def test_invariant_11_statuses_at_qos_0_that_nobody_looks_at_wait_up_to_a_bound() -> None:
    """A broker sends them without end. Seen to fail with ``events.put`` for all of them."""
    events = Events()
    put = intake(events, TOPICS)
    size = MAX_JSON + 1
    room = BACKLOG // (MESSAGE + size)
    flood = Inbound(DEVICE, bytes(size), qos=0)
    for _ in range(room + 10):
        put(flood)
    assert events.qsize() == room
    put(Inbound(UPDATE, b"", qos=1))
    put(Inbound(COORDINATOR, b"{}", qos=0))  # who else leads is not drowned by devices
    assert events.qsize() == room + 2
    while not events.empty():
        events.get_nowait()
    put(flood)
    assert events.get_nowait() == flood
