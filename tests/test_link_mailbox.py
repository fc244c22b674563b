from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from schemas.link.mailbox import Mailbox

Make = Callable[[bool], Mailbox]


@pytest.fixture
def make() -> Iterator[Make]:
    """Mailboxes, gated or not, that end with the test."""
    made: list[Mailbox] = []

    def one(gated: bool) -> Mailbox:  # noqa: FBT001 - a test's own
        made.append(Mailbox(8, gated=gated))
        return made[-1]

    yield one
    for mailbox in made:
        mailbox.end()


def connected(mailbox: Mailbox) -> int:
    """A new connection's number."""
    _, _, number = mailbox.connected(largest=None, in_flight=100)
    return number


def put(mailbox: Mailbox, topic: str, *, retain: bool = True, bulk: bool = False) -> None:
    mailbox.publish(topic, b"x", qos=1, retain=retain, bulk=bulk)


def taken(mailbox: Mailbox) -> list[str]:
    """The topics that go now, in their order."""
    found = []
    for bulk in (False, True):
        while taken := mailbox.take(bulk=bulk):
            found.append(taken[0].topic)
    return found


def test_a_pointer_that_was_in_flight_never_goes_before_its_parts_over_the_next_connection(make: Make) -> None:
    """The broker may have lost the parts. Seen to fail without ``drop_retained``."""
    mailbox = make(True)
    mailbox.release(connected(mailbox))
    put(mailbox, "model")
    assert taken(mailbox) == ["model"]
    mailbox.disconnected()
    number = connected(mailbox)
    put(mailbox, "receipt", retain=False)
    put(mailbox, "model/6/0", bulk=True)
    mailbox.release(number)
    put(mailbox, "coordinator")
    assert taken(mailbox) == ["receipt", "coordinator"]
    mailbox.release(number)  # again: what waits now was said after it
    put(mailbox, "model/6/0", bulk=True)
    mailbox.release(number)
    assert taken(mailbox) == ["model/6/0"]


def test_a_release_is_for_the_connection_it_names(make: Make) -> None:
    """Who looked around over one may hear of its end late. Seen to fail with the number left alone."""
    mailbox = make(True)
    before = connected(mailbox)
    mailbox.disconnected()
    number = connected(mailbox)
    mailbox.release(before)
    put(mailbox, "receipt", retain=False)
    assert taken(mailbox) == []
    mailbox.release(number)
    assert taken(mailbox) == ["receipt"]


def test_what_waits_for_its_connection_is_kept_where_there_is_no_gate(make: Make) -> None:
    mailbox = make(False)
    put(mailbox, "status")
    mailbox.release(connected(mailbox))
    assert taken(mailbox) == ["status"]
    mailbox.disconnected()
    mailbox.release(connected(mailbox))
    assert taken(mailbox) == ["status"]
