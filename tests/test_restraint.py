"""What a flood may have told of it, seen from outside: who reads the lines knows how many there would have been."""

from __future__ import annotations

from collections import defaultdict

from hypothesis import given
from hypothesis import strategies as st

from schemas.restraint import WINDOW_S, Restraint

FEW = 3
BOUND = {"rejected": FEW, "troubled": FEW}
FREE = "connected"  # of these, all is told


@given(
    start=st.sampled_from([0.0, 1e6]),
    comings=st.lists(
        st.tuples(st.sampled_from([0, 0, 0, 1, 20, 59, 60, 61, 200]), st.sampled_from([*BOUND, FREE])), max_size=60
    ),
)
def test_no_more_is_held_back_than_must_be_and_each_that_was_is_counted_once_as_its_minute_is_over(
    start: float, comings: list[tuple[int, str]]
) -> None:
    """Seen to fail with windows that end only where something was held back: then 100 messages in an hour were as many
    as in a minute; with the clock's reading added; and with a count told where nothing had been held back.
    """
    now = start
    told: dict[str, list[float]] = defaultdict(list)
    held: dict[str, int] = defaultdict(int)
    restraint = Restraint(BOUND, lambda: now)
    for gap, kind in comings:
        now += gap
        due = {name: count for name, count in held.items() if count and now - told[name][-FEW] >= WINDOW_S}
        assert dict(restraint.over()) == due
        held.update(dict.fromkeys(due, 0))
        if restraint.lets(kind):
            told[kind].append(now)
            assert kind == FREE or len([at for at in told[kind] if now - at < WINDOW_S]) <= 2 * FEW
        else:
            held[kind] += 1
            assert kind != FREE
            assert now - told[kind][-FEW] < WINDOW_S
    assert dict(restraint.over(ends=True)) == {name: count for name, count in held.items() if count}
    assert not list(restraint.over(ends=True))


def test_of_what_comes_at_one_time_as_much_is_told_as_a_minute_may_have() -> None:
    restraint = Restraint(BOUND, lambda: 1e6)  # as a clock of a machine that has run for days
    assert sum(restraint.lets("rejected") for _ in range(1000)) == FEW
