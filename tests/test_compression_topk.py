"""topk and topk10: the largest magnitudes, with the gaps between them."""

import math
import struct
import tracemalloc

import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from schemas import compression
from schemas.compression import HEADER, MARK, nibbles, topk
from schemas.errors import Reject, WireError
from schemas.parameters import Manifest, Parameters, TensorSpec

SIZES = (1, 2, 99, 100, 101, 2000, topk.BLOCK - 1, topk.BLOCK, topk.BLOCK + 1, 3 * topk.BLOCK + 17)
both = pytest.mark.parametrize("codec", [topk.HUNDREDTH, topk.TENTH], ids=["topk", "topk10"])


def _parameters(values: np.ndarray) -> Parameters:
    return Parameters(Manifest((TensorSpec("t", values.shape),)), np.ascontiguousarray(values, np.float32))


def _normal(size: int, seed: int = 0) -> Parameters:
    return _parameters(np.random.default_rng(seed).standard_normal(size).astype(np.float32))


def _decoded(codec: topk.Largest, parameters: Parameters) -> np.ndarray:
    payload = compression.encode(codec.name, parameters, np.random.default_rng(0))
    return compression.decode(payload, parameters.manifest).flat


@both
@pytest.mark.parametrize("size", SIZES)
def test_the_largest_values_are_sent_and_no_other(codec: topk.Largest, size: int) -> None:
    """Across blocks too. Seen to fail with ``_gaps`` without the byte that passes over 255."""
    parameters = _normal(size)
    count = max(1, size // codec.share)
    expected = np.sort(np.argsort(-np.abs(parameters.flat), kind="stable")[:count])
    decoded = _decoded(codec, parameters)
    np.testing.assert_array_equal(np.flatnonzero(decoded), expected)
    step = np.abs(parameters.flat).max() / nibbles.LEVELS
    assert np.abs(decoded[expected] - parameters.flat[expected]).max() <= step / 2 * (1 + 1e-5)


@both
@pytest.mark.parametrize("where", [[0], [254], [255], [256], [509], [510], [511], [1999], [3, 4, 300, 1500]])
def test_a_gap_of_any_length_leads_to_its_value(codec: topk.Largest, where: list[int]) -> None:
    values = np.zeros(2000, np.float32)
    values[where] = 2.0
    np.testing.assert_allclose(_decoded(codec, _parameters(values)), values, rtol=1e-6)


@both
def test_of_equal_values_the_first_are_sent_and_of_zeros_none(codec: topk.Largest) -> None:
    count = 2 * topk.BLOCK
    equal = _decoded(codec, _parameters(np.ones(count, np.float32)))
    assert np.flatnonzero(equal).tolist() == list(range(count // codec.share))
    values = np.zeros(count, np.float32)
    values[topk.BLOCK + 5] = -3
    np.testing.assert_allclose(_decoded(codec, _parameters(values)), values, rtol=1e-6)


@both
@settings(max_examples=150)
@given(values=hnp.arrays(np.float32, st.integers(1, 400), elements=st.floats(-(2.0**100), 2.0**100, width=32)))
def test_what_is_left_is_never_larger_than_what_was_there(codec: topk.Largest, values: np.ndarray) -> None:
    """Else feedback would grow without end (a contraction: Stich et al. 2018)."""
    decoded = _decoded(codec, _parameters(values)).astype(np.float64)
    assert np.linalg.norm(values - decoded) <= np.linalg.norm(values.astype(np.float64)) * (1 + 1e-6)


def test_a_model_of_25_000_parameters_takes_0_7_kb() -> None:
    for seed in range(3):
        draw = np.random.default_rng(seed)
        parameters = _parameters((draw.standard_t(4, 25_000) * 1e-3).astype(np.float32))
        assert len(compression.encode("topk", parameters, draw)) < 700
        assert len(compression.encode("topk10", parameters, draw)) < 4400


def _refused(body: bytes, size: int) -> WireError:
    payload = HEADER.pack(MARK, topk.HUNDREDTH.ID, 0, len(body)) + body
    with pytest.raises(WireError) as caught:
        compression.decode(payload, Manifest((TensorSpec("t", (size,)),)))
    return caught.value


def _body(size: int, count: int, gaps: bytes, levels: bytes, step: float = 1.0) -> bytes:
    return struct.pack("<HHHf", size, count, max(len(gaps) - count, 0), step) + gaps + levels


@pytest.mark.parametrize(
    ("body", "reason", "detail"),
    [
        (_body(499, 1, b"\0", b"\1"), Reject.WRONG_SHAPE, "of another model than one of 500"),
        (_body(500, 2, b"\0", b"\x11"), Reject.WRONG_SHAPE, "early"),
        (_body(500, 1, b"\0\0", b"\1"), Reject.MALFORMED, "gaps"),
        (_body(500, 1, b"\0\xff", b"\1"), Reject.MALFORMED, "gaps"),
        (_body(500, 0, b"\xff", b""), Reject.MALFORMED, "gaps"),
        (_body(500, 1, b"\xff\xf5", b"\1"), Reject.WRONG_SHAPE, "behind the end"),
        (_body(500, 53, bytes(53), b"\x11" * 27), Reject.TOO_LARGE, "takes at most"),
        (_body(500, 1, b"\0", b"\x08"), Reject.OUT_OF_RANGE, "a level beyond 7"),
        (_body(500, 1, b"\0", b"\x11"), Reject.MALFORMED, "something stands beside"),
        (_body(500, 1, b"\0", b"\1", math.nan), Reject.OUT_OF_RANGE, "a step"),
        (_body(500, 1, b"\0", b"\1", -1.0), Reject.OUT_OF_RANGE, "a step"),
        (_body(500, 1, b"\0", b"\1\1"), Reject.WRONG_SHAPE, "more than this model takes"),
        (_body(500, 1, b"\0", b""), Reject.WRONG_SHAPE, "early"),
        (struct.pack("<HHHf", 500, 2**16 - 1, 2**16 - 1, 1.0), Reject.MALFORMED, "gaps"),
        (struct.pack("<HHHf", 500, 1, 2, 1.0), Reject.MALFORMED, "1 and 2 gaps in 500 values"),
        (struct.pack("<HHHf", 500, 501, 0, 1.0), Reject.MALFORMED, "501 and 0 gaps in 500 values"),
    ],
)
def test_a_body_that_no_encoder_makes_is_refused(body: bytes, reason: Reject, detail: str) -> None:
    """Seen to fail without each of the checks in ``_read`` and ``Largest.check``."""
    error = _refused(body, 500)
    assert (error.reason, detail in error.detail) == (reason, True)


@pytest.mark.parametrize("gap", [b"\0", b"\xfe"])
def test_a_payload_of_some_bytes_makes_its_reader_allocate_no_model(gap: bytes) -> None:
    """Of a model of 20 MB. Seen to fail where a block's gaps could be as long as all blocks' together."""
    manifest = Manifest((TensorSpec("t", (5_000_000,)),))
    size = compression.TABLE["topk10"].limit(manifest) - 10
    body = struct.pack("<HHHf", manifest.size % 2**16, 2**16 - 1, 2**16 - 1, 1.0) + gap * size
    payload = HEADER.pack(MARK, topk.TENTH.ID, 1, len(body)) + zstandard.ZstdCompressor().compress(body)
    tracemalloc.start()
    try:
        with pytest.raises(WireError, match="gaps in 65535 values"):
            compression.read(payload, manifest)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


def test_more_values_than_a_tenth_are_refused_where_the_bytes_would_do() -> None:
    """510 of 5000 take no more than the longest body, which has room for gaps that this one hasn't."""
    assert _refused(_body(5000, 505, bytes(505), b"\x11" * 252 + b"\1"), 5000).detail == "more than one value in 10"


def test_the_last_place_of_a_block_can_be_sent() -> None:
    body = _body(500, 1, b"\xff\xf4", b"\7")
    payload = HEADER.pack(MARK, topk.TENTH.ID, 0, len(body)) + body
    held = compression.read(payload, Manifest((TensorSpec("t", (500,)),)))
    assert np.flatnonzero(held.parameters().flat).tolist() == [499]
    assert held.parameters().peak == 7 <= held.peak
