"""What each key does to the labels of a record's beats."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.label.labelling import KEYS, LABELS, TAKE, Labelled, Labelling, key_lines, minutes_asked, press, spread
from schemas.errors import SettingsError


def pressed(state: Labelling, keys: str) -> Labelling:
    for key in keys:
        state, _ = press(state, key)
    return state


def test_keys_label_skip_go_back_and_take_the_suggestion() -> None:
    """Seen to fail where a label doesn't go on to the next beat."""
    state = Labelling.begin(("", "", "", ""), ("", "V", "", "S"), again=False)
    assert press(state, "n")[1] == Labelled(0, "N")
    assert pressed(state, "nb").symbols == ("N", "", "", "")
    state = pressed(state, "n" + TAKE + TAKE)
    assert (state.symbols, state.at) == (("N", "V", "", ""), 2)  # nothing is suggested there
    state = pressed(state, "ubbS")
    assert (state.symbols, state.at, state.left) == (("N", "S", "", ""), 2, 2)
    state = pressed(state, "uQ")
    assert (state.symbols, state.over) == (("N", "S", "", "Q"), True)
    assert press(state, "n") == (state, None)


def test_it_begins_where_a_label_is_missing_and_ends_where_none_is() -> None:
    assert Labelling.begin(("N", "", "V"), ("",) * 3, again=False).at == 1
    assert Labelling.begin(("N", "V"), ("",) * 2, again=False).over
    assert not Labelling.begin(("N", "V"), ("",) * 2, again=True).over
    assert pressed(Labelling.begin(("",), ("",), again=False), "x").over


def test_only_the_beats_asked_about_are_shown_and_counted() -> None:
    """Seen to fail with the beat next to the one shown in ``_on``, and in going back."""
    state = Labelling.begin(("N", "", "", "", ""), ("",) * 5, (0, 1, 4), again=False)
    assert (state.at, state.left) == (1, 2)
    state = pressed(state, "v")
    assert (state.at, state.left) == (4, 1)
    assert pressed(state, "b").at == 1
    assert pressed(state, "bbbb").at == 0
    state = pressed(state, "s")
    assert (state.symbols, state.over, state.left) == (("N", "V", "", "", "S"), True, 0)
    assert Labelling.begin(state.symbols, ("",) * 5, (0, 1, 4), again=False).over


@given(st.integers(1, 2000))
def test_minutes_that_are_spread_lie_in_equal_parts_of_a_record(there: int) -> None:
    """Seen to fail with each part's first minute."""
    chosen = spread(there)
    assert len(chosen) == min(5, there)
    for part, minute in enumerate(chosen):
        assert there * part / len(chosen) <= minute + 0.5 < there * (part + 1) / len(chosen) + 0.5
        assert abs(minute + 0.5 - there * (part + 0.5) / len(chosen)) <= 0.5


@pytest.mark.parametrize(
    ("text", "found"), [("4", (3,)), ("30, 1,1", (0, 29)), ("spread", (3, 9, 15, 21, 27)), ("10,17", (9, 16))]
)
def test_minutes_are_asked_about_by_their_numbers(text: str, found: tuple[int, ...]) -> None:
    assert minutes_asked(text, 30) == found


@pytest.mark.parametrize("text", ["", "0", "31", "four", "1-3", "-1", "²", "1,,2", "9" * 5000])
def test_minutes_that_the_record_has_not_are_refused_saying_which_it_has(text: str) -> None:
    with pytest.raises(SettingsError, match="the record has minutes 1 to 30"):
        minutes_asked(text, 30)


@settings(max_examples=100, deadline=None)
@given(st.text("nsvfqubNyz\n7 "), st.lists(st.sampled_from(["", "N", "V"]), min_size=1, max_size=5))
def test_whatever_is_pressed_the_labels_are_those_that_were_to_be_kept(keys: str, suggested: list[str]) -> None:
    """Seen to fail where going back takes a label away."""
    state = Labelling(("",) * len(suggested), tuple(suggested))
    kept = [""] * len(suggested)
    for key in keys:
        state, labelled = press(state, key)
        if labelled is not None:
            kept[labelled.place] = labelled.symbol
        assert 0 <= state.at < len(suggested)
    assert state.symbols == tuple(kept)
    assert set(kept) <= {"", *LABELS.values()}


@pytest.mark.parametrize("columns", [10, 24, 40, 80])
def test_every_key_is_named_in_a_terminal_of_any_width(columns: int) -> None:
    """Seen to fail where the line was cut: at 40 columns nobody could see how to skip, to go back or to quit."""
    lines = key_lines(columns)
    assert "  ".join(lines) == "  ".join(KEYS)
    assert all(len(line) < columns or line in KEYS for line in lines)
    assert len(key_lines(80)) == 1
