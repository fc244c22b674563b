from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from edge.dataset import Dataset
from edge.training.plan_fit import fit
from schemas.errors import PlanError
from tests.plan_examples import CLASSES, tiny, windows


def labelled(labels: list[int], classes: tuple[str, ...]) -> Dataset:
    count = len(labels)
    return Dataset((np.zeros((count, 2, 8), np.float32),), np.array(labels), np.full(count, "ada"), classes)


def test_data_with_the_plans_classes_is_taken_as_it_is() -> None:
    data = windows(5)
    assert fit(data, tiny()) is data


def test_labels_follow_the_names_of_their_classes() -> None:
    fitted = fit(labelled([0, 1, 1], ("wild", "calm")), tiny())
    assert fitted.classes == CLASSES
    assert fitted.labels.tolist() == [2, 0, 0]


def test_numbers_for_names_are_the_plans_numbers() -> None:
    assert fit(labelled([0, 2, 1], ("0", "1", "2")), tiny()).labels.tolist() == [0, 2, 1]
    assert fit(labelled([0, 1], ("2", "0")), tiny()).labels.tolist() == [2, 0]


def test_a_class_of_the_data_that_has_no_example_does_not_matter() -> None:
    assert fit(labelled([1], ("asleep", "wild")), tiny()).labels.tolist() == [2]


@pytest.mark.parametrize("classes", [("calm", "asleep"), ("0", "7")])
def test_examples_of_a_class_the_plan_does_not_know_are_refused_by_name(classes: tuple[str, ...]) -> None:
    with pytest.raises(PlanError, match=rf"of class {classes[1]}; the plan knows calm, brisk, wild"):
        fit(labelled([0, 1], classes), tiny())


def test_other_shapes_are_refused_with_both() -> None:
    data = replace(windows(3), inputs=(np.zeros((3, 2, 9), np.float32), np.zeros((3, 1), np.float32)))
    with pytest.raises(PlanError, match="takes examples of 2x8; the data here has 2x9 and 1"):
        fit(data, tiny())
