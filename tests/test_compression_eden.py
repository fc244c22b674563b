"""eden1 to eden4, and the rotation they stand on."""

from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas import compression
from schemas.compression import HEADER, MARK, eden, hadamard
from schemas.compression.eden import Eden
from schemas.errors import Reject, WireError
from schemas.parameters import Manifest, Parameters, TensorSpec

BITS = (1, 2, 3, 4)
# What the best quantiser of 2, 4, 8 and 16 levels loses of a normal variable (Max 1960, table I).
DISTORTION = {1: 1 - 2 / np.pi, 2: 0.1175, 3: 0.03454, 4: 0.009497}
VALUES = {1: "28a5e2b79f6af476", 2: "cbbe311748d3783c", 3: "9b78f4c40f403a4a", 4: "4ff5c54bf305278c"}  # digests
every_width = pytest.mark.parametrize("bits", BITS)


def _manifest(*sizes: int) -> Manifest:
    return Manifest(tuple(TensorSpec(f"t{index}", (size,)) for index, size in enumerate(sizes)))


def _parameters(values: np.ndarray) -> Parameters:
    return Parameters(_manifest(values.size), values.astype(np.float32))


def _decoded(bits: int, parameters: Parameters, rng: np.random.Generator) -> np.ndarray:
    return compression.decode(compression.encode(f"eden{bits}", parameters, rng), parameters.manifest).flat


def _payload(body: bytes) -> bytes:
    return HEADER.pack(MARK, eden.ID, 0, len(body)) + body


def _error(decoded: np.ndarray, values: np.ndarray) -> float:
    """Of the squared norm."""
    return float(np.square(decoded - values, dtype=np.float64).sum() / np.square(values, dtype=np.float64).sum())


@every_width
def test_a_normal_vector_loses_what_the_papers_say(bits: int) -> None:
    """D / (1 - D) of its squared norm: for one bit pi / 2 - 1 (Vargaftik et al. 2021, 2022)."""
    values = np.random.default_rng(1).standard_normal(100_000).astype(np.float32)
    expected = DISTORTION[bits] / (1 - DISTORTION[bits])
    errors = [_error(_decoded(bits, _parameters(values), np.random.default_rng(seed)), values) for seed in range(3)]
    assert np.mean(errors) == pytest.approx(expected, rel=0.02)


@every_width
def test_the_levels_are_those_that_lose_least_of_a_normal_variable(bits: int) -> None:
    """Each lies at the mean of what is nearest to it (Lloyd's condition), to half a step of their grid."""
    if bits == 1:
        return  # the scale takes it up
    normal = NormalDist()
    levels = np.array(eden._MAGNITUDES[bits]) / eden._UNIT
    edges = [0.0, *((levels[1:] + levels[:-1]) / 2), 40.0]
    for level, lower, upper in zip(levels, edges, edges[1:], strict=False):
        mean = (normal.pdf(lower) - normal.pdf(upper)) / (normal.cdf(upper) - normal.cdf(lower))
        assert level == pytest.approx(mean, abs=1.5 / eden._UNIT)


def _skewed(size: int) -> np.ndarray:
    values = np.random.default_rng(2).standard_normal(size) * 0.01
    values[size // 3] = 1.0
    return values


UNEVEN = {
    "normal": np.random.default_rng(2).standard_normal(600),
    "one large value": _skewed(4096),
    "one large value of few": _skewed(40),
    "two values": np.array([1.0, 0.9]),
    "equal values": np.ones(300),
    "mostly zeros": np.where(np.arange(500) % 50 == 3, 1.0, 0.0),
}


@every_width
@pytest.mark.parametrize("case", UNEVEN)
def test_the_mean_of_many_encodings_is_the_vector(bits: int, case: str) -> None:
    """Its distance is what independent errors leave, and so is its part along any one value.

    Seen to fail with one round of signs and Hadamard matrix instead of two or three: one large value, or two, then hide
    the rest whatever the signs are.
    """
    parameters, rng, repeats = _parameters(UNEVEN[case]), np.random.default_rng(3), 150
    values = parameters.flat.astype(np.float64)
    decoded = np.array([_decoded(bits, parameters, rng) for _ in range(repeats)], np.float64)
    mean, left = decoded.mean(axis=0), decoded.var(axis=0, ddof=1) / repeats
    if values.size > 30:
        assert _error(mean, values) <= 1.5 * left.sum() / np.square(values).sum() + 1e-10
    assert (np.abs(mean - values) <= 6 * np.sqrt(left) + 1e-5 * np.abs(values).max()).all()


def test_errors_cancel_over_devices() -> None:
    """A hundred devices' mean of one bit a value has a hundredth of the error of one."""
    parameters, rng = _parameters(_skewed(5000)), np.random.default_rng(0)
    mean = np.mean([_decoded(1, parameters, rng) for _ in range(100)], axis=0)
    assert _error(mean, parameters.flat) == pytest.approx(0.0057, rel=0.1)


@every_width
def test_a_value_alone_comes_back(bits: int) -> None:
    """The error lies in the zeros it was filled up with."""
    for value in (1.0, -3.5, 1e-20, 1e30):
        assert _decoded(bits, _parameters(np.array([value])), np.random.default_rng(0))[0] == pytest.approx(value, 2e-3)


@every_width
def test_zeros_stay_exactly_zero_and_do_not_spoil_their_neighbours(bits: int) -> None:
    parameters = Parameters(_manifest(4096, 4096), np.repeat(np.array([0, 1], np.float32), 4096))
    decoded = _decoded(bits, parameters, np.random.default_rng(0))
    assert not decoded[:4096].any()
    assert decoded[4096:].mean() == pytest.approx(1, rel=0.1)


# -- pieces ------------------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(1, 20_000), max_size=30))
def test_pieces_cover_the_model_once_and_waste_little(sizes: list[int]) -> None:
    manifest = _manifest(*sizes)
    runs = list(eden.runs(manifest))
    assert [run.start for run in runs] + [manifest.size] == [0] + [run.stop for run in runs] or not runs
    for run in runs:
        assert run.width in {256, 512, 1024, 2048, 4096}
        assert 0 <= run.pieces * run.width - (run.stop - run.start) < max(run.width / 8 + 1, 256)
    large = [where.start for where, size in zip(manifest.slices(), sizes, strict=True) if size >= 1024]
    assert set(large) <= {run.start for run in runs}


def test_many_small_tensors_cost_hardly_more_than_one() -> None:
    """One bit a value and two scales, not twenty."""
    few, many = _manifest(1280), _manifest(*[64] * 20)
    assert Eden(1).limit(many) == Eden(1).limit(few)
    assert Eden(1).limit(many) < 1280 // 8 + 30


@every_width
def test_a_large_model_takes_its_bits_and_four_bytes_a_piece(bits: int) -> None:
    assert Eden(bits).limit(_manifest(2**20)) == 13 + 256 * 4 + 2**20 * bits // 8


@settings(max_examples=40)
@given(sizes=st.lists(st.integers(1, 9000), min_size=1, max_size=8), bits=st.sampled_from(BITS))
def test_the_bytes_and_the_values_do_not_depend_on_the_block(sizes: list[int], bits: int) -> None:
    """The block fits a cache; a machine with another one must decode the same bits."""
    parameters = Parameters(_manifest(*sizes), np.random.default_rng(1).standard_normal(sum(sizes)).astype(np.float32))
    whole = Eden(bits).encode(parameters, np.random.default_rng(2)).tobytes()
    values = compression.decode(_payload(whole), parameters.manifest)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(eden, "_BLOCK", 4096)
        assert Eden(bits).encode(parameters, np.random.default_rng(2)).tobytes() == whole
        assert compression.decode(_payload(whole), parameters.manifest).equal(values)


# -- the rotation ------------------------------------------------------------------------------------------------------


def _butterflies(values: np.ndarray) -> np.ndarray:
    """Each row times Sylvester's Hadamard matrix, by its definition: sums and differences of halves."""
    width = values.shape[1]
    if width == 1:
        return values
    left, right = _butterflies(values[:, : width // 2]), _butterflies(values[:, width // 2 :])
    return np.concatenate((left + right, left - right), axis=1)


@pytest.mark.parametrize("width", [256, 512, 4096])
def test_a_rotation_is_signs_and_a_hadamard_matrix_some_times(width: int) -> None:
    values = np.random.default_rng(0).standard_normal((3, width)).astype(np.float32)
    rotation = hadamard.Rotation(7)
    found, expected = values.copy(), values.astype(np.float64)
    rotation.forward(found)
    for signs in rotation._signs[: hadamard.rounds(width)]:
        expected = _butterflies(expected * signs[:width])
    stretched = width ** (hadamard.rounds(width) / 2)
    np.testing.assert_allclose(found, expected, atol=1e-5 * stretched)
    np.testing.assert_allclose(np.linalg.norm(expected, axis=1), stretched * np.linalg.norm(values, axis=1), rtol=1e-6)


@pytest.mark.parametrize("width", [256, 512, 1024, 2048, 4096])
def test_the_way_back_is_exact_in_whole_numbers(width: int) -> None:
    """So that no machine's order of summing can be told. Against int64, where no sum is rounded.

    Seen to fail without the bound between rounds, and with values between the whole numbers there.
    """
    rotation, rng = hadamard.Rotation(5), np.random.default_rng(1)
    spike = _butterflies(np.eye(width, dtype=np.int64)[:3] * 700) * rotation._signs[hadamard.rounds(width) - 1, :width]
    random = rng.integers(-700, 701, (4, width))
    codes = np.concatenate((random, np.full((1, width), 700), 700 * rng.choice([-1, 1], (4, width)), spike))
    found, expected, factor = codes.astype(np.float32), codes.astype(np.int64), 2.0
    rotation.backward(found, np.ones(len(found), np.float32))
    for signs in rotation._signs[hadamard.rounds(width) - 1 : 0 : -1]:
        exact = _butterflies(expected).astype(np.float32) * (signs[:width] * np.float32(factor / width**0.5))
        expected, factor = np.clip(np.rint(exact), -4096, 4096).astype(np.int64), 1.0
    expected = _butterflies(expected) * rotation._signs[0, :width].astype(np.int64)
    assert np.abs(expected).max() <= 2**24
    np.testing.assert_array_equal(found, expected)


@every_width
def test_a_payload_has_these_values_on_every_machine(bits: int) -> None:
    """A published model must come out of the journal to the bit, whatever the processor and the library.

    Seen to agree between OpenBLAS's kernels for SSE, AVX2 and AVX-512, and to fail without the rounding in between.
    """
    manifest = _manifest(4096, 2048, 1024, 600)
    assert [run.width for run in eden.runs(manifest)] == [4096, 2048, 1024, 512, 256]
    codes = np.random.Philox(key=bits).random_raw(7936 * bits // 64).astype("<u8")
    scales = np.linspace(0.001, 0.003, 5).astype("<f4")
    body = _head(bits, manifest.size) + scales.tobytes() + codes.tobytes()
    assert compression.decode(_payload(body), manifest).digest()[:16] == VALUES[bits]


def test_the_signs_of_a_seed_are_these_for_all_time() -> None:
    """Devices and coordinators may have different versions of NumPy. Seen to fail with half of a seed's bits unused."""
    for seed, drawn in ((2026, "---+--++++++--+---+-+--+-++++--+"), (2**63 + 2026, "--+--+-++-+-+-++-++++-+++-----+-")):
        signs = hadamard.Rotation(seed)._signs
        assert "".join("+" if sign > 0 else "-" for sign in signs[0, :32]) == drawn
        assert abs(signs.mean()) < 0.03


# -- what else arrives -------------------------------------------------------------------------------------------------


def _head(bits: int, size: int) -> bytes:
    return bytes([bits]) + size.to_bytes(4, "little") + bytes(8)


def _body(bits: int, scale: float) -> bytes:
    return _head(bits, 10) + np.array([scale], "<f4").tobytes() + bytes(256 * bits // 8)


@pytest.mark.parametrize("scale", [-0.0, -1.0, np.nan, np.inf, -np.inf, 1e-45, 1e32])
def test_a_scale_that_cannot_be_is_refused(scale: float) -> None:
    with pytest.raises(WireError, match="out-of-range: a scale"):
        compression.decode(_payload(_body(2, scale)), _manifest(10))


@pytest.mark.parametrize("bits", [0, 5, 255])
def test_another_number_of_bits_is_refused(bits: int) -> None:
    with pytest.raises(WireError, match="malformed"):
        compression.decode(_payload(bytes([bits]) + _body(4, 1.0)[1:]), _manifest(10))


def test_a_body_of_other_bits_than_its_length_is_refused() -> None:
    for said, body in ((1, _body(2, 1.0)), (3, _body(2, 1.0))):
        with pytest.raises(WireError) as caught:
            compression.decode(_payload(bytes([said]) + body[1:]), _manifest(10))
        assert caught.value.reason is Reject.WRONG_SHAPE


@every_width
def test_the_largest_scale_and_any_codes_are_finite_and_below_the_peak(bits: int) -> None:
    for codes in (bytes(512 * bits), b"\xff" * (512 * bits), np.random.default_rng(0).bytes(512 * bits)):
        scale = np.array([eden._LARGEST], "<f4").tobytes()
        held = compression.read(_payload(_head(bits, 4096) + scale + codes), _manifest(4096))
        assert held.parameters().is_finite()
        assert held.parameters().peak <= held.peak


@every_width
def test_values_too_large_for_a_finite_scale_are_refused_with_what_helps(bits: int) -> None:
    values = np.full(4096, 1e38, np.float32)
    with pytest.raises(WireError, match=rf"out-of-range: 1e\+38 is too large for eden{bits}: use float32"):
        Eden(bits).encode(_parameters(values), np.random.default_rng(0))


@every_width
def test_the_smallest_values_decode_to_finite_ones(bits: int) -> None:
    for value in (1e-45, 1e-38, 3e-34):
        values = np.full(1000, value, np.float32)
        assert np.abs(_decoded(bits, _parameters(values), np.random.default_rng(0))).max() < 1e-32
