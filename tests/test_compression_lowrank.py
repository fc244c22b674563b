"""lowrank: matrices as products of thin ones."""

import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas import compression
from schemas.compression import HEADER, MARK, lowrank
from schemas.errors import Reject, WireError
from schemas.parameters import Manifest, Parameters, TensorSpec

SHAPES = ((), (7,), (3, 2), (30, 20), (16, 4, 7), (1, 500), (500, 1), (2, 900), (900, 3))


def _of(*shapes: tuple[int, ...]) -> Manifest:
    return Manifest(tuple(TensorSpec(f"t{index}", shape) for index, shape in enumerate(shapes)))


def _decoded(parameters: Parameters, seed: int = 0) -> np.ndarray:
    payload = compression.encode("lowrank", parameters, np.random.default_rng(seed))
    return compression.decode(payload, parameters.manifest).flat


@pytest.mark.parametrize("shape", [(30, 20), (60, 4, 7), (300, 200), (9, 40_000), (40_000, 9)])
def test_a_matrix_of_rank_two_arrives_up_to_its_steps(shape: tuple[int, ...]) -> None:
    """Blocks narrower and wider than a row included. Seen to fail with rank 1."""
    rng, manifest = np.random.default_rng(0), _of(shape)
    columns = manifest.size // shape[0]
    matrix = rng.standard_normal((shape[0], 2)) @ rng.standard_normal((2, columns))
    values = matrix.astype(np.float32).reshape(-1)
    error = np.linalg.norm(_decoded(Parameters(manifest, values)) - values) / np.linalg.norm(values)
    assert error < 0.03


def test_the_largest_two_directions_are_found() -> None:
    """Within a tenth of the best there is of rank 2, for singular values that fall by a third each.

    Seen to fail without the second iteration."""
    rng, manifest = np.random.default_rng(0), _of((40, 50))
    left, right = (np.linalg.qr(rng.standard_normal((side, 10)))[0] for side in (40, 50))
    singular = 0.66 ** np.arange(10)
    values = (left * singular @ right.T).astype(np.float32).reshape(-1)
    best = np.linalg.norm(singular[2:])
    assert np.linalg.norm(_decoded(Parameters(manifest, values)) - values) < 1.1 * best


@settings(max_examples=60)
@given(st.lists(st.sampled_from(SHAPES), max_size=4), st.integers(0, 100), st.floats(-35, 30))
def test_what_is_left_is_never_larger_than_what_was_there(
    shapes: list[tuple[int, ...]], seed: int, power: float
) -> None:
    """Whatever the scale: the squares of the values would leave float32's range at both ends."""
    manifest = _of(*shapes)
    values = (np.random.default_rng(seed).standard_normal(manifest.size) * 10.0**power).astype(np.float32)
    decoded = _decoded(Parameters(manifest, values), seed).astype(np.float64)
    assert np.linalg.norm(values - decoded) <= np.linalg.norm(values.astype(np.float64)) * (1 + 1e-2)


def test_a_tensor_that_would_not_be_smaller_is_sent_value_by_value() -> None:
    assert lowrank.limit(_of((7,), (3, 2))) == 7 + 4 + 6 + 4
    assert lowrank.limit(_of((30, 20))) == 2 * (50 + 8)
    values = np.linspace(-1, 1, 13, dtype=np.float32)
    assert np.abs(_decoded(Parameters(_of((7,), (3, 2)), values)) - values).max() <= 1 / 254 * (1 + 1e-5)


def test_values_too_large_for_finite_factors_are_refused_by_name() -> None:
    values = np.full(600, 3e38, np.float32)
    with pytest.raises(WireError, match=r"out-of-range: t0 has 3e\+38, too large for lowrank: use float32"):
        _decoded(Parameters(_of((30, 20)), values))


@pytest.mark.parametrize(
    ("steps", "reason"),
    [
        ((1.0, 1.0, 1.0, 0.0), Reject.OUT_OF_RANGE),
        ((1.0, np.nan, 1.0, 1.0), Reject.OUT_OF_RANGE),
        ((1e30, 1.0, 1e30, 1.0), Reject.OUT_OF_RANGE),
        ((1e17, 1e17, 2e17, 2e17), Reject.OUT_OF_RANGE),
    ],
)
def test_steps_whose_products_are_not_finite_are_refused(steps: tuple[float, ...], reason: Reject) -> None:
    body = struct.pack("<4f", *steps) + b"\x80" * 100
    payload = HEADER.pack(MARK, lowrank.ID, 0, len(body)) + body
    with pytest.raises(WireError) as caught:
        compression.decode(payload, _of((30, 20)))
    assert caught.value.reason is reason


def test_the_largest_steps_there_are_make_finite_values_below_the_peak() -> None:
    step = float(np.sqrt(np.finfo(np.float32).max / 2 / 128**2)) * (1 - 1e-6)
    body = struct.pack("<4f", *[step] * 4) + b"\x80" * 100
    held = compression.read(HEADER.pack(MARK, 10, 0, len(body)) + body, _of((30, 20)))
    assert held.parameters().is_finite()
    assert held.parameters().peak <= held.peak
