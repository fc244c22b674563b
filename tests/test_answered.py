"""Which answered tickets a device remembers."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from edge.core.answered import REMEMBERED, remembered
from edge.core.events import Ticket


def tickets(runs: list[int]) -> list[Ticket]:
    return [Ticket(f"run-{run}", number, "train", f"{number:016x}") for number, run in enumerate(runs)]


TURNS = st.lists(st.tuples(st.integers(0, 3), st.integers(1, 20)), max_size=6).map(
    lambda turns: [run for run, length in turns for _ in range(length)]
)
RUNS = TURNS | st.lists(st.integers(0, 40), max_size=60)


@given(RUNS)
def test_invariant_11_no_more_than_sixteen_stay_in_their_order(runs: list[int]) -> None:
    all_of_them = tickets(runs)
    kept = remembered(all_of_them)
    assert len(kept) == min(REMEMBERED, len(all_of_them))
    assert list(kept) == [ticket for ticket in all_of_them if ticket in kept]


@given(RUNS)
def test_invariant_08_of_each_run_the_newest_stay_and_none_is_pushed_out_by_a_busier_one(runs: list[int]) -> None:
    """Seen to fail where the oldest goes, of whichever run."""
    kept: tuple[Ticket, ...] = ()
    for ticket in tickets(runs):
        kept = remembered((*kept, ticket))
    counts = Counter(ticket.run for ticket in kept)
    for run, asked in Counter(f"run-{run}" for run in runs).items():
        own = [ticket for ticket in tickets(runs) if ticket.run == run]
        assert [ticket for ticket in kept if ticket.run == run] == own[len(own) - counts[run] :]
        if counts[run] < asked:  # one was forgotten, and only since its run had most
            assert counts[run] >= max(counts.values()) - 1


@given(RUNS)
def test_remembering_one_by_one_or_all_at_once_is_the_same(runs: list[int]) -> None:
    one_by_one: tuple[Ticket, ...] = ()
    for ticket in tickets(runs):
        one_by_one = remembered((*one_by_one, ticket))
    assert one_by_one == remembered(tickets(runs))
