import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from schemas.compression import planes
from schemas.errors import WireError


def test_the_first_bytes_come_first_then_the_second() -> None:
    values = np.array([0x0403_0201, 0x0807_0605], "<u4").view("<f4")
    assert bytes(planes.split(values)) == bytes([1, 5, 2, 6, 3, 7, 4, 8])


@given(st.sampled_from(["<f4", "<f2"]), st.binary(max_size=400))
def test_planes_join_to_the_same_bits(dtype: str, data: bytes) -> None:
    """Bits, so that NaN and negative zero count too."""
    kind = np.dtype(dtype)
    values = np.frombuffer(data[: len(data) // 4 * 4], kind)
    joined = planes.join(planes.split(values), kind, values.size)
    assert joined.dtype == kind
    assert joined.tobytes() == values.tobytes()


@given(hnp.arrays(np.float32, st.integers(0, 20)), st.integers(0, 20))
def test_planes_of_another_length_are_refused(values: np.ndarray, count: int) -> None:
    if count != values.size:
        with pytest.raises(WireError, match="wrong-shape"):
            planes.join(planes.split(values), np.dtype("<f4"), count)
