"""How a round that has ended, and a run that can't go on, are told."""

from __future__ import annotations

import dataclasses
import itertools
import sys
from fractions import Fraction
from typing import cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from immutables import Map

from coordinator.events import Header
from coordinator.fleet import View
from coordinator.reports import (
    BACK_WITHIN,
    NAMED,
    announce,
    come_back,
    failed_often,
    headline,
    nobody_came,
    summarise,
    too_late,
    with_evaluation,
)
from coordinator.round_state import Aggregating, Collecting, Rules, Selecting, State, roster
from schemas.messages import ClassMetrics, Metrics, Phase
from tests.round_examples import METRICS, START, names

STATE = State(Rules("run", rounds=3, deadline_s=60.0), START, 2, Selecting(0.0), 90.0)
SHARES = tuple(itertools.product(range(1, 6), repeat=3))  # of three devices: of some of them rounding adds a little
Said = st.dictionaries(st.integers(0, 40).map(lambda number: f"dev-{number:02d}"), st.sampled_from(["full", "hot"]))


def collected(answers: list[tuple[float | None, int]]) -> Collecting:
    """A stage with one device's update for each loss and number of examples."""
    ticket = STATE.ticket
    headers = {
        name: Header(name, ticket.round, "train", ticket.nonce, START, examples, loss, "0" * 64, size=100)
        for name, (loss, examples) in zip(names(len(answers)), answers, strict=True)
    }
    return Collecting(ticket, 30.0, 1.0, None, 1, frozenset(headers), len(headers), received=Map(headers))


@given(st.lists(st.tuples(st.none() | st.floats(0, 1e6), st.integers(1, 10**6)), min_size=1, max_size=8))
@settings(deadline=None, max_examples=50)
def test_a_rounds_loss_is_the_mean_over_the_examples_of_those_who_gave_one(
    answers: list[tuple[float | None, int]],
) -> None:
    """Seen to fail with the mean over devices, and with the examples of devices that gave none in the total."""
    summary = summarise(STATE, collected(answers))
    told = [(Fraction(loss), examples) for loss, examples in answers if loss is not None]
    total = sum(examples for _, examples in told)
    mean = sum(loss * examples for loss, examples in told) / total if told else None
    assert summary.train_loss == (None if mean is None else pytest.approx(float(mean), rel=1e-12, abs=1e-300))
    assert summary.examples == sum(examples for _, examples in answers)
    assert (summary.seconds, summary.uplink_bytes) == (60.0, 100 * len(answers))


def test_a_loss_beyond_all_numbers_is_left_out_and_one_just_below_is_not() -> None:
    """No summary holds an infinite one. Of equal losses the mean is that loss, however large."""
    most = sys.float_info.max
    told = {summarise(STATE, collected([(most, share) for share in shares])).train_loss for shares in SHARES}
    assert None in told
    assert summarise(STATE, collected([(1e308, 10), (1e308, 30)])).train_loss == pytest.approx(1e308)


def test_a_committed_training_makes_the_next_version_and_a_failed_one_counts_nobody() -> None:
    stage = collected([(0.5, 10), (0.7, 30)])
    made, failed = summarise(STATE, stage), summarise(STATE, stage, "too few came")
    assert (made.outcome, made.model_version, made.devices) == ("committed", 1, ("dev-0", "dev-1"))
    assert (failed.outcome, failed.model_version, failed.devices, failed.examples) == ("abandoned", 0, (), 0)
    assert summarise(dataclasses.replace(STATE, task="evaluate"), stage).model_version == 0


def test_a_round_is_summarised_alike_in_whatever_order_devices_answered() -> None:
    """To the last bit of the loss. Seen to fail with answers, and with refusals, in the order in which they came."""
    stage = collected([(0.1, 3), (0.2, 5), (0.3, 7), (0.7, 11), (1e9, 1)])
    came = list(stage.received.items())
    told = set()
    for turn in range(len(came)):
        order = came[turn:] + came[:turn]
        # Maps keep no order: plain dictionaries show whether one is relied on.
        received = cast("Map[str, Header]", dict(order))
        declined = cast("Map[str, str]", {f"no-{name}": "busy" for name, _ in order})
        told.add(summarise(STATE, dataclasses.replace(stage, received=received, declined=declined)).model_dump_json())
    assert len(told) == 1


def test_a_round_whose_result_is_being_made_is_announced_with_all_that_it_collected() -> None:
    """A device that has answered finds its attempt there, and an operator the counts. Seen to fail with its stage left
    as it is: the cohort was nobody, and nothing was received.
    """
    stage = dataclasses.replace(collected([(0.5, 10), (0.7, 30)]), joined=roster(["dev-0", "dev-1"]))
    while_open = announce(dataclasses.replace(STATE, stage=stage), Phase.AGGREGATING)
    assert announce(dataclasses.replace(STATE, stage=Aggregating(stage)), Phase.AGGREGATING) == while_open
    assert (while_open.opened_at, while_open.cohort, while_open.joined, while_open.received) == (30.0, 1.0, 2, 2)


@pytest.mark.parametrize("goal", [None, 5])
def test_a_round_that_waits_for_devices_is_announced_with_what_it_waits_for(goal: int | None) -> None:
    """Seen to fail with a goal of 0, and of 1, and with a cohort that is somebody."""
    told = announce(dataclasses.replace(STATE, rules=dataclasses.replace(STATE.rules, goal=goal)), Phase.SELECTING)
    assert (told.goal, told.quorum, told.cohort, told.opened_at) == (goal or 0, STATE.quorum, 0.0, STATE.now)
    assert (told.selected, told.joined, told.received) == (0, 0, 0)


def test_a_round_that_nobody_was_asked_for_took_no_time() -> None:
    summary = summarise(STATE, None, "nobody came")
    assert (summary.seconds, summary.examples, summary.uplink_bytes, summary.train_loss) == (0.0, 0, 0, None)


def test_a_summary_counts_the_devices_of_made_up_people_among_those_that_answered() -> None:
    """One that has left since counts too: it is of what came of it. Seen to fail with all that are known."""
    state = dataclasses.replace(STATE, view=View(synthetic=frozenset({"dev-1", "dev-7"})))
    stage = collected([(0.5, 10), (0.7, 30)])
    assert (summarise(state, stage).synthetic, summarise(STATE, stage).synthetic) == (1, 0)
    assert summarise(state, stage, "too few came").synthetic == 0


Counts = st.dictionaries(st.sampled_from(["malformed", "late", "not finite"]), st.integers(1, 9))


@given(Counts, Counts)
@settings(deadline=None, max_examples=50)
def test_what_was_rejected_in_either_half_of_a_round_is_told_of_the_round(
    training: dict[str, int], evaluation: dict[str, int]
) -> None:
    """Seen to fail where one half's counts replace the other's, and with reasons in an order that changes from one
    start to the next.
    """
    first, second = (
        summarise(dataclasses.replace(STATE, rejected=rejected), collected([(0.5, 10)]))
        for rejected in (training, evaluation)
    )
    told = with_evaluation(first, second, METRICS)
    assert told.rejected == {
        reason: training.get(reason, 0) + evaluation.get(reason, 0) for reason in training.keys() | evaluation.keys()
    }
    assert list(told.rejected) == sorted(told.rejected)
    assert told.model_copy(update={"rejected": training, "metrics": None, "uplink_bytes": 100}) == first


@given(Said, Said)
@settings(deadline=None, max_examples=50)
def test_a_run_that_fails_quotes_ten_devices_and_counts_the_others(
    complaints: dict[str, str], said: dict[str, str]
) -> None:
    """A device's answer to this round says more than its status. Seen to fail with all devices in the sentence,
    and where it quotes them though none said a word.
    """
    state = dataclasses.replace(STATE, view=View(complaints=complaints), said=said)
    devices = sorted(complaints.keys() | said.keys())
    quoted = "; ".join(f"{name}: {said.get(name) or complaints[name]}" for name in devices[:NAMED])
    for sentence in (nobody_came(state), failed_often(state, "too few came")):
        assert (". Devices said: " in sentence) == bool(devices)
        more = sentence.partition(". Devices said: ")[2]
        assert more == quoted + (f"; and {len(devices) - NAMED} more" if len(devices) > NAMED else "")


def test_whoever_is_sent_away_after_the_deadline_is_told_to_come_back_at_once() -> None:
    """As after a restart, while the round waits for devices to return. No time in a receipt is below zero."""
    stage = collected([(0.5, 10)])
    late = dataclasses.replace(STATE, now=stage.opened_at + STATE.rules.deadline_s + 10.0)
    assert 0.0 <= come_back(late, stage, "dev-1") < BACK_WITHIN * STATE.rules.deadline_s


def test_the_pointer_says_small_losses_to_as_many_digits() -> None:
    """A reconstruction's is often below a thousandth. Seen to fail with six places in place of six digits."""
    told = headline(Metrics(examples=9, loss=1e-4 / 3, accuracy=1.0, macro_f1=None, confusion=((9,),)))
    assert told is not None
    assert told.loss == 3.33333e-05


def test_the_error_of_a_run_that_fails_says_what_failed_and_what_to_do() -> None:
    assert nobody_came(STATE).startswith("no device came within 60 s: start `edge run` on one")
    failed = failed_often(dataclasses.replace(STATE, failures=3), "0 of at least 2 updates came")
    assert failed.startswith("round 2 failed 3 times in a row, the last time because 0 of at least 2 updates came: see")


@pytest.mark.parametrize(
    ("answered", "asked", "said"),
    [
        (1, 1, "1 of at least 9 updates came by the deadline"),
        (1, 3, "1 of at least 9 updates came by the deadline, none from dev-1, dev-2"),
        (0, 5, "0 of at least 9 updates came by the deadline, none from dev-0, dev-1, dev-2, dev-3, dev-4"),
        (0, 8, "0 of at least 9 updates came by the deadline, none from dev-0, dev-1, dev-2, dev-3, dev-4 and 3 more"),
    ],
)
def test_an_attempt_that_ends_at_its_deadline_names_the_devices_it_waited_for(
    answered: int, asked: int, said: str
) -> None:
    """Seen to fail: it only counted them, and a device that was silent was named nowhere."""
    missing = roster(names(asked)[answered:])
    stage = dataclasses.replace(collected([(0.5, 10)] * answered), quorum=9, awaited=missing)
    assert too_late(stage) == said


def test_the_reason_of_an_attempt_fits_into_its_message_whatever_its_devices_are_called() -> None:
    """Seen to fail with ten devices named."""
    long = roster(f"dev-{number:02d}-".ljust(63, "x") for number in range(1000))
    stage = dataclasses.replace(collected([]), quorum=1000, awaited=long)
    assert summarise(STATE, stage, too_late(stage)).reason.endswith(" and 995 more")


@pytest.mark.parametrize("classes", [1, 7])
def test_the_pointer_says_of_a_model_s_metrics_what_they_come_to(classes: int) -> None:
    """It goes to every device, and no device uses it. One class is a reconstruction's, of which the loss is all.

    Seen to fail with the confusion matrix left out of one class too, with it left in of seven, and without what says
    that some of the people it was measured on are made up.
    """
    third = 1 / 3
    each = tuple(ClassMetrics(name=f"c{i}", examples=3, sensitivity=third, ppv=third, f1=third) for i in range(classes))
    macro_f1 = third if classes > 1 else None
    confusion = ((3,) * classes,) * classes
    metrics = Metrics(
        examples=9, loss=third, accuracy=third, macro_f1=macro_f1, classes=each, confusion=confusion, synthetic=2
    )
    told = headline(metrics)
    assert told is not None
    assert told.tells_classes == metrics.tells_classes
    assert (told.examples, told.loss, told.accuracy, told.synthetic) == (9, 0.333333, 0.333333, 2)
    assert told.macro_f1 == (0.333333 if classes > 1 else None)
    assert len(told.model_dump_json(exclude_defaults=True)) < 100
    assert headline(None) is None
