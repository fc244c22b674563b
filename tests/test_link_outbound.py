from __future__ import annotations

from collections import deque
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from schemas.link.outbound import Outbound, Publication


def taken(outbound: Outbound, *, bulk: bool) -> list[int]:
    """All that may go now."""
    return [publication.token for publication in iter(lambda: outbound.take(bulk=bulk), None)]


def filled(count: int, *, window: int = 8, bulk: bool = False, retain: bool = False) -> Outbound:
    outbound = Outbound(window)
    for token in range(count):
        outbound.put(Publication(token, f"t/{token}", b"", bulk=bulk, retain=retain))
    return outbound


def test_bulk_shares_a_window_and_the_rest_passes_by() -> None:
    outbound = filled(20, window=4, bulk=True)
    outbound.put(Publication(99, "urgent", b""))
    assert taken(outbound, bulk=True) == [0, 1, 2, 3]
    assert taken(outbound, bulk=False) == [99]
    outbound.settle(2)
    assert taken(outbound, bulk=True) == [4]


def test_the_receive_maximum_bounds_everything_and_leaves_half_beside_bulk() -> None:
    outbound = filled(20, bulk=True)
    outbound.limit_to(6)
    for token in range(100, 110):
        outbound.put(Publication(token, "urgent", b""))
    assert taken(outbound, bulk=True) == [0, 1, 2]
    assert taken(outbound, bulk=False) == [100, 101, 102]


def test_a_receive_maximum_of_one_still_lets_everything_through_in_turn() -> None:
    outbound = filled(3, bulk=True)
    outbound.limit_to(1)
    order = []
    while not outbound.idle:
        [token] = taken(outbound, bulk=True)
        order.append(token)
        outbound.settle(token)
    assert order == [0, 1, 2]


def test_at_qos_0_nothing_stays_in_flight() -> None:
    outbound = Outbound(1)
    for token in range(5):
        outbound.put(Publication(token, "t", b"", qos=0, bulk=True))
    assert taken(outbound, bulk=True) == [0, 1, 2, 3, 4]
    assert outbound.idle


def test_a_newer_retained_publication_stands_for_the_older_ones_at_the_end_of_the_queue() -> None:
    outbound = filled(3, retain=True)
    outbound.put(Publication(7, "t/0", b"new", retain=True))
    outbound.put(Publication(8, "t/0", b"newest", retain=True))
    publications = list(iter(lambda: outbound.take(bulk=False), None))
    assert [p.token for p in publications] == [1, 2, 8]
    assert publications[-1].payload == b"newest"
    assert publications[-1].tokens == (0, 7, 8)


def test_what_was_lost_goes_again_first_and_in_order() -> None:
    outbound = filled(6, window=2, bulk=True)
    assert taken(outbound, bulk=True) == [0, 1]
    outbound.settle(0)
    assert taken(outbound, bulk=True) == [2]
    assert outbound.lost() == 0  # bytes
    assert taken(outbound, bulk=True) == [1, 2]


def test_what_goes_again_after_a_cut_is_told_in_bytes() -> None:
    outbound = Outbound(2)
    for token in range(3):
        outbound.put(Publication(token, f"t/{token}", bytes(100), bulk=True))
    outbound.put(Publication(9, "t", bytes(7)))
    assert outbound.lost() == 0
    taken(outbound, bulk=True)
    taken(outbound, bulk=False)
    outbound.settle(0)
    assert outbound.lost() == 107


def test_a_retained_publication_lost_in_flight_yields_to_a_newer_one_that_waits() -> None:
    outbound = Outbound(8)
    outbound.put(Publication(1, "t", b"old", retain=True))
    assert taken(outbound, bulk=False) == [1]
    outbound.put(Publication(2, "t", b"new", retain=True))
    outbound.lost()
    publication = outbound.take(bulk=False)
    assert publication is not None
    assert (publication.payload, publication.tokens) == (b"new", (1, 2))
    assert outbound.take(bulk=False) is None


def test_a_window_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        Outbound(0)


class Everything(RuleBasedStateMachine):
    """Whatever happens, every token is settled once, and the newest payload of a retained topic is the last to go."""

    def __init__(self) -> None:
        super().__init__()
        self.outbound = Outbound(2)
        self.next = 0
        self.open: set[int] = set()
        self.in_flight: deque[Publication] = deque()
        self.newest: dict[str, int] = {}
        self.last: dict[str, int] = {}

    @rule(topic=st.sampled_from("abc"), retain=st.booleans(), bulk=st.booleans())
    def put(self, topic: str, retain: bool, bulk: bool) -> None:  # noqa: FBT001
        if retain:
            self.newest[topic] = self.next
        self.open.add(self.next)
        self.outbound.put(Publication(self.next, topic, b"", retain=retain, bulk=bulk))
        self.next += 1

    @rule(bulk=st.booleans())
    def take(self, bulk: bool) -> None:  # noqa: FBT001
        if publication := self.outbound.take(bulk=bulk):
            self.in_flight.append(publication)
            if publication.retain:
                self.last[publication.topic] = publication.token

    @precondition(lambda self: self.in_flight)
    @rule()
    def settle(self) -> None:
        publication = self.outbound.settle(self.in_flight.popleft().token)
        assert publication is not None
        assert set(publication.tokens) <= self.open
        self.open -= set(publication.tokens)

    @rule()
    def lost(self) -> None:
        self.outbound.lost()
        self.in_flight.clear()

    @invariant()
    def nothing_is_forgotten(self) -> None:
        assert self.outbound.idle == (not self.open)
        assert sum(publication.bulk for publication in self.in_flight) <= 2

    def teardown(self) -> None:
        self.lost()
        ways: tuple[Callable[[], None], ...] = (lambda: self.take(bulk=False), lambda: self.take(bulk=True))
        while not self.outbound.idle:
            for way in ways:
                way()
            while self.in_flight:
                self.settle()
        assert not self.open
        assert {topic: self.last[topic] for topic in self.newest} == self.newest


TestEverything = Everything.TestCase


@given(st.integers(1, 40), st.integers(1, 10))
def test_the_window_never_opens_further(count: int, window: int) -> None:
    assert len(taken(filled(count, window=window, bulk=True), bulk=True)) == min(count, window)
