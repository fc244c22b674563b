from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.dataset import Dataset, concatenate, empty_like
from schemas.errors import DataError


def numbered(labels: list[int], owners: list[str], classes: tuple[str, ...] = ("a", "b", "c")) -> Dataset:
    """Examples whose one value is their own position, so that each can be recognised."""
    values = np.arange(len(labels), dtype=np.float32)[:, None]
    return Dataset((values,), np.array(labels, dtype=np.int64), np.array(owners, dtype=np.str_), classes)


def positions(dataset: Dataset) -> list[int]:
    return [int(value) for value in dataset.inputs[0][:, 0]]


def test_counts_name_every_class_and_every_owner() -> None:
    dataset = numbered([0, 0, 2], ["eve", "bob", "eve"])
    assert dataset.class_counts() == {"a": 2, "b": 0, "c": 1}
    assert dataset.owner_counts() == {"bob": 1, "eve": 2}
    assert dataset.shapes == ((1,),)
    assert len(dataset) == 3


GOOD = {
    "inputs": (np.zeros((2, 4), dtype=np.float32),),
    "labels": np.array([0, 1], dtype=np.int64),
    "owners": np.array(["a", "b"]),
    "classes": ("x", "y"),
}


@pytest.mark.parametrize(
    ("field", "value", "text"),
    [
        ("inputs", (), "at least one input"),
        ("inputs", (np.zeros((3, 4), dtype=np.float32),), "input 0 must be float32"),
        ("inputs", (np.zeros((2, 4)),), "input 0 must be float32"),
        ("inputs", (np.zeros(2, dtype=np.float32),), "input 0 must be float32"),
        ("inputs", (np.array([[0.0], [np.nan]], dtype=np.float32),), "NaN or infinity"),
        ("inputs", (np.array([[0.0], [np.inf]], dtype=np.float32),), "NaN or infinity"),
        ("labels", np.array([0, 2], dtype=np.int64), "labels must lie in 0..1"),
        ("labels", np.array([-1, 0], dtype=np.int64), "labels must lie in 0..1"),
        ("labels", np.array([0, 1], dtype=np.int32), "labels must be int64"),
        ("owners", np.array(["a"]), "owners must be strings"),
        ("owners", np.array([1, 2]), "owners must be strings"),
        ("looks", np.zeros((3, 4), dtype=np.float32), "looks must be finite float32"),
        ("looks", np.zeros((2, 4)), "looks must be finite float32"),
        ("looks", np.zeros(2, dtype=np.float32), "looks must be finite float32"),
        ("looks", np.full((2, 4), np.nan, dtype=np.float32), "looks must be finite float32"),
        ("classes", (), "class names"),
        ("classes", ("x", "x"), "class names"),
    ],
)
def test_a_dataset_that_contradicts_itself_is_refused(field: str, value: object, text: str) -> None:
    make: Callable[..., Dataset] = Dataset
    with pytest.raises(DataError, match=text):
        make(**{**GOOD, field: value})


def test_split_keeps_the_newest_of_each_owner_apart() -> None:
    dataset = numbered([0] * 10, ["eve", "bob"] * 5)
    older, newest = dataset.split(0.4)
    assert positions(older) == [0, 1, 2, 3, 4, 5]
    assert positions(newest) == [6, 7, 8, 9]


@given(owners=st.lists(st.sampled_from(["a", "b", "c"]), max_size=60), fraction=st.floats(0, 0.99))
def test_split_gives_every_example_to_exactly_one_side_in_order(owners: list[str], fraction: float) -> None:
    older, newest = numbered([0] * len(owners), owners).split(fraction)
    assert sorted(positions(older) + positions(newest)) == list(range(len(owners)))
    assert positions(older) == sorted(positions(older))
    for owner in set(owners):
        own_older = [p for p in positions(older) if owners[p] == owner]
        own_newest = [p for p in positions(newest) if owners[p] == owner]
        assert not own_older or not own_newest or max(own_older) < min(own_newest)


@pytest.mark.parametrize("fraction", [-0.1, 1.0, float("nan")])
def test_split_refuses_what_is_no_fraction(fraction: float) -> None:
    with pytest.raises(DataError, match="fraction"):
        numbered([0], ["a"]).split(fraction)


def test_classes_are_matched_by_name() -> None:
    dataset = numbered([0, 1, 1], ["a"] * 3, classes=("walk", "run"))
    matched = dataset.with_classes(("run", "sit", "walk"))
    assert matched.labels.tolist() == [2, 0, 0]
    assert matched.class_counts() == {"run": 2, "sit": 0, "walk": 1}
    assert dataset.with_classes(("walk", "run")) is dataset


def test_a_class_the_plan_lacks_is_named_unless_no_example_has_it() -> None:
    dataset = numbered([0, 1], ["a"] * 2, classes=("walk", "run", "swim"))
    assert dataset.with_classes(("run", "walk")).labels.tolist() == [1, 0]
    with pytest.raises(DataError, match="labelled run, which is not among walk"):
        dataset.with_classes(("walk",))


def test_looks_go_where_their_examples_go_and_are_kept_where_all_have_them() -> None:
    """Seen to fail where ``take`` leaves them as they are."""
    plain = numbered([0, 1, 2], ["a", "b", "a"])
    dataset = replace(plain, looks=10 * plain.inputs[0], alike=("a", "b"))
    some = dataset.take(np.array([2, 0]))
    assert some.looks is not None
    assert some.looks[:, 0].tolist() == [20, 0]
    joined = concatenate([some, dataset.with_classes(("a", "b", "c"))])
    assert joined.looks is not None
    assert joined.looks[:, 0].tolist() == [20, 0, 0, 10, 20]
    assert joined.alike == dataset.with_classes(("c", "b", "a")).alike == ("a", "b")
    assert concatenate([dataset, replace(plain, alike=dataset.alike)]).looks is None
    with pytest.raises(DataError, match="other looks"):
        concatenate([dataset, replace(dataset, looks=np.zeros((3, 2), np.float32))])


def test_concatenate_joins_in_order_and_refuses_different_kinds() -> None:
    dataset = numbered([0, 1, 2], ["a", "b", "c"])
    joined = concatenate([dataset, empty_like(dataset), dataset])
    assert positions(joined) == [0, 1, 2, 0, 1, 2]
    assert joined.owners.tolist() == ["a", "b", "c"] * 2
    with pytest.raises(DataError, match="different kinds"):
        concatenate([dataset, numbered([0], ["a"], classes=("other",))])
    with pytest.raises(DataError, match="no dataset"):
        concatenate([])
