"""int8 and int4: stochastic rounding to a grid of steps in each tensor, once for both."""

from types import ModuleType

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from schemas import compression
from schemas.compression import HEADER, grid, int4, int8
from schemas.errors import WireError
from schemas.parameters import Manifest, Parameters, TensorSpec

LARGEST = float(np.float32(2.9e38))
LEVELS = {int8: 127, int4: 7}
any_values = hnp.arrays(
    np.float32,
    st.integers(1, 200),
    elements=st.floats(-LARGEST, LARGEST, width=32) | st.floats(-1, 1, width=32) | st.floats(0, 2.0**-122, width=32),
)
both = pytest.mark.parametrize("codec", [int8, int4], ids=["int8", "int4"])


def _parameters(values: np.ndarray) -> Parameters:
    return Parameters(Manifest((TensorSpec("t", values.shape),)), values)


def _name(codec: ModuleType) -> str:
    return codec.__name__.rsplit(".", 1)[-1]


def _decoded(codec: ModuleType, parameters: Parameters, rng: np.random.Generator) -> np.ndarray:
    return compression.decode(compression.encode(_name(codec), parameters, rng), parameters.manifest).flat


def _levels(codec: ModuleType, parameters: Parameters, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Steps and levels, as they travel."""
    body = codec.encode(parameters, rng)
    head = 4 * len(parameters.manifest.tensors)
    steps, rest = np.frombuffer(body[:head], "<f4"), np.frombuffer(body[head:], np.uint8)
    if codec is int8:
        return steps, rest.view(np.int8).astype(int)
    halves = np.stack((rest & 15, rest >> 4), axis=1).reshape(-1)[: parameters.manifest.size].astype(int)
    return steps, halves - 16 * (halves > 7)


@both
@settings(max_examples=200)
@given(values=any_values, seed=st.integers(0, 1000))
def test_every_value_is_within_one_step_of_what_it_was(codec: ModuleType, values: np.ndarray, seed: int) -> None:
    decoded = _decoded(codec, _parameters(values), np.random.default_rng(seed))
    step = max(float(np.abs(values).max()) / LEVELS[codec], float(np.finfo(np.float32).tiny)) * (1 + 1e-6)
    error = np.abs(decoded.astype(np.float64) - values)
    assert (error <= step * (1 + 1e-5)).all()


class _Always:
    """A generator whose every draw is the same."""

    def __init__(self, value: float) -> None:
        self.value = np.float32(value)

    def random(self, dtype: type, out: np.ndarray) -> np.ndarray:
        assert dtype is np.float32
        out[...] = self.value
        return out


@both
@settings(max_examples=200)
@given(values=any_values)
def test_levels_keep_to_their_range_and_their_sign_whatever_is_drawn(codec: ModuleType, values: np.ndarray) -> None:
    """127 steps plus 0.99999994 is 128 in float32, which int8 would turn into -128: the step must leave room."""
    for draw in (0.0, 0.5, 1 - 2.0**-24):
        _, levels = _levels(codec, _parameters(values), _Always(draw))  # type: ignore[arg-type]  # all they ask of one
        assert (np.abs(levels) <= LEVELS[codec]).all()
        assert (levels[values > 0] >= 0).all()
        assert (levels[values < 0] <= 0).all()


@both
def test_rounding_is_unbiased(codec: ModuleType) -> None:
    """The mean of many encodings is the value: within five standard errors, at most half a step over root n each."""
    values = np.linspace(-1, 1, 257, dtype=np.float32)
    parameters, rng, repeats = _parameters(values), np.random.default_rng(0), 2000
    total = np.zeros(values.size)
    for _ in range(repeats):
        total += _decoded(codec, parameters, rng)
    error, half = np.abs(total / repeats - values), 0.5 / LEVELS[codec]
    assert (error <= 5 * half / repeats**0.5).all()
    assert abs((total / repeats - values).mean()) < 5 * half / (repeats * values.size) ** 0.5


@both
def test_rounding_errors_cancel_over_devices(codec: ModuleType) -> None:
    """What rounding to nearest would not give: values under half a step survive in the mean."""
    values = np.full(10_000, 0.0127 / LEVELS[codec], np.float32)  # of a step of the one large value
    values[0] = 1.0
    decoded = _decoded(codec, _parameters(values), np.random.default_rng(0))
    assert decoded[1:].mean() == pytest.approx(values[1], rel=0.5)
    assert set(np.unique(decoded[1:])) == {np.float32(0), decoded[1:].max()}


@both
def test_each_tensor_has_its_own_step(codec: ModuleType) -> None:
    manifest = Manifest((TensorSpec("large", (50,)), TensorSpec("small", (50,))))
    flat = np.concatenate([np.linspace(-1000, 1000, 50), np.linspace(-1e-6, 1e-6, 50)]).astype(np.float32)
    steps, _ = _levels(codec, Parameters(manifest, flat), np.random.default_rng(0))
    np.testing.assert_allclose(steps, [1000 / LEVELS[codec], 1e-6 / LEVELS[codec]], rtol=2e-6)


@both
def test_zeros_stay_exactly_zero(codec: ModuleType) -> None:
    assert not _decoded(codec, _parameters(np.zeros(1001, np.float32)), np.random.default_rng(0)).any()


@both
@given(sizes=st.lists(st.integers(1, 40), min_size=1, max_size=12), block=st.sampled_from([2, 6, 64]))
def test_the_bytes_and_the_values_do_not_depend_on_the_block(codec: ModuleType, sizes: list[int], block: int) -> None:
    """The block fits a cache; a machine with another one must resend the same bytes."""
    manifest = Manifest(tuple(TensorSpec(f"t{index}", (size,)) for index, size in enumerate(sizes)))
    flat = np.random.default_rng(1).standard_normal(manifest.size).astype(np.float32)
    whole = compression.encode(_name(codec), Parameters(manifest, flat), np.random.default_rng(2))
    values = compression.decode(whole, manifest)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(grid, "BLOCK", block)
        assert compression.encode(_name(codec), Parameters(manifest, flat), np.random.default_rng(2)) == whole
        assert compression.decode(whole, manifest).equal(values)


@both
def test_the_bytes_depend_on_the_generator(codec: ModuleType) -> None:
    parameters = _parameters(np.random.default_rng(1).standard_normal(5000).astype(np.float32))
    assert codec.encode(parameters, np.random.default_rng(2)) != codec.encode(parameters, np.random.default_rng(3))


@both
def test_a_value_too_large_for_finite_steps_is_refused_by_its_name(codec: ModuleType) -> None:
    largest = _parameters(np.array([np.finfo(np.float32).max], np.float32))
    if codec is int8:
        with pytest.raises(WireError, match=r"out-of-range: t has 3\.4028.*too large for int8: use float32"):
            codec.encode(largest, np.random.default_rng(0))
    else:
        with pytest.raises(WireError, match=r"out-of-range: t has 3\.4028.*too large for int4: use float32"):
            codec.encode(largest, np.random.default_rng(0))


@both
@pytest.mark.parametrize("step", [0.0, -0.0, -1.0, np.nan, np.inf, -np.inf, 1e-45, 1e38])
def test_a_step_that_is_not_positive_and_finite_is_refused(codec: ModuleType, step: float) -> None:
    body = np.array([step], "<f4").tobytes() + b"\x01"
    payload = HEADER.pack(b"FBT", 2, codec.ID, 0, 0, len(body)) + body
    with pytest.raises(WireError, match="out-of-range: a step"):
        compression.decode(payload, Manifest((TensorSpec("t", (1,)),)))


@both
def test_the_level_that_encode_never_makes_is_still_finite_and_below_the_peak(codec: ModuleType) -> None:
    body = np.array([grid.largest_step(LEVELS[codec])], "<f4").tobytes() + (b"\x80" if codec is int8 else b"\x08")
    payload = HEADER.pack(b"FBT", 2, codec.ID, 0, 0, len(body)) + body
    held = compression.read(payload, Manifest((TensorSpec("t", (1,)),)))
    assert held.parameters().is_finite()
    assert held.parameters().peak <= held.peak


def test_something_beside_an_odd_last_level_is_refused() -> None:
    body = np.array([1.0], "<f4").tobytes() + b"\x11"
    with pytest.raises(WireError, match="malformed: something"):
        compression.decode(HEADER.pack(b"FBT", 2, 5, 0, 0, len(body)) + body, Manifest((TensorSpec("t", (1,)),)))


def test_a_delta_takes_a_quarter_or_an_eighth_of_its_bytes_and_four_a_tensor() -> None:
    manifest = Manifest((TensorSpec("a", (100,)), TensorSpec("b", ())))
    assert int8.limit(manifest) == 101 + 8
    assert int4.limit(manifest) == 51 + 8
