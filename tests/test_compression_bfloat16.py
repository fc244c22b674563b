import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from schemas import compression
from schemas.compression import HEADER, MARK
from schemas.errors import WireError
from schemas.parameters import Manifest, Parameters, TensorSpec

LARGEST = float(np.float32(3.3e38))
MANIFEST = Manifest((TensorSpec("t", (1,)),))


def _through(values: np.ndarray) -> np.ndarray:
    parameters = Parameters(Manifest((TensorSpec("t", values.shape),)), values)
    payload = compression.encode("bfloat16", parameters, np.random.default_rng(0))
    return compression.decode(payload, parameters.manifest).flat


@given(hnp.arrays(np.float32, st.integers(1, 200), elements=st.floats(-LARGEST, LARGEST, width=32)))
def test_values_are_rounded_to_the_nearest_with_ties_to_even(values: np.ndarray) -> None:
    decoded = _through(values)
    halves = decoded.view(np.uint32)
    assert not (halves & 0xFFFF).any()
    below, above = ((values.view(np.uint32) >> 16 << 16) + step for step in (0, 0x10000))
    ways = np.abs(np.stack([way.astype(np.uint32).view(np.float32) for way in (below, above)]).astype(float) - values)
    error = np.abs(decoded.astype(float) - values)
    assert (error <= ways.min(axis=0)).all()
    ties = ways[0] == ways[1]
    assert not (halves[ties] >> 16 & 1).any()


@pytest.mark.parametrize("value", [np.finfo(np.float32).max, -np.finfo(np.float32).max])
def test_a_value_that_would_become_infinite_is_refused(value: float) -> None:
    with pytest.raises(WireError, match=r"out-of-range: a value beyond 3\.39e38: use the codec float32"):
        _through(np.array([0, value], np.float32))


@pytest.mark.parametrize("bits", [0x7F80, 0xFF80, 0x7FC0, 0x7F81, 0xFFA0], ids=hex)
def test_infinities_and_all_kinds_of_nan_are_refused_when_decoding(bits: int) -> None:
    payload = HEADER.pack(MARK, 4, 0, 2) + bits.to_bytes(2, "little")
    with pytest.raises(WireError, match="not-finite"):
        compression.decode(payload, MANIFEST)
