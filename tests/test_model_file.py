"""A model in a file: what was written is read, and what is none is told from what is of another plan."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load, save

from edge.model_file import Own, from_bytes, own_from_bytes, own_to_bytes, to_bytes
from edge.training.neighbours import Neighbours
from schemas.errors import StateError
from schemas.plan_file import PlanFile
from tests.plan_examples import tiny

PLAN = tiny()
MODEL = PlanFile(PLAN, {}).initial(0)


def test_a_model_comes_out_as_it_went_in_whatever_order_the_file_has() -> None:
    arrays = dict(MODEL.arrays())
    assert from_bytes(to_bytes(MODEL), PLAN).equal(MODEL)
    assert from_bytes(save(dict(reversed(arrays.items()))), PLAN).equal(MODEL)


def own() -> Own:
    looks = np.arange(12, dtype=np.float32).reshape(4, 3)
    return Own(MODEL, Neighbours(looks, np.array([0, 0, 2, 2]), np.array([0, 0, 2])))


def test_the_labelled_examples_of_an_owner_come_out_as_they_went_in_and_none_are_none() -> None:
    read = own_from_bytes(own_to_bytes(own()), PLAN)
    assert read.parameters.equal(MODEL)
    assert read.neighbours is not None
    asked = np.ones((1, 3), np.float32)
    assert own().neighbours is not None
    assert np.array_equal(read.neighbours.evidence(asked), own().neighbours.evidence(asked))  # type: ignore[union-attr]
    alone = own_from_bytes(own_to_bytes(Own(MODEL)), PLAN)
    assert (alone.parameters.equal(MODEL), alone.neighbours) == (True, None)
    assert own_to_bytes(Own(MODEL)) == to_bytes(MODEL)


@pytest.mark.parametrize(
    "change",
    [
        {"labelled/looks": None},
        {"labelled/kinds": None},
        {"labelled/kind_of": np.array([0, 0, 2, 3])},
        {"labelled/kinds": np.array([0, 0, 2, 3])},
        {"labelled/looks": np.full((4, 3), np.inf, np.float32)},
    ],
)
def test_labelled_examples_that_are_damaged_are_told_and_nothing_is_decided_by_them(
    change: dict[str, NDArray[Any] | None],
) -> None:
    """Seen to fail without the look at how many classes the plan has."""
    tensors = {**load(own_to_bytes(own())), **change}
    raw = save({name: array for name, array in tensors.items() if array is not None})
    with pytest.raises(StateError, match="damaged labelled examples: `edge run` makes another"):
        own_from_bytes(raw, PLAN)


@pytest.mark.parametrize("dtype", [np.float16, np.float64, np.int32])
def test_numbers_of_another_type_are_refused(dtype: type[np.generic]) -> None:
    """The digest and every bit of what a model says are of float32. Seen to fail without the look at the type."""
    with pytest.raises(StateError, match="aren't finite float32 numbers"):
        from_bytes(save({name: array.astype(dtype) for name, array in MODEL.arrays().items()}), PLAN)
