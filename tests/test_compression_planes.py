import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from schemas.compression import planes
from schemas.compression.entropy import NONE, Body
from schemas.errors import WireError


def _join(body: memoryview, kind: np.dtype, count: int) -> np.ndarray:
    """All blocks, and the end of the body seen to."""
    reader = Body(NONE, body, len(body))
    blocks = [np.zeros(0, kind), *(block.copy() for block in planes.join(reader, kind, count))]
    reader.end()
    return np.concatenate(blocks)


def test_the_first_bytes_come_first_then_the_second() -> None:
    values = np.array([0x0403_0201, 0x0807_0605], "<u4").view("<f4")
    assert bytes(planes.split(values)) == bytes([1, 5, 2, 6, 3, 7, 4, 8])


def test_a_block_has_planes_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planes, "BLOCK", 2)
    values = np.array([0x0201, 0x0403, 0x0605], "<u2")
    assert bytes(planes.split(values)) == bytes([1, 3, 2, 4, 5, 6])


@given(st.sampled_from(["<f4", "<f2"]), st.binary(max_size=400), st.sampled_from([1, 7, 131_072]))
def test_planes_join_to_the_same_bits(dtype: str, data: bytes, block: int) -> None:
    """Bits, so that NaN and negative zero count too."""
    kind = np.dtype(dtype)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(planes, "BLOCK", block)
        _same_bits(kind, data)


def _same_bits(kind: np.dtype, data: bytes) -> None:
    values = np.frombuffer(data[: len(data) // 4 * 4], kind)
    joined = _join(planes.split(values), kind, values.size)
    assert joined.dtype == kind
    assert joined.tobytes() == values.tobytes()


@given(hnp.arrays(np.float32, st.integers(0, 20)), st.integers(0, 20))
def test_planes_of_another_length_are_refused(values: np.ndarray, count: int) -> None:
    if count != values.size:
        with pytest.raises(WireError, match="wrong-shape"):
            _join(planes.split(values), np.dtype("<f4"), count)
