import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from schemas import compression
from schemas.compression import HEADER, int8
from schemas.errors import WireError
from schemas.parameters import Manifest, Parameters, TensorSpec

LARGEST = float(np.float32(3.3e38))
any_values = hnp.arrays(
    np.float32,
    st.integers(1, 200),
    elements=st.floats(-LARGEST, LARGEST, width=32) | st.floats(-1, 1, width=32) | st.floats(0, 2.0**-122, width=32),
)


def _parameters(values: np.ndarray) -> Parameters:
    return Parameters(Manifest((TensorSpec("t", values.shape),)), values)


def _levels(parameters: Parameters, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Steps and levels, as they travel."""
    body = int8.encode(parameters, np.random.default_rng(seed))
    head = 4 * len(parameters.manifest.tensors)
    return np.frombuffer(body[:head], "<f4"), np.frombuffer(body[head:], np.int8)


@settings(max_examples=300)
@given(any_values, st.integers(0, 1000))
def test_every_value_is_within_one_step_of_what_it_was(values: np.ndarray, seed: int) -> None:
    parameters = _parameters(values)
    decoded = compression.decode(
        compression.encode("int8", parameters, np.random.default_rng(seed)), parameters.manifest
    )
    step = max(float(np.abs(values).max()) / 127, float(np.finfo(np.float32).tiny)) * (1 + 1e-6)
    error = np.abs(decoded.flat.astype(np.float64) - values)
    assert (error <= step * (1 + 1e-5)).all()


@settings(max_examples=200)
@given(any_values, st.integers(0, 1000))
def test_levels_stay_within_127_and_keep_their_sign(values: np.ndarray, seed: int) -> None:
    _, levels = _levels(_parameters(values), seed)
    assert (np.abs(levels.astype(int)) <= 127).all()
    assert (levels[values > 0] >= 0).all()
    assert (levels[values < 0] <= 0).all()


class _Always:
    """A generator whose every draw is the same."""

    def __init__(self, value: float) -> None:
        self.value = np.float32(value)

    def random(self, dtype: type, out: np.ndarray) -> np.ndarray:
        assert dtype is np.float32
        out[...] = self.value
        return out


@settings(max_examples=300)
@given(any_values)
def test_the_largest_and_smallest_draws_stay_within_127(values: np.ndarray) -> None:
    """127 steps plus 0.99999994 is 128 in float32, which int8 would turn into -128: the step must leave room."""
    for draw in (0.0, 1 - 2.0**-24):
        body = int8.encode(_parameters(values), _Always(draw))  # type: ignore[arg-type]  # only what int8 asks of one
        levels = np.frombuffer(body[4:], np.int8).astype(int)
        assert (np.abs(levels) <= 127).all()
        assert (levels[values > 0] >= 0).all()
        assert (levels[values < 0] <= 0).all()


def test_rounding_is_unbiased() -> None:
    """The mean of many encodings is the value: within five standard errors, at most half a step over root n each."""
    values = np.linspace(-1, 1, 257, dtype=np.float32)
    parameters, rng, repeats = _parameters(values), np.random.default_rng(0), 4000
    total = np.zeros(values.size)
    for _ in range(repeats):
        total += int8.decode(int8.encode(parameters, rng), parameters.manifest)
    error = np.abs(total / repeats - values)
    assert (error <= 5 * (0.5 / 127) / repeats**0.5).all()
    assert abs((total / repeats - values).mean()) < 5 * (0.5 / 127) / (repeats * values.size) ** 0.5


def test_rounding_errors_cancel_over_devices() -> None:
    """What rounding to nearest would not give: values under half a step survive in the mean."""
    values = np.full(10_000, 1e-4, np.float32)
    values[0] = 1.0  # a step of 1/127, so 1e-4 is 0.0127 of a step
    parameters = _parameters(values)
    decoded = int8.decode(int8.encode(parameters, np.random.default_rng(0)), parameters.manifest)
    assert decoded[1:].mean() == pytest.approx(1e-4, rel=0.5)
    assert set(np.unique(decoded[1:])) == {np.float32(0), decoded[1:].max()}


def test_each_tensor_has_its_own_step() -> None:
    manifest = Manifest((TensorSpec("large", (50,)), TensorSpec("small", (50,))))
    flat = np.concatenate([np.linspace(-1000, 1000, 50), np.linspace(-1e-6, 1e-6, 50)]).astype(np.float32)
    steps, _ = _levels(Parameters(manifest, flat), seed=0)
    np.testing.assert_allclose(steps, [1000 / 127, 1e-6 / 127], rtol=2e-6)


def test_zeros_stay_exactly_zero() -> None:
    parameters = _parameters(np.zeros(1000, np.float32))
    assert not int8.decode(int8.encode(parameters, np.random.default_rng(0)), parameters.manifest).any()


def test_the_bytes_depend_on_the_generator_and_not_on_the_block(monkeypatch: pytest.MonkeyPatch) -> None:
    """The block fits a cache; a machine with another one must resend the same bytes."""
    parameters = _parameters(np.random.default_rng(1).standard_normal(5000).astype(np.float32))
    before = bytes(int8.encode(parameters, np.random.default_rng(2)))
    assert before != bytes(int8.encode(parameters, np.random.default_rng(3)))
    monkeypatch.setattr(int8, "_BLOCK", 77)
    assert bytes(int8.encode(parameters, np.random.default_rng(2))) == before


def test_a_value_too_large_for_finite_steps_is_refused_by_its_name() -> None:
    with pytest.raises(WireError, match=r"out-of-range: t has 3\.4028.*use the codec float32"):
        int8.encode(_parameters(np.array([np.finfo(np.float32).max], np.float32)), np.random.default_rng(0))


@pytest.mark.parametrize("step", [0.0, -0.0, -1.0, np.nan, np.inf, -np.inf, 1e-45, 3e38])
def test_a_step_that_is_not_positive_and_finite_is_refused(step: float) -> None:
    body = np.array([step], "<f4").tobytes() + b"\x01"
    payload = HEADER.pack(b"FBT", 1, 3, 0, 0, len(body)) + body
    with pytest.raises(WireError, match="out-of-range: a step"):
        compression.decode(payload, Manifest((TensorSpec("t", (1,)),)))


def test_the_level_that_encode_never_makes_is_still_finite() -> None:
    body = np.array([int8._LARGEST_STEP], "<f4").tobytes() + b"\x80"
    decoded = int8.decode(memoryview(body), Manifest((TensorSpec("t", (1,)),)))
    assert np.isfinite(decoded).all()


def test_a_delta_takes_a_quarter_of_its_bytes_and_four_a_tensor() -> None:
    manifest = Manifest((TensorSpec("a", (100,)), TensorSpec("b", ())))
    assert int8.limit(manifest) == 101 + 8
