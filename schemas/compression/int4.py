"""int4: an eighth of the bytes, by stochastic rounding to 7 steps either way in each tensor (``grid``); unbiased.

Most values of a delta are small beside their tensor's largest, so most levels are 0 or 1, and zstd halves them again.
The body is one float32 step per tensor, in the manifest's order, then two levels a byte, the first in the low half,
each in two's complement; an odd last one has a zero beside it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np

from schemas.compression import grid
from schemas.compression.entropy import Body
from schemas.errors import Reject, WireError
from schemas.parameters import Flat, Manifest, Parameters

ID: Final = 5
FEEDBACK: Final = False
_LEVELS: Final = 7
_SIGNED: Final = np.array([level - 16 * (level > _LEVELS) for level in range(16)], np.float32)
_PAIRS: Final = np.stack((np.tile(_SIGNED, 16), np.repeat(_SIGNED, 16)), axis=1)  # by byte: its two levels


def limit(manifest: Manifest) -> int:
    """Half a byte a value and four a tensor."""
    return grid.STEPS.itemsize * len(manifest.tensors) + (manifest.size + 1) // 2


def encode(parameters: Parameters, rng: np.random.Generator) -> memoryview:
    """Steps and levels; one float32 drawn per value. ``WireError`` naming the tensor where values are too large."""
    steps = grid.steps(parameters, _LEVELS, "int4")
    body = np.empty(limit(parameters.manifest), np.uint8)
    body[: steps.nbytes] = steps.view(np.uint8)
    packed, levels = body[steps.nbytes :], np.zeros(grid.BLOCK, np.int8)
    for where, values in grid.rounded(parameters, steps, rng):
        count = values.size
        levels[:count] = values
        levels[count:] = 0  # beside an odd last one
        nibbles = levels[: count + count % 2].view(np.uint8)
        place = packed[where.start // 2 : (where.stop + 1) // 2]
        np.left_shift(nibbles[1::2], 4, out=place)
        np.bitwise_or(place, nibbles[::2] & 15, out=place)
    return body.data


def check(body: Body, manifest: Manifest) -> float:
    """The largest magnitude that the steps allow."""
    steps = grid.read_steps(body, manifest, _LEVELS)
    body.skip(manifest.size // 2)
    if manifest.size % 2 and body.take(1)[0] >> 4:
        raise WireError(Reject.MALFORMED, "something stands beside the last level")
    return float(steps.max(initial=0)) * (_LEVELS + 1)


def blocks(body: Body, manifest: Manifest) -> Iterator[Flat]:
    """Levels times steps."""
    steps = grid.read_steps(body, manifest, _LEVELS)
    values = np.empty((grid.BLOCK // 2, 2), np.float32)
    for where, pieces in grid.blocks(manifest, grid.BLOCK):
        count = where.stop - where.start
        pairs = np.frombuffer(body.take((count + 1) // 2), np.uint8)
        np.take(_PAIRS, pairs, axis=0, out=values[: pairs.size], mode="clip")  # "raise" would buffer
        yield grid.scaled(values.reshape(-1)[:count], steps, pieces)
