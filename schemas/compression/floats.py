"""What the codecs of plain floats share: planes to float32 blocks, and a look at every value for its range."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from schemas.compression import planes
from schemas.compression.entropy import Body
from schemas.errors import Reject, WireError
from schemas.parameters import Flat, Manifest


def blocks(body: Body, manifest: Manifest, dtype: np.dtype[np.generic]) -> Iterator[Flat]:
    """The values as float32."""
    return (block.astype(np.float32, copy=False) for block in planes.join(body, dtype, manifest.size))


def largest(values: Iterator[Flat]) -> float:
    """The largest magnitude. ``WireError`` where a value is NaN or infinite."""
    found = 0.0
    for block in values:
        peak = max(float(block.max()), -float(block.min()))  # NaN where any value is: both ends are NaN then
        if not math.isfinite(peak):
            raise WireError(Reject.NOT_FINITE, "some values are NaN or infinite")
        found = max(found, peak)
    return found
