"""float16: half the bytes; rounded to nearest, so the error is at most 2**-11 of a value, or 2**-25 near zero."""

from __future__ import annotations

from typing import Final

import numpy as np

from schemas.compression import planes
from schemas.errors import Reject, WireError
from schemas.parameters import Flat, Manifest, Parameters

ID: Final = 2
_VALUES: Final = np.dtype("<f2")
_LARGEST: Final = float(np.finfo(np.float16).max)  # 65504


def limit(manifest: Manifest) -> int:
    """Two bytes a value."""
    return manifest.size * _VALUES.itemsize


def encode(parameters: Parameters, _rng: np.random.Generator) -> memoryview:
    """The rounded values' byte planes; ``WireError`` naming the array where one is beyond 65504 either way."""
    for name, values in parameters.arrays().items():
        largest = max(float(values.max()), -float(values.min()))
        if largest > _LARGEST:
            raise WireError(Reject.OUT_OF_RANGE, f"{name} has {largest:g}, beyond {_LARGEST:g}: use another codec")
    return planes.split(parameters.flat.astype(_VALUES))


def decode(body: memoryview, manifest: Manifest) -> Flat:
    """The values, exactly those that ``encode`` rounded to."""
    return planes.join(body, _VALUES, manifest.size).astype(np.float32)
