"""float32: every bit of every value, so that a model arrives as it left. The body is the values' byte planes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np

from schemas.compression import floats, planes
from schemas.compression.entropy import Body
from schemas.parameters import Flat, Manifest, Parameters

ID: Final = 1
FEEDBACK: Final = False
_VALUES: Final = np.dtype("<f4")


def limit(manifest: Manifest) -> int:
    """Four bytes a value."""
    return manifest.size * _VALUES.itemsize


def encode(parameters: Parameters, _rng: np.random.Generator) -> memoryview:
    """The values' planes; exact, so nothing is drawn."""
    return planes.split(np.ascontiguousarray(parameters.flat, _VALUES))


def check(body: Body, manifest: Manifest) -> float:
    """The largest magnitude there is."""
    return floats.largest(blocks(body, manifest))


def blocks(body: Body, manifest: Manifest) -> Iterator[Flat]:
    """The values from their planes."""
    return floats.blocks(body, manifest, _VALUES)
