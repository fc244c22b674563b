"""Rounding to the nearest step, where the loss is fed back."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from schemas.compression import nearest
from schemas.compression.entropy import NONE, Body
from schemas.errors import WireError

LARGEST = float(np.float32(3.3e38))


@settings(max_examples=200)
@given(
    hnp.arrays(
        np.float32,
        st.integers(0, 50),
        elements=st.floats(-LARGEST, LARGEST, width=32)
        | st.floats(-1, 1, width=32)
        | st.floats(0, 2.0**-122, width=32),
    )
)
def test_every_value_is_within_half_a_step_and_every_level_in_its_range(values: np.ndarray) -> None:
    """Seen to fail with ``floor`` instead of ``rint``."""
    step, levels = nearest.quantised(values, "topk")
    assert (np.abs(levels.astype(int)) <= nearest.LEVELS).all()
    assert (np.abs(levels * float(step) - values) <= 0.5 * float(step) * (1 + 1e-4)).all()
    assert np.isfinite(levels * step).all()


def test_a_value_too_large_for_finite_steps_is_refused() -> None:
    with pytest.raises(WireError, match=r"out-of-range: a value of 3\.4028.* is too large for topk: use float32"):
        nearest.quantised(np.array([np.finfo(np.float32).min], np.float32), "topk")


@pytest.mark.parametrize("step", [0.0, -0.0, -1.0, np.nan, np.inf, 1e-45, 3e36])
def test_a_step_that_is_not_positive_and_finite_is_refused(step: float) -> None:
    with pytest.raises(WireError, match="out-of-range: a step"):
        nearest.read_step(Body(NONE, memoryview(np.array([step], "<f4").tobytes()), 4))
