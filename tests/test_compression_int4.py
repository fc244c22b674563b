"""int4: how wide its steps are, and the levels that stand apart."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas import compression
from schemas.compression import HEADER, MARK, int4
from schemas.errors import Reject, WireError
from schemas.parameters import Manifest, Parameters, TensorSpec
from tests.test_compression_grid import any_values

ONE = Manifest((TensorSpec("t", (1,)),))


def _parameters(values: np.ndarray) -> Parameters:
    return Parameters(Manifest((TensorSpec("t", values.shape),)), values.astype(np.float32))


def _payload(body: bytes) -> bytes:
    return HEADER.pack(MARK, int4.UPDATES.ID, 0, len(body)) + body


def _decoded(parameters: Parameters, rng: np.random.Generator) -> np.ndarray:
    return compression.decode(compression.encode("int4", parameters, rng), parameters.manifest).flat


def _head(parameters: Parameters, codec: int4.Int4 = int4.UPDATES) -> tuple[np.ndarray, np.ndarray]:
    """The steps, and of which tensors draws are taken back."""
    body = codec.encode(parameters, np.random.default_rng(0))
    codes = np.frombuffer(body[: 2 * len(parameters.manifest.tensors)], "<u2")
    return ((codes.astype("<u4") & 0x7FFF) << 16).view("<f4"), codes > 0x7FFF


def _steps(parameters: Parameters) -> np.ndarray:
    return _head(parameters)[0]


def _heavy(size: int, seed: int = 0) -> np.ndarray:
    """Values of which some lie far beyond seven deviations."""
    return np.random.default_rng(seed).standard_t(2.1, size)


fitting = any_values.filter(lambda values: np.abs(values).max() < 2e37)


@settings(max_examples=200)
@given(values=fitting, seed=st.integers(0, 1000))
def test_every_value_is_within_one_step_of_what_it_was_and_of_its_sign(values: np.ndarray, seed: int) -> None:
    """Within half a step, and maybe of the other sign, where draws are taken back."""
    parameters = _parameters(values)
    for codec in (int4.UPDATES, int4.STEPS):
        (step,), (taken_back,) = _head(parameters, codec)
        payload = compression.encode_with(codec, parameters, np.random.default_rng(seed))
        decoded = compression.decode(payload, parameters.manifest).flat.astype(np.float64)
        most = step / 2 if taken_back or not codec.chance else step
        assert (np.abs(decoded - values) <= most * (1 + 1e-4) + np.abs(values) * 1e-6).all()
        assert taken_back or (decoded * values >= 0).all()


SPARSE = np.where(np.arange(257) % 40, 0.0, 0.7)


@pytest.mark.parametrize(
    ("values", "taken_back"),
    [(np.linspace(-1, 1, 257), True), (_heavy(257, 4), True), (SPARSE, False)],
    ids=["even", "heavy", "sparse"],
)
def test_rounding_is_unbiased(values: np.ndarray, taken_back: bool) -> None:  # noqa: FBT001 - a parameter
    """The mean of many encodings is the value: within five standard errors, at most half a step over root n each.

    Seen to fail with levels apart cut to 7, and with the half that draws are taken back around left out.
    """
    parameters, rng, repeats = _parameters(values), np.random.default_rng(0), 2000
    (step,), said = _head(parameters)
    assert said == [taken_back]
    total = np.zeros(values.size)
    for _ in range(repeats):
        total += _decoded(parameters, rng)
    assert (np.abs(total / repeats - parameters.flat) <= 5 * step / 2 / repeats**0.5).all()


def test_steps_are_the_geometric_mean_of_the_tensors_and_the_models_deviation() -> None:
    manifest = Manifest((TensorSpec("large", (500,)), TensorSpec("small", (500,))))
    flat = np.repeat(np.array([1.0, 1e-4], np.float32), 500) * np.random.default_rng(0).choice([-1, 1], 1000)
    steps = _steps(Parameters(manifest, flat.astype(np.float32)))
    exact = int4.UPDATES.width * np.array([0.5**0.25, (1e-4 * 0.5**0.5) ** 0.5])
    assert ((steps >= exact) & (steps <= exact * (1 + 2.0**-7))).all()


def test_a_normal_delta_takes_less_than_two_bits_a_value_and_loses_a_twelfth_of_a_steps_square() -> None:
    """Whether its values are near to whole numbers of steps or not. Read without its draws it would lose twice that."""
    parameters = _parameters(np.random.default_rng(0).standard_normal(200_000))
    payload = compression.encode("int4", parameters, np.random.default_rng(1))
    error = compression.decode(payload, parameters.manifest).subtract(parameters).norm() / parameters.norm()
    assert error**2 == pytest.approx(int4.UPDATES.width**2 / 12, rel=0.03)
    assert 8 * len(payload) / parameters.manifest.size < 1.7


@pytest.mark.parametrize("size", [40_000, 3_000])
def test_errors_of_two_updates_cancel_like_chance(size: int) -> None:
    """Each block's draws are another update's own: the error of a mean of n is 1 / n of one's."""
    parameters, rng, repeats = _parameters(np.random.default_rng(0).standard_normal(size)), np.random.default_rng(7), 60
    errors = np.stack([_decoded(parameters, rng) - parameters.flat for _ in range(repeats)])
    alone = np.square(errors).mean()
    assert np.square(errors.mean(axis=0)).mean() == pytest.approx(alone / repeats, rel=0.1)


def test_errors_within_an_update_go_their_own_ways() -> None:
    """Also of blocks of the same values, which share their draws: it would be one error, many times."""
    values = np.tile(np.random.default_rng(0).standard_normal(32_768), 6)
    errors = (_decoded(_parameters(values), np.random.default_rng(3)) - values.astype(np.float32)).reshape(6, -1)
    likeness = np.corrcoef(errors)
    assert np.abs(likeness[np.triu_indices(6, 1)]).max() < 0.03


def test_a_tensor_whose_values_are_mostly_zeros_keeps_its_zeros() -> None:
    """Taking its draws back would make noise of them: a hundred times the error."""
    manifest = Manifest((TensorSpec("dense", (1000,)), TensorSpec("sparse", (1000,))))
    flat = np.random.default_rng(0).standard_normal(2000).astype(np.float32)
    flat[1000:][np.arange(1000) % 50 > 0] = 0
    parameters = Parameters(manifest, flat)
    assert _head(parameters)[1].tolist() == [True, False]
    decoded = _decoded(parameters, np.random.default_rng(0))
    assert not decoded[1000:][flat[1000:] == 0].any()
    assert np.square(decoded[1000:] - flat[1000:]).sum() < 0.1 * np.square(flat[1000:]).sum()


@given(
    sizes=st.lists(st.integers(1, 400), min_size=1, max_size=6),
    scales=st.lists(st.sampled_from([1e-6, 1e-3, 1.0, 30.0, 1e5]), min_size=6, max_size=6),
    spikes=st.lists(st.integers(0, 2000), max_size=40),
    seed=st.integers(0, 100),
)
def test_no_more_than_one_value_in_49_stands_apart(
    sizes: list[int], scales: list[float], spikes: list[int], seed: int
) -> None:
    """Whatever the tensors and the values: so the longest body there can be is known before it is unpacked."""
    manifest = Manifest(tuple(TensorSpec(f"t{index}", (size,)) for index, size in enumerate(sizes)))
    flat = np.random.default_rng(seed).standard_normal(manifest.size)
    for where, scale in zip(manifest.slices(), scales, strict=False):
        flat[where] *= scale
    for spike in spikes:
        flat[spike % manifest.size] *= 50
    for width in (1.0, int4.UPDATES.width):
        body = int4.Int4(width).encode(Parameters(manifest, flat.astype(np.float32)), np.random.default_rng(seed))
        seed_bytes = 4 if (np.frombuffer(body[: 2 * len(sizes)], "<u2") > 0x7FFF).any() else 0
        packed = 2 * len(sizes) + seed_bytes + 2 + (manifest.size + 1) // 2
        assert (len(body) - packed) // 4 <= manifest.size // 49
        assert len(body) <= int4.UPDATES.limit(manifest)


def test_levels_apart_come_back_where_they_were_over_many_blocks() -> None:
    """Of an odd number of values, and at the ends of blocks and tensors."""
    manifest = Manifest((TensorSpec("a", (33_000,)), TensorSpec("b", (65_535,))))
    flat = np.zeros(manifest.size, np.float32)
    places = [0, 1, 32_767, 32_768, 33_000, 65_535, manifest.size - 1]
    flat[places] = [1.0, -2.0, 3.0, -4.0, 5.0, -6.0, 7.0]
    parameters = Parameters(manifest, flat)
    held = compression.read(compression.encode("int4", parameters, np.random.default_rng(0)), manifest)
    decoded = held.parameters()
    assert np.flatnonzero(decoded.flat).tolist() == places
    np.testing.assert_allclose(decoded.flat[places], flat[places], atol=float(_steps(parameters).max()))
    assert np.abs(flat[places]).min() > 8 * _steps(parameters).max()
    assert not _head(parameters)[1].any()
    assert decoded.peak <= held.peak <= 8.0


def test_one_value_a_million_times_the_others_is_still_said_and_they_are_not_lost() -> None:
    values = np.full(2_000_000, 1e-6)
    values[-1] = 1.0
    decoded = _decoded(_parameters(values), np.random.default_rng(0))
    assert decoded[-1] == pytest.approx(1.0, abs=0.01)
    assert decoded[:-1].mean() == pytest.approx(1e-6, rel=0.2)


def test_zeros_stay_exactly_zero() -> None:
    assert not _decoded(_parameters(np.zeros(1001)), np.random.default_rng(0)).any()


def test_it_reads_what_wider_and_narrower_steps_made() -> None:
    parameters = _parameters(_heavy(5000))
    for codec in (int4.UPDATES, int4.STEPS, int4.Int4(1.0), int4.Int4(3.0)):
        payload = compression.encode_with(codec, parameters, np.random.default_rng(0))
        error = compression.decode(payload, parameters.manifest).subtract(parameters)
        assert error.norm() < parameters.norm()


@pytest.mark.parametrize("largest", [float(np.finfo(np.float32).max), 3.4028e38, 1e38])
def test_a_value_too_large_for_finite_steps_is_refused_by_its_name(largest: float) -> None:
    """And NumPy has nothing to warn of on the way."""
    with (
        np.errstate(over="raise"),
        pytest.raises(WireError, match=r"out-of-range: t has .*e\+38, too large for int4: use float32"),
    ):
        int4.UPDATES.encode(_parameters(np.array([largest])), np.random.default_rng(0))


# -- what else arrives -------------------------------------------------------------------------------------------------


def _body(step: float, *rest: bytes) -> bytes:
    """A body whose one step, cut to a bfloat16, is followed by the rest."""
    return np.array([step], "<f4").tobytes()[2:] + b"".join(rest)


@pytest.mark.parametrize("step", [0.0, -0.0, np.nan, -np.nan, np.inf, -np.inf, 1e-45, 3.9e37, -3.9e37])
def test_a_step_that_is_not_finite_or_too_small_or_large_is_refused(step: float) -> None:
    with pytest.raises(WireError, match="out-of-range: a step"):
        compression.decode(_payload(_body(step, b"\0\0\x01")), ONE)


def test_draws_to_be_taken_back_need_their_seed() -> None:
    """And 0 steps of 2, whose draw is taken back, are no more than 1 of them from 0."""
    levels = b"\0\0\0"
    decoded = compression.decode(_payload(_body(-2.0, b"\5\0\0\0", levels)), ONE)
    assert 0 < abs(float(decoded.flat[0])) < 1
    assert not compression.decode(_payload(_body(2.0, levels)), ONE).flat.any()
    for body in (_body(-2.0, levels), _body(2.0, b"\5\0\0\0", levels)):
        with pytest.raises(WireError, match="wrong-shape: a body"):
            compression.decode(_payload(body), ONE)


def test_something_beside_an_odd_last_level_is_refused() -> None:
    with pytest.raises(WireError, match="malformed: something"):
        compression.decode(_payload(_body(1.0, b"\0\0\x11")), ONE)


HUNDRED = Manifest((TensorSpec("t", (100,)),))


def _apart(places: list[int], levels: list[int], step: float = 1e-3) -> bytes:
    """A body of a hundred values, of which these stand apart."""
    count = np.array([len(places)], "<u2").tobytes()
    return _body(step, count, bytes(50), np.array(places, "<u2").tobytes(), np.array(levels, "<i2").tobytes())


def test_a_level_apart_is_taken_where_it_could_not_have_its_place() -> None:
    decoded = compression.decode(_payload(_apart([1, 99], [8, -32_767], 2.0**-10)), HUNDRED)
    assert np.flatnonzero(decoded.flat).tolist() == [1, 99]
    np.testing.assert_allclose(decoded.flat[[1, 99]], [8 / 1024, -32_767 / 1024], rtol=1e-6)
    for level in (7, -7, 0, -32_768):
        with pytest.raises(WireError, match="out-of-range: a level that would have its place"):
            compression.decode(_payload(_apart([0], [level])), HUNDRED)


@pytest.mark.parametrize("places", [[100], [65_535], [5, 5], [6, 5]])
def test_places_that_do_not_rise_within_their_block_are_refused(places: list[int]) -> None:
    with pytest.raises(WireError, match="wrong-shape: places"):
        compression.decode(_payload(_apart(places, [9] * len(places))), HUNDRED)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (_apart([3], [8])[:-1], Reject.WRONG_SHAPE),
        (_apart([3], [8]) + b"\0", Reject.WRONG_SHAPE),
        (_apart([1, 2, 3], [8, 9, 10]), Reject.TOO_LARGE),
    ],
    ids=["early", "more", "too many"],
)
def test_levels_apart_that_are_too_few_or_too_many_are_refused(body: bytes, reason: Reject) -> None:
    with pytest.raises(WireError) as caught:
        compression.decode(_payload(body), HUNDRED)
    assert caught.value.reason is reason


def test_no_level_leads_to_an_infinite_value() -> None:
    """-8, which ``encode`` never makes, is still finite and below the peak, with its draw taken back too."""
    step = 3.7e37
    seed = b"\5\0\0\0"
    for body in (
        _body(step, bytes(2), b"\x88" * 50),
        _body(-step, seed, bytes(2), b"\x88" * 50),
        _body(-step, seed, bytes(2), b"\x77" * 50),
        _apart([4], [8], step),
    ):
        held = compression.read(_payload(body), HUNDRED)
        assert held.parameters().is_finite()
        assert held.parameters().peak <= held.peak
    with pytest.raises(WireError, match="out-of-range: a level leads to an infinite value"):
        compression.read(_payload(_apart([4], [9], step)), HUNDRED)


def test_the_layouts_before_are_not_known_any_more() -> None:
    body = _body(1.0, b"\x01")
    for number in (5, 11):
        with pytest.raises(WireError, match=f"unknown-codec: codec {number} is not known here"):
            compression.decode(HEADER.pack(MARK, number, 0, len(body)) + body, ONE)


def test_a_delta_takes_an_eighth_of_its_bytes_two_a_tensor_and_a_block_four_a_level_apart_and_its_seed() -> None:
    assert int4.UPDATES.limit(Manifest((TensorSpec("a", (100,)), TensorSpec("b", ())))) == 51 + 4 + 2 + 8 + 4
