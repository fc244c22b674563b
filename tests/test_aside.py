from __future__ import annotations

from collections import deque

from hypothesis import given
from hypothesis import strategies as st

from coordinator.aside import MOST, Aside
from schemas.link.link import Inbound

BOUND = 10_000
a_message = st.builds(Inbound, st.just("topic"), st.integers(0, 4000).map(bytes), qos=st.sampled_from([0, 1]))


def test_invariant_11_a_full_disk_puts_a_bounded_number_of_bytes_aside_and_nothing_at_qos_0() -> None:
    """Seen to fail with messages counted and not their bytes: 1024 of a megabyte each were put aside."""
    aside, held = Aside(BOUND), list[int]()
    for qos in (0, 1, 1, 1, 1):
        aside.put(Inbound("topic", bytes(4000), qos=qos))
        held.append(aside.held)
    assert held == [0, 4000, 8000, 12_000, 12_000]


def test_invariant_11_a_full_disk_puts_a_bounded_number_of_messages_aside() -> None:
    aside = Aside()
    for _ in range(2 * MOST):
        aside.put(Inbound("topic", b"", qos=1))
    assert len(aside) == MOST


@given(st.lists(st.tuples(st.sampled_from(["put", "put back", "take"]), a_message), max_size=60))
def test_what_is_put_aside_is_taken_in_order_and_what_is_put_back_first(steps: list[tuple[str, Inbound]]) -> None:
    """Whatever the bound turns away; and its bytes are those that are there."""
    aside, expected = Aside(BOUND), deque[Inbound]()
    for what, message in steps:
        match what:
            case "take" if expected:
                assert aside.take() is expected.popleft()
            case "put back":
                aside.put_back(message)
                expected.appendleft(message)
            case "put":
                if message.qos and aside.held < BOUND:
                    expected.append(message)
                aside.put(message)
        assert (len(aside), aside.held) == (len(expected), sum(len(each.payload) for each in expected))
