from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from edge.core import pace
from edge.core.pace import LONGEST_S, QUICK_S, REMEMBERED, TRIED, Pace
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


# -- uploads -----------------------------------------------------------------------------------------------------------


def uploads(*seconds: float) -> Pace:
    learned = Pace()
    for each in seconds:
        learned = learned.uploaded(A, each)
    return learned


def test_one_upload_alone_tells_nothing() -> None:
    assert Pace().upload_s(A) is None
    assert uploads(300.0).upload_s(A) is None
    assert uploads(300.0, 200.0).upload_s(A) == 200.0
    assert uploads(300.0, 200.0).upload_s(B) is None


@given(st.lists(st.floats(0.0, 100.0), min_size=1), st.lists(st.floats(0.0, 100.0)), st.floats(100.0, 1e9))
def test_one_stall_among_quick_uploads_changes_nothing(before: list[float], after: list[float], stall: float) -> None:
    """Wherever it comes, also first. Seen to fail with the mean of the newest two."""
    for seconds in ([stall, *before], [*before, stall], [*before, stall, *after]):
        learned = Pace()
        for each in seconds:
            learned = learned.uploaded(A, each)
            assert (learned.upload_s(A) or 0.0) <= 100.0


@given(st.lists(st.floats(0.0, 1e9)), st.floats(0.0, 100.0))
def test_one_quick_upload_is_enough_for_a_link_that_got_better(before: list[float], quick: float) -> None:
    assert (uploads(*before, quick).upload_s(A) or 0.0) <= quick


def test_two_slow_uploads_are_enough_for_a_link_that_got_worse() -> None:
    """Seen to fail where the first of all was kept beside the newest: it was never learned."""
    assert uploads(5.0, 300.0).upload_s(A) == 5.0
    assert uploads(5.0, 300.0, 400.0).upload_s(A) == 300.0


def test_why_a_device_declines_names_its_training_where_there_is_any_to_do() -> None:
    assert "for 40 s, would train for 20 s, and the round leaves 50 s" in pace.why_not_yet(40.0, 20.0, 50.0)
    assert "for 40 s, and the round leaves 30 s" in pace.why_not_yet(40.0, 0.0, 30.0)
    assert "30 s to upload its update after 20 s of training, and" in pace.why_no_upload(30.0, 20.0, 40.0)
    assert "30 s to upload its update, and" in pace.why_no_upload(30.0, 0.0, 20.0)


@given(st.lists(st.floats(QUICK_S, 1e9), min_size=2), st.integers(1, 50))
def test_uploads_that_keep_a_device_out_are_tried_every_tenth_time_however_long(seconds: list[float], n: int) -> None:
    """Seen to fail where they never are."""
    learned, tried = uploads(*seconds), list[int]()
    for time in range(1, n + 1):
        learned, kept_out = learned.kept_out(A)
        if not kept_out:
            tried.append(time)
            learned = learned.uploaded(A, max(seconds))
    assert tried == list(range(TRIED, n + 1, TRIED))


def test_a_trial_that_never_comes_to_its_end_is_none_without_end() -> None:
    learned = uploads(300.0, 300.0)
    out = []
    for _ in range(3 * TRIED):
        learned, kept_out = learned.kept_out(A)
        out.append(kept_out)
    assert out == 3 * [*(TRIED - 1) * [True], False]


def test_what_is_quick_is_remembered_only_of_what_was_slow() -> None:
    """Else each round would cost a write more for nothing."""
    assert uploads(QUICK_S / 2) == Pace()
    assert uploads(300.0, QUICK_S / 2).upload_s(A) == QUICK_S / 2


def test_only_the_newest_few_kinds_of_uploads_are_remembered() -> None:
    learned = Pace()
    for number in range(REMEMBERED + 3):
        learned = learned.uploaded(digest(str(number)), 5.0)
    assert [one.about for one in learned.uploads] == [digest(str(number)) for number in range(3, REMEMBERED + 3)]


def test_an_upload_is_a_trial_whatever_round_it_was_for() -> None:
    """Of a longer deadline, say. Seen to fail where the count went on: the next trial came too soon."""
    learned = uploads(300.0, 300.0)
    for _ in range(TRIED - 1):
        learned, _ = learned.kept_out(A)
    learned = learned.uploaded(A, 300.0)
    assert learned.kept_out(A)[1]


@given(st.floats(LONGEST_S, 1e300))
def test_no_estimate_is_longer_than_a_year_so_that_the_disk_gives_it_back(seconds: float) -> None:
    learned = Pace().learn(A, seconds).uploaded(A, seconds).uploaded(A, seconds)
    assert (learned.expected(A), learned.upload_s(A)) == (LONGEST_S, LONGEST_S)


def test_trainings_and_uploads_are_learned_beside_each_other() -> None:
    both = Pace().learn(A, 40.0).uploaded(A, 300.0).learn(A, 40.0).uploaded(A, 300.0).decayed(A)
    assert (both.expected(A), both.upload_s(A)) == (36.0, 300.0)


def test_another_codec_or_plan_is_another_thing_to_upload_and_other_epochs_are_not() -> None:
    other = run().model_copy(update={"train": TrainSettings(epochs=2)})
    assert pace.upload_subject(run()) == pace.upload_subject(other)
    assert pace.upload_subject(run()) != pace.upload_subject(run().model_copy(update={"codec": "sign"}))
    assert pace.upload_subject(run()) != pace.subject(run())
