"""Levels of four bits, two a byte: the first in the low half, each in two's complement, zero beside an odd last one."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from schemas.compression.entropy import Body
from schemas.errors import Reject, WireError

_BYTES: Final = np.arange(256, dtype=np.uint8)
PAIRS: Final = np.stack((_BYTES << 4, _BYTES), axis=1).view(np.int8) >> 4  # by byte: two levels, int8
LEVELS: Final = 7  # to either side; -8, which nothing rounds to, is left to the caller


def packed(levels: NDArray[np.int8]) -> NDArray[np.uint8]:
    """The bytes of an even number of levels."""
    nibbles = levels.view(np.uint8)
    pairs = np.left_shift(nibbles[1::2], 4)
    np.bitwise_or(pairs, nibbles[::2] & 15, out=pairs)
    return pairs


def take(body: Body, count: int) -> NDArray[np.uint8]:
    """The bytes of the next ``count`` levels of a body. ``WireError`` where something stands beside the last one."""
    pairs = np.frombuffer(body.take((count + 1) // 2), np.uint8)
    if count % 2 and pairs[-1] >> 4:
        raise WireError(Reject.MALFORMED, "something stands beside the last level")
    return pairs


def unpacked(pairs: NDArray[np.uint8], count: int) -> NDArray[np.int8]:
    """The first ``count`` levels."""
    return np.take(PAIRS, pairs, axis=0).reshape(-1)[:count]
