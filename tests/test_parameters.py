import hashlib
import math
import struct
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from schemas.errors import Reject, WireError
from schemas.parameters import MAX_ELEMENTS, Manifest, Parameters, TensorSpec

MANIFEST = Manifest((TensorSpec("weight", (2, 3)), TensorSpec("bias", ()), TensorSpec("head", (4,))))
VALUES = Parameters(MANIFEST, np.arange(11, dtype=np.float32))
vectors = hnp.arrays(np.float32, 11, elements=st.floats(-1e6, 1e6, width=32))


def test_a_manifest_knows_sizes_and_places() -> None:
    assert [tensor.size for tensor in MANIFEST.tensors] == [6, 1, 4]
    assert MANIFEST.size == 11
    assert MANIFEST.slices() == (slice(0, 6), slice(6, 7), slice(7, 11))
    assert (Manifest(()).size, Manifest(()).slices()) == (0, ())


@pytest.mark.parametrize(
    ("tensors", "reason"),
    [
        ((TensorSpec("a", (1,)), TensorSpec("a", (2,))), Reject.WRONG_SHAPE),
        ((TensorSpec("a", (3, 0)),), Reject.WRONG_SHAPE),
        ((TensorSpec("a", (-1,)),), Reject.WRONG_SHAPE),
        ((TensorSpec("a", (2**40, 2**40)),), Reject.TOO_LARGE),
        ((TensorSpec("a", (MAX_ELEMENTS,)), TensorSpec("b", (1,))), Reject.TOO_LARGE),
    ],
)
def test_an_impossible_manifest_is_refused(tensors: tuple[TensorSpec, ...], reason: Reject) -> None:
    with pytest.raises(WireError) as caught:
        Manifest(tensors)
    assert caught.value.reason is reason


@pytest.mark.parametrize(
    "flat",
    [
        np.zeros(10, np.float32),
        np.zeros(12, np.float32),
        np.zeros((1, 11), np.float32),
        np.zeros(11, np.float64),
        np.zeros(11, ">f4"),
        np.zeros(22, np.float32)[::2],
    ],
    ids=["short", "long", "matrix", "float64", "big-endian", "strided"],
)
def test_values_that_are_not_one_contiguous_float32_vector_are_refused(flat: np.ndarray) -> None:
    with pytest.raises(WireError, match="wrong-shape"):
        Parameters(MANIFEST, flat)


def test_named_arrays_are_views_in_their_shapes() -> None:
    arrays = VALUES.arrays()
    assert {name: array.shape for name, array in arrays.items()} == {"weight": (2, 3), "bias": (), "head": (4,)}
    assert arrays["weight"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert all(np.shares_memory(array, VALUES.flat) for array in arrays.values())


def test_named_arrays_make_the_parameters_they_came_from() -> None:
    again = Parameters.from_arrays(VALUES.arrays())
    assert again.equal(VALUES)
    assert not np.shares_memory(again.flat, VALUES.flat)
    assert Parameters.from_arrays({}).flat.shape == (0,)


def test_arrays_are_cast_and_may_be_in_any_memory_order() -> None:
    transposed = np.arange(6, dtype=np.float64).reshape(2, 3).T
    assert Parameters.from_arrays({"w": transposed}).flat.tolist() == [0, 3, 1, 4, 2, 5]


@given(vectors, vectors)
def test_sums_and_differences_are_numpys(left: np.ndarray, right: np.ndarray) -> None:
    a, b = Parameters(MANIFEST, left), Parameters(MANIFEST, right)
    np.testing.assert_array_equal(a.add(b).flat, left + right)
    np.testing.assert_array_equal(a.subtract(b).flat, left - right)
    assert a.add(b).flat.dtype == a.scale(0.1).flat.dtype == np.float32
    np.testing.assert_array_equal(a.scale(0.1).flat, left * np.float32(0.1))


def test_arithmetic_changes_none_of_its_operands() -> None:
    before = VALUES.flat.copy()
    VALUES.add(VALUES), VALUES.subtract(VALUES), VALUES.scale(2.0)
    np.testing.assert_array_equal(VALUES.flat, before)


def test_parameters_of_different_models_do_not_add() -> None:
    renamed = Manifest((TensorSpec("weight", (2, 3)), TensorSpec("bias", ()), TensorSpec("tail", (4,))))
    for operation in (VALUES.add, VALUES.subtract):
        with pytest.raises(WireError, match="wrong-shape"):
            operation(Parameters.zeros(renamed))


@given(vectors)
def test_the_norm_is_euclids(values: np.ndarray) -> None:
    assert Parameters(MANIFEST, values).norm() == pytest.approx(math.hypot(*values.tolist()), rel=1e-12)


def test_the_norm_of_a_large_model_needs_no_copy_and_loses_nothing() -> None:
    """Ones, over more than one block; in float32 the sum would stop growing at 2**24."""
    manifest = Manifest((TensorSpec("t", (2**24 + 12_345,)),))
    parameters = Parameters(manifest, np.ones(manifest.size, np.float32))
    tracemalloc.start()
    try:
        norm = parameters.norm()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert norm == math.sqrt(manifest.size)
    assert peak < 2_000_000


def test_values_that_overflow_float32_squared_have_a_norm() -> None:
    flat = np.full(11, 1e30, np.float32)
    assert Parameters(MANIFEST, flat).norm() == pytest.approx(1e30 * 11**0.5, rel=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_one_bad_value_is_found(bad: float) -> None:
    flat = np.zeros(11, np.float32)
    assert Parameters(MANIFEST, flat).is_finite()
    flat[10] = bad
    assert not Parameters(MANIFEST, flat).is_finite()


def test_the_digest_is_of_names_shapes_and_little_endian_values() -> None:
    text = b"weight\x002,3\nbias\x00\nhead\x004\n" + struct.pack("<11f", *range(11))
    assert VALUES.digest() == hashlib.sha256(text).hexdigest()


def test_the_digest_tells_names_shapes_and_every_bit_apart() -> None:
    flat = VALUES.flat
    reshaped = Manifest((TensorSpec("weight", (3, 2)), *MANIFEST.tensors[1:]))
    renamed = Manifest((*MANIFEST.tensors[:2], TensorSpec("tail", (4,))))
    negative_zero = flat.copy()
    negative_zero[0] = -0.0
    all_of_them = [
        VALUES,
        Parameters(reshaped, flat),
        Parameters(renamed, flat),
        Parameters(MANIFEST, negative_zero),
        Parameters.zeros(MANIFEST),
    ]
    assert len({parameters.digest() for parameters in all_of_them}) == len(all_of_them)
    for index, left in enumerate(all_of_them):
        assert [left.equal(right) for right in all_of_them] == [index == other for other in range(len(all_of_them))]
