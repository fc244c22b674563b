import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from schemas import compression
from schemas.compression import HEADER, MARK, sign
from schemas.errors import WireError
from schemas.parameters import Manifest, Parameters, TensorSpec

LARGEST = float(np.finfo(np.float32).max)
RNG = np.random.default_rng(0)


def _manifest(*sizes: int) -> Manifest:
    return Manifest(tuple(TensorSpec(f"t{index}", (size,)) for index, size in enumerate(sizes)))


def _decoded(parameters: Parameters) -> np.ndarray:
    return compression.decode(compression.encode("sign", parameters, RNG), parameters.manifest).flat


def _payload(body: bytes) -> bytes:
    return HEADER.pack(MARK, sign.ID, 0, len(body)) + body


@given(hnp.arrays(np.float32, st.integers(1, 100), elements=st.floats(-LARGEST, LARGEST, width=32)))
def test_every_value_becomes_its_sign_times_the_mean_magnitude(values: np.ndarray) -> None:
    decoded = _decoded(Parameters(_manifest(values.size), values))
    mean = np.float32(np.abs(values.astype(np.float64)).mean())
    np.testing.assert_array_equal(decoded, np.where(values < 0, -mean, mean))


def test_a_tensor_has_its_own_mean_and_a_large_one_several() -> None:
    sizes, blocks = (3, 5, 32_760, 40_000), [3, 5, 32_760, 32_768, 7232]
    flat = np.concatenate([np.full(size, 10.0**-index) for index, size in enumerate(blocks)]).astype(np.float32)
    parameters = Parameters(_manifest(*sizes), flat)
    assert sign.limit(parameters.manifest) == 5 * 4 + flat.size // 8
    np.testing.assert_array_equal(_decoded(parameters), flat)


def test_no_other_magnitude_would_lose_less() -> None:
    """Of a normal vector it loses 1 - 2 / pi of the squared norm."""
    values = np.random.default_rng(1).standard_normal(30_000).astype(np.float32)
    decoded = _decoded(Parameters(_manifest(values.size), values))
    lost = [float(np.square(decoded * factor - values).sum() / np.square(values).sum()) for factor in (1, 0.9, 1.1)]
    assert lost[0] == min(lost)
    assert lost[0] == pytest.approx(1 - 2 / np.pi, rel=0.02)


def test_it_is_biased_and_says_so() -> None:
    """A small value beside a large one comes back too large, always."""
    values = Parameters(_manifest(2), np.array([1.0, 0.1], np.float32))
    assert {tuple(_decoded(values)) for _ in range(5)} == {(np.float32(0.55), np.float32(0.55))}
    assert sign.FEEDBACK


def test_error_feedback_makes_up_for_it() -> None:
    """What one update loses is added to the next: their sum stays near the true one (Karimireddy et al. 2019)."""
    values = np.random.default_rng(2).standard_normal(2000).astype(np.float32)
    values[0] = 10
    lost, told, rounds = np.zeros_like(values), np.zeros_like(values), 200
    for _ in range(rounds):
        asked = values + lost
        decoded = _decoded(Parameters(_manifest(values.size), asked))
        lost, told = asked - decoded, told + decoded
    assert np.linalg.norm(told / rounds - values) < 0.25 * np.linalg.norm(values)
    assert np.linalg.norm(_decoded(Parameters(_manifest(values.size), values)) - values) > 0.6 * np.linalg.norm(values)


@pytest.mark.parametrize("mean", [-0.0, -1.0, np.nan, np.inf, -np.inf])
def test_a_mean_that_cannot_be_is_refused(mean: float) -> None:
    body = np.array([mean], "<f4").tobytes() + b"\x01"
    with pytest.raises(WireError, match="out-of-range: a mean"):
        compression.decode(_payload(body), _manifest(3))


def test_something_behind_the_last_sign_is_refused() -> None:
    body = np.array([1.0], "<f4").tobytes()
    np.testing.assert_array_equal(compression.decode(_payload(body + b"\x05"), _manifest(3)).flat, [-1, 1, -1])
    with pytest.raises(WireError, match="malformed: something"):
        compression.decode(_payload(body + b"\x09"), _manifest(3))
