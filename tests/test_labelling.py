"""What each key does to the labels of a record's beats."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from edge.labelling import LABELS, TAKE, Labelled, Labelling, press


def pressed(state: Labelling, keys: str) -> Labelling:
    for key in keys:
        state, _ = press(state, key)
    return state


def test_keys_label_skip_go_back_and_take_the_suggestion() -> None:
    """Seen to fail where a label doesn't go on to the next beat."""
    state = Labelling.begin(("", "", "", ""), ("", "V", "", "S"))
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
    assert Labelling.begin(("N", "", "V"), ("",) * 3).at == 1
    assert Labelling.begin(("N", "V"), ("",) * 2).over
    assert not Labelling(("N", "V"), ("",) * 2).over
    assert pressed(Labelling.begin(("",), ("",)), "x").over


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
