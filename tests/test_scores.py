"""Scores of counts that were added over devices, against scikit-learn on the examples themselves."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as reference

from coordinator import scores
from schemas.errors import Reject, WireError
from schemas.messages import Counts

CLASSES = ("N", "S", "V", "F", "Q")
REPORT = ("N", "S", "V")

pairs = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=60)


def count(answers: list[tuple[int, int]], loss_sum: float = 0.0) -> Counts:
    """What a device reports of its (true, predicted) pairs."""
    confusion = np.zeros((len(CLASSES), len(CLASSES)), int)
    for true, predicted in answers:
        confusion[true, predicted] += 1
    rows = tuple(tuple(int(cell) for cell in row) for row in confusion)
    return Counts(examples=len(answers), loss_sum=loss_sum, confusion=rows)


@given(pairs)
@settings(max_examples=60, deadline=None)
def test_scores_are_those_of_scikit_learn(answers: list[tuple[int, int]]) -> None:
    found = scores.metrics(count(answers, 2.5), CLASSES, REPORT)
    true, predicted = (list(side) for side in zip(*answers, strict=True))
    assert found.accuracy == pytest.approx(reference.accuracy_score(true, predicted))
    assert found.loss == pytest.approx(2.5 / len(answers))
    labels = list(range(len(CLASSES)))
    assert found.confusion == tuple(map(tuple, reference.confusion_matrix(true, predicted, labels=labels).tolist()))
    ppv, sensitivity, f1, _ = reference.precision_recall_fscore_support(
        true, predicted, labels=labels, zero_division=np.nan
    )
    for index, each in enumerate(found.classes):
        assert each.examples == true.count(index)
        assert each.sensitivity == (pytest.approx(sensitivity[index]) if index in true else None)
        assert each.ppv == (pytest.approx(ppv[index]) if index in predicted else None)
        assert each.f1 == (pytest.approx(f1[index]) if index in true else None)
    present = [index for index, name in enumerate(CLASSES) if name in REPORT and index in true]
    if present:
        expected = reference.f1_score(true, predicted, labels=present, average="macro", zero_division=0)
        assert found.macro_f1 == pytest.approx(expected)
    else:
        assert found.macro_f1 is None


@given(st.lists(st.tuples(pairs, st.floats(0, 1e6)), min_size=1, max_size=6))
@settings(max_examples=40, deadline=None)
def test_devices_add_up_to_one_device_with_all_examples_in_any_order(
    devices: list[tuple[list[tuple[int, int]], float]],
) -> None:
    each = [count(answers, loss) for answers, loss in devices]
    total = scores.add(each)
    everything = count([answer for answers, _ in devices for answer in answers])
    assert (total.examples, total.confusion) == (everything.examples, everything.confusion)
    assert scores.add(each[::-1]) == total


def test_the_loss_is_added_without_a_rounding_error_of_its_own() -> None:
    answers = [(0, 0)]
    assert scores.add([count(answers, loss) for loss in (0.1,) * 10]).loss_sum == 1.0


def test_a_class_that_is_never_predicted_counts_with_zero_and_an_absent_one_not_at_all() -> None:
    found = scores.metrics(count([(0, 0), (0, 0), (1, 0)]), CLASSES, REPORT)
    assert found.classes[1].f1 == 0
    assert found.classes[1].ppv is None
    assert found.classes[2].f1 is None
    assert found.macro_f1 == pytest.approx((0.8 + 0) / 2)


def test_a_class_alone_has_a_loss_and_no_macro_f1() -> None:
    found = scores.metrics(Counts(examples=4, loss_sum=0.5, confusion=((4,),)), ("beat",), ("beat",))
    assert (found.loss, found.macro_f1, found.tells_classes) == (0.125, None, False)
    assert scores.metrics(count([(0, 0)]), CLASSES, REPORT).tells_classes


def test_counts_that_do_not_fit_are_refused() -> None:
    small = Counts(examples=1, loss_sum=0, confusion=((1,),))
    empty = count([])
    for wrong, reason in (
        (lambda: scores.metrics(small, CLASSES, REPORT), Reject.WRONG_SHAPE),
        (lambda: scores.metrics(empty, CLASSES, REPORT), Reject.OUT_OF_RANGE),
        (lambda: scores.add([small, empty]), Reject.WRONG_SHAPE),
        (lambda: scores.add([]), Reject.OUT_OF_RANGE),
    ):
        with pytest.raises(WireError) as caught:
            wrong()
        assert caught.value.reason == reason
