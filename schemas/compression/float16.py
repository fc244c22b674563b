"""float16: half the bytes; rounded to nearest, so the error is at most 2**-11 of a value, or 2**-25 near zero.

The body is the values' byte planes. Rounding to nearest is biased, but too little to keep account of.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np

from schemas.compression import floats, planes
from schemas.compression.entropy import Body
from schemas.errors import Reject, WireError
from schemas.parameters import Flat, Manifest, Parameters

ID: Final = 2
FEEDBACK: Final = False
_VALUES: Final = np.dtype("<f2")
_LARGEST: Final = float(np.finfo(np.float16).max)  # 65504


def limit(manifest: Manifest) -> int:
    """Two bytes a value."""
    return manifest.size * _VALUES.itemsize


def encode(parameters: Parameters, _rng: np.random.Generator) -> memoryview:
    """The rounded values' planes; ``WireError`` naming the array where one is beyond 65504 either way."""
    for name, values in parameters.arrays().items():
        largest = max(float(values.max()), -float(values.min()))
        if largest > _LARGEST:
            raise WireError(Reject.OUT_OF_RANGE, f"{name} has {largest:g}, beyond {_LARGEST:g}: use another codec")
    return planes.split(parameters.flat.astype(_VALUES))


def check(body: Body, manifest: Manifest) -> float:
    """The largest magnitude there is."""
    return floats.largest(blocks(body, manifest))


def blocks(body: Body, manifest: Manifest) -> Iterator[Flat]:
    """The values, exactly those that ``encode`` rounded to."""
    return floats.blocks(body, manifest, _VALUES)
