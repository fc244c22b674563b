"""Rounding to the nearest of so many steps either way, for codecs whose loss is fed back to the sender's next update.

Half the error of rounding at random (``grid``); that it is biased doesn't matter where what was lost is added again.
"""

from __future__ import annotations

import struct
from typing import Final

import numpy as np
from numpy.typing import NDArray

from schemas.compression import grid
from schemas.compression.entropy import Body
from schemas.errors import Reject, WireError
from schemas.parameters import Flat

LEVELS: Final = 127
STEP: Final = struct.Struct("<f")

_SMALLEST_STEP: Final = float(np.finfo(np.float32).tiny)  # a smaller one has no float32 inverse
_LARGEST_STEP: Final = grid.largest_step(LEVELS)


def quantised(values: Flat, codec: str, levels: int = LEVELS) -> tuple[np.float32, NDArray[np.int8]]:
    """The step of ``values``, and each of them in steps, ``levels`` at most. ``WireError`` where they are too large."""
    largest = max(float(values.max(initial=0)), -float(values.min(initial=0)))
    step = np.float32(max(largest / levels, _SMALLEST_STEP))
    if step > _LARGEST_STEP:
        raise WireError(Reject.OUT_OF_RANGE, f"a value of {largest:g} is too large for {codec}: use float32")
    return step, np.rint(values * (np.float32(1) / step)).astype(np.int8)


def read_step(body: Body) -> np.float32:
    """The next step of a body. ``WireError`` where it can't be one."""
    step = np.float32(STEP.unpack(body.take(STEP.size))[0])
    if not _SMALLEST_STEP <= step <= _LARGEST_STEP:  # False for NaN too
        raise WireError(Reject.OUT_OF_RANGE, "a step is not a positive, finite number")
    return step


def read_levels(body: Body, count: int) -> NDArray[np.int8]:
    """The next ``count`` levels of a body; -128, which nothing rounds to, is left to the caller."""
    return np.frombuffer(body.take(count), np.int8)
