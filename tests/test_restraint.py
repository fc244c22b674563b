"""What a flood may have told of it, seen from outside: who reads the lines knows how many there would have been."""

from __future__ import annotations

from collections import defaultdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator import observers as seen
from coordinator.restraint import MOST, WINDOW_S, Restraint

REJECTED = seen.MessageRejected("malformed", "not valid JSON", "fedbeat/home/devices/dev-one", "dev-one")
CONNECTED = seen.Connected()  # of these, all is told
KINDS: tuple[seen.Observation, ...] = (
    REJECTED,
    seen.DeviceTroubled("dev-one", "no recordings"),
    CONNECTED,
)
FEW = 3


@given(
    start=st.sampled_from([0.0, 1e6]),
    comings=st.lists(
        st.tuples(st.sampled_from([0, 0, 0, 1, 20, 59, 60, 61, 200]), st.sampled_from(KINDS)), max_size=60
    ),
)
def test_no_more_is_held_back_than_must_be_and_each_that_was_is_counted_once_as_its_minute_is_over(
    start: float, comings: list[tuple[int, seen.Observation]]
) -> None:
    """Seen to fail with windows that end only where something was held back: then 100 messages in an hour were as many
    as in a minute; with the clock's reading added; and with a count told where nothing had been held back.
    """
    now = start
    told: dict[str, list[float]] = defaultdict(list)
    held: dict[str, int] = defaultdict(int)
    with pytest.MonkeyPatch.context() as patch:
        for kind in (seen.MessageRejected, seen.DeviceTroubled):
            patch.setitem(MOST, kind, FEW)
        restraint = Restraint(lambda: now)
        for gap, event in comings:
            now += gap
            due = {name: count for name, count in held.items() if count and now - told[name][-FEW] >= WINDOW_S}
            assert {one.kind: one.count for one in restraint.over()} == due
            held.update(dict.fromkeys(due, 0))
            name = seen.name_of(type(event))
            if restraint.lets(event):
                told[name].append(now)
                assert event is CONNECTED or len([at for at in told[name] if now - at < WINDOW_S]) <= 2 * FEW
            else:
                held[name] += 1
                assert event is not CONNECTED
                assert now - told[name][-FEW] < WINDOW_S
        assert {one.kind: one.count for one in restraint.over(ends=True)} == {name: n for name, n in held.items() if n}
        assert not list(restraint.over(ends=True))


def test_of_what_comes_at_one_time_as_much_is_told_as_a_minute_may_have() -> None:
    restraint = Restraint(lambda: 1e6)  # as a clock of a machine that has run for days
    assert sum(restraint.lets(REJECTED) for _ in range(1000)) == MOST[seen.MessageRejected]
