"""How many bytes a device may move within a day."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.core.budget import HOUR_S, HOURS, Budget, parse, size
from schemas.errors import SettingsError


@pytest.mark.parametrize(
    ("text", "limit"),
    [
        ("50MB/day", 50_000_000),
        ("500kB/day", 500_000),
        ("1.5 gb/DAY", 1_500_000_000),
        ("0.25MB/day", 250_000),
        ("none", None),
        ("", None),
    ],
)
def test_a_budget_is_bytes_a_day(text: str, limit: int | None) -> None:
    assert parse(text) == limit


@pytest.mark.parametrize("text", ["50", "50MB", "50MB/week", "-1MB/day", "0MB/day", "MB/day", "5MiB/day", "1e3MB/day"])
def test_what_is_no_budget_is_refused_with_examples(text: str) -> None:
    with pytest.raises(SettingsError, match="50MB/day or 1GB/day, or none"):
        parse(text)


moves = st.lists(st.tuples(st.floats(0, 20_000), st.integers(1, 400)), max_size=60)


@given(moves)
def test_within_no_day_is_more_moved_than_the_limit_where_it_is_asked_first(steps: list[tuple[float, int]]) -> None:
    """Whatever the day begins with. Seen to fail with ``hour - HOURS < when`` in ``left``."""
    budget, now, moved = Budget(1000), 0.0, list[tuple[float, int]]()
    for wait, count in steps:
        now += wait
        if budget.left(now) >= count:
            assert budget.wait_s(now, count) == 0
            budget = budget.moved(now, count)
            moved.append((now, count))
        assert sum(much for when, much in moved if when > now - HOURS * HOUR_S) <= 1000
        assert len(budget.hours) <= HOURS + 1


@given(moves, st.integers(1, 1000))
def test_after_the_wait_it_is_affordable_and_a_minute_before_it_is_not(
    steps: list[tuple[float, int]], needed: int
) -> None:
    """Seen to fail with ``HOURS`` for ``HOURS + 1`` in ``wait_s``."""
    budget, now = Budget(1000), 0.0
    for pause, count in steps:
        now += pause
        budget = budget.moved(now, count)
    wait = budget.wait_s(now, needed)
    assert wait < math.inf
    assert budget.left(now + wait + 0.01) >= needed
    if wait > 60:
        assert budget.left(now + wait - 60) < needed


def test_what_is_more_than_the_whole_budget_never_is() -> None:
    assert Budget(1000).wait_s(5.0, 1001) == math.inf
    assert Budget(1000).why_not(5.0, 1001) == "it takes about 1 kB, more than its budget of 1 kB a day: raise --budget"


def test_the_reason_says_what_is_left_what_it_takes_and_when() -> None:
    budget = Budget(50_000_000).moved(100.0, 49_700_000)
    assert budget.why_not(100.0, 200_000) == ""
    assert budget.why_not(HOUR_S, 500_000) == (
        "300 kB of its 50 MB a day are left and it takes about 500 kB: again in 24.0 h"
    )
    assert budget.why_not(24.75 * HOUR_S, 500_000).endswith("again in 15 min")


def test_sizes_are_read_by_people() -> None:
    assert [size(count) for count in (7, 1500, 2_340_000, 5 * 10**9)] == ["7 B", "1.5 kB", "2.34 MB", "5 GB"]
