"""Levels of four bits, two a byte."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.compression import nibbles
from schemas.compression.entropy import NONE, Body
from schemas.errors import WireError


def _body(data: bytes) -> Body:
    return Body(NONE, memoryview(data), len(data))


@given(st.lists(st.integers(-8, 7), max_size=60))
def test_levels_come_back_from_half_as_many_bytes(levels: list[int]) -> None:
    padded = np.array([*levels, *[0] * (len(levels) % 2)], np.int8)
    data = nibbles.packed(padded).tobytes()
    assert len(data) == (len(levels) + 1) // 2
    assert nibbles.unpacked(nibbles.take(_body(data), len(levels)), len(levels)).tolist() == levels


def test_the_first_level_lies_in_the_low_half() -> None:
    assert nibbles.packed(np.array([1, -1], np.int8)).tobytes() == b"\xf1"


def test_something_beside_an_odd_last_level_is_refused() -> None:
    with pytest.raises(WireError, match="malformed: something stands beside the last level"):
        nibbles.take(_body(b"\x11"), 1)


def test_a_body_that_ends_early_is_refused() -> None:
    with pytest.raises(WireError, match="wrong-shape: a body ends 1 bytes early"):
        nibbles.take(_body(b"\x11"), 3)
