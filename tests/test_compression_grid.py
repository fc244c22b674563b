"""Stochastic rounding to a grid of steps in each tensor, as int8 has it, and what int4 shares."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from schemas import compression
from schemas.compression import HEADER, MARK, grid, int8
from schemas.errors import WireError
from schemas.parameters import Manifest, Parameters, TensorSpec

LARGEST = float(np.float32(2.9e38))
LEVELS = 127
any_values = hnp.arrays(
    np.float32,
    st.integers(1, 200),
    elements=st.floats(-LARGEST, LARGEST, width=32) | st.floats(-1, 1, width=32) | st.floats(0, 2.0**-122, width=32),
)


def _parameters(values: np.ndarray) -> Parameters:
    return Parameters(Manifest((TensorSpec("t", values.shape),)), values)


def _decoded(parameters: Parameters, rng: np.random.Generator) -> np.ndarray:
    return compression.decode(compression.encode("int8", parameters, rng), parameters.manifest).flat


def _levels(parameters: Parameters, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Steps and levels, as they travel."""
    body = int8.encode(parameters, rng)
    head = 4 * len(parameters.manifest.tensors)
    return np.frombuffer(body[:head], "<f4"), np.frombuffer(body[head:], np.int8).astype(int)


@settings(max_examples=200)
@given(values=any_values, seed=st.integers(0, 1000))
def test_every_value_is_within_one_step_of_what_it_was(values: np.ndarray, seed: int) -> None:
    decoded = _decoded(_parameters(values), np.random.default_rng(seed))
    step = max(float(np.abs(values).max()) / LEVELS, float(np.finfo(np.float32).tiny)) * (1 + 1e-6)
    error = np.abs(decoded.astype(np.float64) - values)
    assert (error <= step * (1 + 1e-5)).all()


class Always:
    """A generator whose every draw is the same."""

    def __init__(self, value: float) -> None:
        self.value = np.float32(value)

    def random(self, dtype: type, out: np.ndarray) -> np.ndarray:
        assert dtype is np.float32
        out[...] = self.value
        return out


@settings(max_examples=200)
@given(values=any_values)
def test_levels_keep_to_their_range_and_their_sign_whatever_is_drawn(values: np.ndarray) -> None:
    """127 steps plus 0.99999994 is 128 in float32, which int8 would turn into -128: the step must leave room."""
    for draw in (0.0, 0.5, 1 - 2.0**-24):
        _, levels = _levels(_parameters(values), Always(draw))  # type: ignore[arg-type]  # all they ask of one
        assert (np.abs(levels) <= LEVELS).all()
        assert (levels[values > 0] >= 0).all()
        assert (levels[values < 0] <= 0).all()


def test_rounding_is_unbiased() -> None:
    """The mean of many encodings is the value: within five standard errors, at most half a step over root n each."""
    values = np.linspace(-1, 1, 257, dtype=np.float32)
    parameters, rng, repeats = _parameters(values), np.random.default_rng(0), 2000
    total = np.zeros(values.size)
    for _ in range(repeats):
        total += _decoded(parameters, rng)
    error, half = np.abs(total / repeats - values), 0.5 / LEVELS
    assert (error <= 5 * half / repeats**0.5).all()
    assert abs((total / repeats - values).mean()) < 5 * half / (repeats * values.size) ** 0.5


def test_rounding_errors_cancel_over_devices() -> None:
    """What rounding to nearest would not give: values under half a step survive in the mean."""
    values = np.full(10_000, 0.0127 / LEVELS, np.float32)  # of a step of the one large value
    values[0] = 1.0
    decoded = _decoded(_parameters(values), np.random.default_rng(0))
    assert decoded[1:].mean() == pytest.approx(values[1], rel=0.5)
    assert set(np.unique(decoded[1:])) == {np.float32(0), decoded[1:].max()}


def test_each_tensor_has_its_own_step() -> None:
    manifest = Manifest((TensorSpec("large", (50,)), TensorSpec("small", (50,))))
    flat = np.concatenate([np.linspace(-1000, 1000, 50), np.linspace(-1e-6, 1e-6, 50)]).astype(np.float32)
    steps, _ = _levels(Parameters(manifest, flat), np.random.default_rng(0))
    np.testing.assert_allclose(steps, [1000 / LEVELS, 1e-6 / LEVELS], rtol=2e-6)


def test_zeros_stay_exactly_zero() -> None:
    assert not _decoded(_parameters(np.zeros(1001, np.float32)), np.random.default_rng(0)).any()


@given(sizes=st.lists(st.integers(1, 40), min_size=1, max_size=12), block=st.sampled_from([2, 6, 64]))
def test_the_bytes_and_the_values_do_not_depend_on_the_block(sizes: list[int], block: int) -> None:
    """The block fits a cache; a machine with another one must resend the same bytes."""
    manifest = Manifest(tuple(TensorSpec(f"t{index}", (size,)) for index, size in enumerate(sizes)))
    flat = np.random.default_rng(1).standard_normal(manifest.size).astype(np.float32)
    whole = compression.encode("int8", Parameters(manifest, flat), np.random.default_rng(2))
    values = compression.decode(whole, manifest)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(grid, "BLOCK", block)
        assert compression.encode("int8", Parameters(manifest, flat), np.random.default_rng(2)) == whole
        assert compression.decode(whole, manifest).equal(values)


def test_the_bytes_depend_on_the_generator() -> None:
    parameters = _parameters(np.random.default_rng(1).standard_normal(5000).astype(np.float32))
    assert int8.encode(parameters, np.random.default_rng(2)) != int8.encode(parameters, np.random.default_rng(3))


def test_a_value_too_large_for_finite_steps_is_refused_by_its_name() -> None:
    with pytest.raises(WireError, match=r"out-of-range: t has 3\.4028.*too large for int8: use float32"):
        int8.encode(_parameters(np.array([np.finfo(np.float32).max], np.float32)), np.random.default_rng(0))


@pytest.mark.parametrize("step", [0.0, -0.0, -1.0, np.nan, np.inf, -np.inf, 1e-45, 1e38])
def test_a_step_that_is_not_positive_and_finite_is_refused(step: float) -> None:
    body = np.array([step], "<f4").tobytes() + b"\x01"
    payload = HEADER.pack(MARK, int8.ID, 0, len(body)) + body
    with pytest.raises(WireError, match="out-of-range: a step"):
        compression.decode(payload, Manifest((TensorSpec("t", (1,)),)))


def test_the_level_that_encode_never_makes_is_still_finite_and_below_the_peak() -> None:
    body = np.array([grid.largest_step(LEVELS)], "<f4").tobytes() + b"\x80"
    payload = HEADER.pack(MARK, int8.ID, 0, len(body)) + body
    held = compression.read(payload, Manifest((TensorSpec("t", (1,)),)))
    assert held.parameters().is_finite()
    assert held.parameters().peak <= held.peak


def test_a_delta_takes_a_quarter_of_its_bytes_and_four_a_tensor() -> None:
    assert int8.limit(Manifest((TensorSpec("a", (100,)), TensorSpec("b", ())))) == 101 + 8


@pytest.mark.parametrize("size", [0, 1, 255, 256, 257, 1000, 32_768, 32_769, 100_001])
def test_the_sum_of_squares_is_right_to_float64(size: int) -> None:
    values = np.random.default_rng(size).standard_normal(size).astype(np.float32)
    assert grid.power(values) == pytest.approx(math.fsum(float(value) ** 2 for value in values), rel=1e-13)


def test_the_sum_of_squares_has_these_bits_on_every_machine() -> None:
    """A step, and so the model that it leads to, follows from it. In the one order that ``power`` gives."""
    values = (np.random.Philox(key=3).random_raw(100_001) >> np.uint64(40)).astype(np.float32)
    assert grid.power(values).hex() == "0x1.04779c139198dp+63"
