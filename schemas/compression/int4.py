"""int4: four bits a value before zstd, by rounding at random to a grid of steps in each tensor (``grid``); unbiased.

A step is as wide as a tensor's values are on the way: ``width`` times the geometric mean of the root mean square of the
tensor and that of the whole model. Equal steps everywhere, the model's alone, would lose least for the bytes (Gish and
Pierce 1968), and a tensor of small changes would drown in them; on ECG updates the mean of the two costs no more. The
tensor's alone would cost a sixth more for the same error, and so would its largest value over 7. Most levels are -1, 0
and 1, which zstd packs into two bits or fewer.

A level beyond 7 either way stands apart, and a zero in its place: no more than one value in 49 does (Chebyshev's
inequality, and Cauchy's over the tensors). The body is one float32 step per tensor, in the manifest's order, and for
each block of 32,768 values: how many stand apart; two levels a byte, the first in the low half, each in two's
complement, an odd last one with a zero beside it; the places in the block of those apart, rising; and their levels. The
number, the places and the levels take two bytes each.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from schemas.compression import grid
from schemas.compression.entropy import Body
from schemas.errors import Reject, WireError
from schemas.parameters import Flat, Manifest, Parameters

_LEVELS: Final = 7
_NUMBERS: Final = np.dtype("<u2")
_FAR: Final = np.dtype("<i2")
_FARTHEST: Final = 32_767
_APART: Final = _NUMBERS.itemsize + _FAR.itemsize  # bytes of a level
_RARE: Final = 48  # values there are at least to one apart
_LARGEST: Final = float(np.finfo(np.float32).max)
_BYTES: Final = np.arange(256, dtype=np.uint8)
_PAIRS: Final = (np.stack((_BYTES << 4, _BYTES), axis=1).view(np.int8) >> 4).astype(np.float32)  # by byte: two levels


class _Block(NamedTuple):
    """Values ``where`` of the model, the tensors in it, two levels a byte, and the places and levels of those apart."""

    where: slice
    pieces: list[tuple[int, slice]]
    pairs: memoryview
    places: NDArray[np.uint16]
    levels: NDArray[np.int16]


@dataclass(frozen=True, slots=True)
class Int4:
    """The codec with steps of so many deviations, 1 or more. All read each other's bodies."""

    width: float

    @property
    def ID(self) -> int:  # noqa: N802 - a codec's constant
        """One for all; 5 was of a layout without levels apart."""
        return 11

    @property
    def FEEDBACK(self) -> bool:  # noqa: N802 - a codec's constant
        """Unbiased."""
        return False

    def limit(self, manifest: Manifest) -> int:
        """Half a byte a value, four a tensor, two a block, and four for each level apart."""
        blocks = -(-manifest.size // grid.BLOCK)
        packed = grid.STEPS.itemsize * len(manifest.tensors) + (manifest.size + 1) // 2 + _NUMBERS.itemsize * blocks
        return packed + _APART * (manifest.size // _RARE)

    def encode(self, parameters: Parameters, rng: np.random.Generator) -> memoryview:
        """Steps and levels; one float32 drawn per value. ``WireError`` naming the tensor where values are too large."""
        steps = _steps(parameters, self.width)
        body, at = np.empty(self.limit(parameters.manifest), np.uint8), steps.nbytes
        body[:at] = steps.view(np.uint8)
        levels = np.zeros(grid.BLOCK, np.int8)
        for _, values in grid.rounded(parameters, steps, rng):
            count = values.size
            apart = np.flatnonzero(np.abs(values) > _LEVELS)
            far = values[apart].astype(_FAR)
            values[apart] = 0
            levels[:count] = values
            levels[count:] = 0  # beside an odd last one
            nibbles = levels[: count + count % 2].view(np.uint8)
            packed = np.left_shift(nibbles[1::2], 4)
            np.bitwise_or(packed, nibbles[::2] & 15, out=packed)
            for piece in (np.array([apart.size], _NUMBERS), packed, apart.astype(_NUMBERS), far):
                body[at : at + piece.nbytes] = piece.view(np.uint8)
                at += piece.nbytes
        return body[:at].data

    def check(self, body: Body, manifest: Manifest) -> float:
        """The largest magnitude that the steps allow, or that a level apart says."""
        steps = grid.read_steps(body, manifest, _LEVELS)
        peak = float(steps.max(initial=0)) * (_LEVELS + 1)
        for block in _read(body, manifest):
            if block.levels.size:
                peak = max(peak, _far_peak(block, steps))
        return peak * (1 + 2.0**-23)  # what float32 may round up

    def blocks(self, body: Body, manifest: Manifest) -> Iterator[Flat]:
        """Levels times steps."""
        steps = grid.read_steps(body, manifest, _LEVELS)
        buffer = np.empty((grid.BLOCK // 2, 2), np.float32)
        for block in _read(body, manifest):
            pairs = np.frombuffer(block.pairs, np.uint8)
            np.take(_PAIRS, pairs, axis=0, out=buffer[: pairs.size], mode="clip")  # "raise" would buffer
            values = buffer.reshape(-1)[: block.where.stop - block.where.start]
            if block.places.size:
                values[block.places] = block.levels
            yield grid.scaled(values, steps, block.pieces)


UPDATES: Final = Int4(1.0)
STEPS: Final = Int4(1.6)
"""Of the steps from model to model, whose loss is made up for by the next (``steps``), so that wider ones cost nothing
(``benchmarks/step_width.py``). But from 2 on values that are all as large would never be sent, and close to it a model
that stands still is reached slowly.
"""


def _steps(parameters: Parameters, width: float) -> NDArray[np.float32]:
    """One step a tensor. ``WireError`` naming the tensor where values are too large."""
    manifest, found = parameters.manifest, np.empty(len(parameters.manifest.tensors), grid.STEPS)
    powers = [grid.power(parameters.flat[where]) for where in manifest.slices()]
    model = math.sqrt(math.fsum(powers) / max(manifest.size, 1))
    for index, where in enumerate(manifest.slices()):
        values = parameters.flat[where]
        largest = max(float(values.max()), -float(values.min()))
        step = width * math.sqrt(math.sqrt(powers[index] / values.size) * model)
        step = grid.usable(max(step, largest / _FARTHEST))
        if step > grid.largest_step(_LEVELS) or largest + step > _LARGEST:
            raise grid.too_large(manifest.tensors[index].name, largest, "int4")
        found[index] = step
    return found


def _read(body: Body, manifest: Manifest) -> Iterator[_Block]:
    """The blocks behind the steps. ``WireError`` where ``encode`` makes no such."""
    for where, pieces in grid.blocks(manifest, grid.BLOCK):
        size = where.stop - where.start
        count = int.from_bytes(body.take(_NUMBERS.itemsize), "little")
        pairs = body.take((size + 1) // 2)
        if size % 2 and pairs[-1] >> 4:
            raise WireError(Reject.MALFORMED, "something stands beside the last level")
        places = np.frombuffer(body.take(_NUMBERS.itemsize * count), _NUMBERS)
        levels = np.frombuffer(body.take(_FAR.itemsize * count), _FAR)
        if count and (int(places[-1]) >= size or (places[1:] <= places[:-1]).any()):
            raise WireError(Reject.WRONG_SHAPE, "places of levels that stand apart don't rise within their block")
        if count and ((levels >= -_LEVELS) & (levels <= _LEVELS) | (levels < -_FARTHEST)).any():
            raise WireError(Reject.OUT_OF_RANGE, "a level that would have its place, or none, stands apart")
        yield _Block(where, pieces, pairs, places, levels)


def _far_peak(block: _Block, steps: NDArray[np.float32]) -> float:
    """The largest magnitude of the levels apart. ``WireError`` where it is infinite."""
    tensors = np.repeat([tensor for tensor, _ in block.pieces], [piece.stop - piece.start for _, piece in block.pieces])
    peak = float((np.abs(block.levels.astype(np.float64)) * steps[tensors[block.places]]).max())
    if peak > _LARGEST:
        raise WireError(Reject.OUT_OF_RANGE, "a level leads to an infinite value")
    return peak
