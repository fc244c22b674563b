"""A model in a file: what was written is read, and what is none is told from what is of another plan."""

from __future__ import annotations

import numpy as np
import pytest
from safetensors.numpy import save

from edge.model_file import from_bytes, to_bytes
from schemas.errors import StateError
from schemas.plan_file import PlanFile
from tests.plan_examples import tiny

PLAN = tiny()
MODEL = PlanFile(PLAN, {}).initial(0)


def test_a_model_comes_out_as_it_went_in_whatever_order_the_file_has() -> None:
    arrays = dict(MODEL.arrays())
    assert from_bytes(to_bytes(MODEL), PLAN).equal(MODEL)
    assert from_bytes(save(dict(reversed(arrays.items()))), PLAN).equal(MODEL)


@pytest.mark.parametrize("dtype", [np.float16, np.float64, np.int32])
def test_numbers_of_another_type_are_refused(dtype: type[np.generic]) -> None:
    """The digest and every bit of what a model says are of float32. Seen to fail without the look at the type."""
    with pytest.raises(StateError, match="aren't finite float32 numbers"):
        from_bytes(save({name: array.astype(dtype) for name, array in MODEL.arrays().items()}), PLAN)
