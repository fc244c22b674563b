"""What of a broker's messages may wait for the agent, and what is let go."""

from __future__ import annotations

from edge.backlog import MESSAGE, MOST, Backlog
from schemas.link.link import Connected, Disconnected, Event, Inbound, Qos


def flood(backlog: Backlog, payload: bytes, count: int, qos: Qos = 0) -> None:
    for _ in range(count):
        backlog.hear(Inbound("topic", payload, qos=qos))


def test_even_empty_messages_do_not_wait_without_end() -> None:
    """Each takes memory beside its payload. Seen to fail with payloads alone counted."""
    waiting: list[Event] = []
    flood(Backlog(waiting.append), b"", 2 * MOST // MESSAGE)
    assert len(waiting) == MOST // MESSAGE


def test_what_the_broker_waits_to_have_acknowledged_is_never_let_go() -> None:
    """It would never be acknowledged. Seen to fail with QoS 1 counted, which parts of 1 MiB are sent at."""
    waiting: list[Event] = []
    backlog = Backlog(waiting.append)
    flood(backlog, bytes(2**20), 8, qos=1)
    assert len(waiting) == 8
    flood(backlog, b"", 2 * MOST // MESSAGE)
    flood(backlog, bytes(2**20), 8, qos=1)
    assert [event.qos for event in waiting[-8:] if isinstance(event, Inbound)] == [1] * 8


def test_that_the_broker_came_or_went_is_heard_however_much_waits() -> None:
    waiting: list[Event] = []
    backlog = Backlog(waiting.append)
    flood(backlog, bytes(100_000), 100)
    backlog.hear(Disconnected(None))
    backlog.hear(Connected())
    assert [type(event) for event in waiting[-2:]] == [Disconnected, Connected]


def test_what_was_taken_makes_room_for_as_much() -> None:
    waiting: list[Event] = []
    backlog = Backlog(waiting.append)
    flood(backlog, bytes(100_000), 100)
    before = len(waiting)
    for event in waiting[:3]:
        assert isinstance(event, Inbound)
        backlog.took(event)
    flood(backlog, bytes(100_000), 100)
    assert len(waiting) == before + 3


def test_what_was_let_go_is_told_once_by_the_bytes_of_its_payloads() -> None:
    waiting: list[Event] = []
    backlog = Backlog(waiting.append)
    flood(backlog, bytes(100_000), 30)
    assert backlog.dropped() == (30 - len(waiting)) * 100_000 > 0
    assert backlog.dropped() == 0
    flood(backlog, bytes(100_000), 2)
    assert backlog.dropped() == 200_000
