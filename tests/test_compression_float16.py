import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from schemas import compression
from schemas.compression import HEADER, MARK
from schemas.errors import WireError
from schemas.parameters import Manifest, Parameters, TensorSpec


def _through(values: np.ndarray) -> np.ndarray:
    parameters = Parameters(Manifest((TensorSpec("t", values.shape),)), values)
    payload = compression.encode("float16", parameters, np.random.default_rng(0))
    return compression.decode(payload, parameters.manifest).flat


@given(hnp.arrays(np.float32, st.integers(1, 200), elements=st.floats(-65504, 65504, width=32)))
def test_values_are_rounded_to_the_nearest_float16(values: np.ndarray) -> None:
    decoded = _through(values)
    assert decoded.dtype == np.float32
    assert decoded.tobytes() == values.astype(np.float16).astype(np.float32).tobytes()
    error = np.abs(decoded.astype(np.float64) - values)
    assert (error <= np.maximum(np.abs(values.astype(np.float64)) * 2.0**-11, 2.0**-25)).all()


@pytest.mark.parametrize("value", [65_504.1, 65_520.0, -70_000.0, 3e38])
def test_a_value_beyond_float16_is_refused_by_its_name(value: float) -> None:
    flat = np.array([1, 2, value], np.float32)
    parameters = Parameters(Manifest((TensorSpec("head.bias", (1,)), TensorSpec("head.weight", (2,)))), flat)
    with pytest.raises(WireError, match=r"out-of-range: head\.weight has \d.*beyond 65504: use another codec"):
        compression.encode("float16", parameters, np.random.default_rng(0))


@pytest.mark.parametrize("bits", [0x7C00, 0xFC00, 0x7E00, 0x7C01, 0xFD00], ids=hex)
def test_infinities_and_all_kinds_of_nan_are_refused_when_decoding(bits: int) -> None:
    payload = HEADER.pack(MARK, 2, 0, 2) + bits.to_bytes(2, "little")
    with pytest.raises(WireError, match="not-finite"):
        compression.decode(payload, Manifest((TensorSpec("t", (1,)),)))
