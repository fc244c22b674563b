from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from edge import pace
from edge.pace import REMEMBERED, Pace
from schemas.messages import TrainSettings
from tests.edge_scripts import digest, run

A, B = digest("a"), digest("b")


def test_nothing_is_expected_of_what_was_never_trained() -> None:
    assert Pace().expected(A) is None
    assert Pace().learn(A, 40.0).expected(B) is None
    assert Pace().decayed(A) == Pace()


def test_the_first_attempt_is_taken_as_it_is_and_the_newest_counts_half() -> None:
    learned = Pace().learn(A, 40.0)
    assert learned.expected(A) == 40.0
    assert learned.learn(A, 80.0).expected(A) == 60.0


@given(st.floats(1.0, 1e6), st.floats(0.5, 1e6))
def test_an_estimate_that_keeps_a_device_out_lets_it_in_again_some_day(seconds: float, left: float) -> None:
    """Seen to fail without the decay."""
    learned = Pace().learn(A, seconds)
    for _ in range(200):
        learned = learned.decayed(A)
    expected = learned.expected(A)
    assert expected is not None
    assert expected <= left


def test_only_the_newest_few_are_remembered() -> None:
    learned = Pace()
    for number in range(REMEMBERED + 3):
        learned = learned.learn(digest(str(number)), 1.0)
    learned = learned.learn(digest("3"), 2.0).learn(A, 1.0)
    assert len(learned.seconds) == REMEMBERED
    assert learned.expected(digest("3")) is not None
    assert learned.expected(digest("4")) is None


def test_other_settings_are_another_thing_to_train() -> None:
    """Fewer epochs are first acquaintance again."""
    other = run().model_copy(update={"train": TrainSettings(epochs=2)})
    assert pace.subject(run()) == pace.subject(run("run-two"))
    assert pace.subject(run()) != pace.subject(other)
