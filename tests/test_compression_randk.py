"""randk: values drawn by a seed that travels."""

import math
import struct

import numpy as np
import pytest

from schemas import compression
from schemas.compression import HEADER, MARK, randk
from schemas.errors import Reject, WireError
from schemas.parameters import Manifest, Parameters, TensorSpec

SIZES = (1, 2, 99, 100, 101, 250, 65_500, 65_501, 200_017)


def _sent(size: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The values, and those of them that arrive."""
    manifest = Manifest((TensorSpec("t", (size,)),))
    values = np.random.default_rng(1).uniform(0.5, 1, size).astype(np.float32)
    payload = compression.encode("randk", Parameters(manifest, values), np.random.default_rng(seed))
    return values, compression.decode(payload, manifest).flat


@pytest.mark.parametrize("size", SIZES)
def test_one_value_of_each_cell_arrives_within_half_a_step(size: int) -> None:
    values, decoded = _sent(size, 3)
    places, cells = np.flatnonzero(decoded), math.ceil(size / 100)
    assert places.size == cells
    edges = np.arange(cells + 1) * size // cells
    assert (np.histogram(places, edges)[0] == 1).all()
    assert np.abs(decoded[places] - values[places]).max() <= 1 / 254 * (1 + 1e-5)


def test_every_value_has_its_turn() -> None:
    """Seen to fail with the seed left out of ``_places``."""
    seen = np.zeros(250, int)
    for seed in range(1500):
        seen[np.flatnonzero(_sent(250, seed)[1])] += 1
    expected = 1500 * 3 / 250
    assert seen.min() > 0
    assert abs(seen - expected).max() < 6 * expected**0.5


def test_the_places_are_the_same_on_every_machine() -> None:
    """Written down once: a decoder elsewhere, or NumPy's next version, must not draw others."""
    manifest = Manifest((TensorSpec("t", (1000,)),))
    body = struct.pack("<IQf", 1000, 2**63 + 12345, 1.0) + b"\1" * 10
    decoded = compression.decode(HEADER.pack(MARK, 9, 0, len(body)) + body, manifest)
    assert np.flatnonzero(decoded.flat).tolist() == [16, 121, 222, 388, 459, 509, 617, 796, 871, 905]


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (struct.pack("<IQf", 249, 1, 1.0) + b"\1\1\1", Reject.WRONG_SHAPE),
        (struct.pack("<IQf", 250, 1, 1.0) + b"\1\1", Reject.WRONG_SHAPE),
        (struct.pack("<IQf", 250, 1, 1.0) + b"\1\1\x80", Reject.OUT_OF_RANGE),
        (struct.pack("<IQf", 250, 1, 0.0) + b"\1\1\1", Reject.OUT_OF_RANGE),
        (struct.pack("<IQf", 250, 1, math.inf) + b"\1\1\1", Reject.OUT_OF_RANGE),
        (struct.pack("<IQf", 250, 1, 1.0) + b"\1\1\1\1", Reject.TOO_LARGE),
    ],
)
def test_a_body_that_no_encoder_makes_is_refused(body: bytes, reason: Reject) -> None:
    payload = HEADER.pack(MARK, randk.ID, 0, len(body)) + body
    with pytest.raises(WireError) as caught:
        compression.decode(payload, Manifest((TensorSpec("t", (250,)),)))
    assert caught.value.reason is reason


def test_a_hundredth_of_the_values_takes_a_hundredth_of_the_bytes() -> None:
    assert randk.limit(Manifest((TensorSpec("t", (25_000,)),))) == 12 + 250 + 4
