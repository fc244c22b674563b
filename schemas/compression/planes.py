"""Byte planes: the first byte of every value, then the second, and so on.

The upper bytes of weights (sign, exponent) repeat and the lower ones are noise; told apart, zstd gains about twice as
much on the former and is quicker over the latter (the shuffle of Alted's Blosc, 2010).
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from schemas.errors import Reject, WireError

F = TypeVar("F", bound=np.floating)


def split(values: NDArray[np.floating]) -> memoryview:
    """The planes of one-dimensional, contiguous little-endian ``values``, lowest byte first."""
    width = values.dtype.itemsize
    pieces = values.view(np.uint8).reshape(-1, width)
    return np.ascontiguousarray(pieces.T).reshape(-1).data


def join(body: memoryview, dtype: np.dtype[F], count: int) -> NDArray[F]:
    """``count`` values of ``dtype`` from their planes; ``WireError`` where ``body`` has another length."""
    width = dtype.itemsize
    if len(body) != count * width:
        raise WireError(Reject.WRONG_SHAPE, f"{len(body)} bytes for {count} values of {width} bytes")
    planes = np.frombuffer(body, np.uint8).reshape(width, count)
    pieces = np.empty((count, width), np.uint8)
    for index in range(width):  # nearly three times as fast as assigning the transpose
        pieces[:, index] = planes[index]
    return pieces.reshape(-1).view(dtype)
