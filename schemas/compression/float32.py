"""float32: every bit of every value, so that a model arrives as it left."""

from __future__ import annotations

from typing import Final

import numpy as np

from schemas.compression import planes
from schemas.parameters import Flat, Manifest, Parameters

ID: Final = 1
_VALUES: Final = np.dtype("<f4")


def limit(manifest: Manifest) -> int:
    """Four bytes a value."""
    return manifest.size * _VALUES.itemsize


def encode(parameters: Parameters, _rng: np.random.Generator) -> memoryview:
    """The values' byte planes; exact, so nothing is drawn."""
    return planes.split(np.ascontiguousarray(parameters.flat, _VALUES))


def decode(body: memoryview, manifest: Manifest) -> Flat:
    """The values from their planes."""
    return planes.join(body, _VALUES, manifest.size).astype(np.float32, copy=False)
