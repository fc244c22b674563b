"""int4: four bits a value before zstd, by rounding at random to a grid of steps in each tensor (``grid``); unbiased.

A step is as wide as a tensor's values are on the way: ``width`` times the geometric mean of the root mean square of the
tensor and that of the whole model. Equal steps everywhere, the model's alone, would lose least for the bytes (Gish and
Pierce 1968), and a tensor of small changes would drown in them; on ECG updates the mean of the two costs no more. The
tensor's alone would cost a sixth more for the same error, and so would its largest value over 7. Most levels are -1, 0
and 1, which zstd packs into two bits or fewer.

What was drawn for a value is taken back where it is read (``dither``), which halves the error of values that spread
over steps. Values that are mostly zeros are better off without: read as they came, zeros stay zeros. Which of the two
loses less is reckoned for each tensor from its values alone, so that it remains unbiased, and said in its step.

A level beyond 7 either way stands apart, and a zero in its place: no more than one value in 49 does (Chebyshev's
inequality, and Cauchy's over the tensors). The body is two bytes per tensor, in the manifest's order: a bfloat16, the
step, of which the sign says that draws are taken back; the seed of the draws, four bytes, where any are; and for each
block of 32,768 values: how many stand apart; the levels, two a byte (``nibbles``); the places in the block of those
apart, rising; and their levels. The number, the places and these levels take two bytes each.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from schemas.compression import dither, grid, nibbles
from schemas.compression.dither import ERROR, SEEDS
from schemas.compression.entropy import Body
from schemas.errors import Reject, WireError
from schemas.parameters import Flat, Manifest, Parameters

_STEPS: Final = np.dtype("<u2")  # the upper half of a float32
_TAKEN_BACK: Final = 0x8000  # the sign of a step
_NUMBERS: Final = np.dtype("<u2")
_FAR: Final = np.dtype("<i2")
_FARTHEST: Final = 32_767
_APART: Final = _NUMBERS.itemsize + _FAR.itemsize  # bytes of a level
_RARE: Final = 48  # values there are at least to one apart
_LARGEST: Final = float(np.finfo(np.float32).max)
_LARGEST_STEP: Final = grid.largest_step(nibbles.LEVELS + 1)  # a level's draw adds up to half of one
_HALF: Final = np.float32(0.5)
_ONES: Final = np.ones(grid.BLOCK, np.float32)
_COARSE: Final = 1 + 2.0**-7  # what bfloat16 may round up
_PAIRS: Final = nibbles.PAIRS.astype(np.float32)


class _Block(NamedTuple):
    """Values ``where`` of the model, the tensors in it, two levels a byte, and the places and levels of those apart."""

    where: slice
    pieces: list[tuple[int, slice]]
    pairs: NDArray[np.uint8]
    places: NDArray[np.uint16]
    levels: NDArray[np.int16]


@dataclass(frozen=True, slots=True)
class Int4:
    """The codec with steps of so many deviations, 1 or more, rounding by ``chance`` or to the nearest.

    All read each other's bodies.
    """

    width: float
    chance: bool = True

    @property
    def ID(self) -> int:  # noqa: N802 - a codec's constant
        """One for all; 5 was of a layout without levels apart, 11 without draws taken back, 12 with others."""
        return 14

    @property
    def FEEDBACK(self) -> bool:  # noqa: N802 - a codec's constant
        """Unbiased by chance; to the nearest, whoever encodes makes up for what is lost (``steps``)."""
        return False

    def limit(self, manifest: Manifest) -> int:
        """Half a byte a value, two a tensor, two a block, four for each level apart, and the seed."""
        blocks = -(-manifest.size // grid.BLOCK)
        packed = _STEPS.itemsize * len(manifest.tensors) + (manifest.size + 1) // 2 + _NUMBERS.itemsize * blocks
        return SEEDS.itemsize + packed + _APART * (manifest.size // _RARE)

    def encode(self, parameters: Parameters, rng: np.random.Generator) -> memoryview:
        """Steps and levels; one seed drawn by chance. ``WireError`` naming the tensor where values are too large."""
        codes = _steps(parameters, self.width)
        seed = int(rng.integers(2**32)) if self.chance else None
        body = np.empty(self.limit(parameters.manifest), np.uint8)
        start, at = 0, codes.nbytes + SEEDS.itemsize
        levels, lost = np.zeros(grid.BLOCK, np.int8), np.zeros(codes.size)
        for values in _rounded(parameters, _widths(codes), seed, lost):
            count = values.size
            apart = np.flatnonzero(np.abs(values) > nibbles.LEVELS)
            far = values[apart].astype(_FAR)
            values[apart] = 0
            levels[:count] = values
            levels[count:] = 0  # beside an odd last one
            pairs = nibbles.packed(levels[: count + count % 2])
            for piece in (np.array([apart.size], _NUMBERS), pairs, apart.astype(_NUMBERS), far):
                body[at : at + piece.nbytes] = piece.view(np.uint8)
                at += piece.nbytes
        taken_back = lost > [ERROR * (where.stop - where.start) for where in parameters.manifest.slices()]
        head = np.where(taken_back, codes | _TAKEN_BACK, codes).astype(_STEPS).tobytes()
        if taken_back.any():
            head += np.array(seed, SEEDS).tobytes()
        else:
            start = SEEDS.itemsize
        body[start : start + len(head)] = np.frombuffer(head, np.uint8)
        return body[start:at].data

    def check(self, body: Body, manifest: Manifest) -> float:
        """The largest magnitude that the steps allow, or that a level apart says."""
        steps, _, _ = _head(body, manifest)
        peak, apart = float(steps.max(initial=0)) * (nibbles.LEVELS + 2), 0  # -8, and what was drawn
        for block in _read(body, manifest):
            if block.levels.size:
                peak, apart = max(peak, _far_peak(block, steps)), apart + block.levels.size
        if apart > manifest.size // _RARE:
            raise WireError(Reject.TOO_LARGE, f"{apart} levels stand apart, of {manifest.size}")
        return peak * (1 + 2.0**-22)  # what float32 may round up

    def blocks(self, body: Body, manifest: Manifest) -> Iterator[Flat]:
        """Levels, less what was drawn, times steps."""
        steps, taken_back, seed = _head(body, manifest)
        back = None if seed is None else dither.taken_back(seed, min(manifest.size, grid.BLOCK))
        buffer = np.empty((grid.BLOCK // 2, 2), np.float32)
        for block in _read(body, manifest):
            pairs = buffer[: block.pairs.size]
            np.take(_PAIRS, block.pairs, axis=0, out=pairs, mode="clip")  # "raise" would buffer
            values = buffer.reshape(-1)[: block.where.stop - block.where.start]
            if block.places.size:
                values[block.places] = block.levels
            if back is not None:
                added = back.of(block.where.start, values.size)
                for piece in (piece for tensor, piece in block.pieces if taken_back[tensor]):
                    np.add(values[piece], added[piece], out=values[piece])
            yield grid.scaled(values, steps, block.pieces)


UPDATES: Final = Int4(1.6)
STEPS: Final = Int4(1.6, chance=False)
"""Of the steps from model to model, whose loss is made up for by the next (``steps``), so that wider ones cost nothing
(``benchmarks/step_width.py``). But from 2 on values that are all as large would never be sent, and close to it a model
that stands still is reached slowly.
"""


def _steps(parameters: Parameters, width: float) -> NDArray[np.uint16]:
    """One step a tensor. ``WireError`` naming the tensor where values are too large."""
    manifest, found = parameters.manifest, np.empty(len(parameters.manifest.tensors), np.float32)
    powers = [grid.power(parameters.flat[where]) for where in manifest.slices()]
    model = math.sqrt(math.fsum(powers) / max(manifest.size, 1))
    for index, where in enumerate(manifest.slices()):
        values = parameters.flat[where]
        largest = max(float(values.max()), -float(values.min()))
        step = width * math.sqrt(math.sqrt(powers[index] / values.size) * model)
        step = grid.usable(max(step, largest / _FARTHEST))
        if _COARSE * step > _LARGEST_STEP or largest + _COARSE * step > _LARGEST:
            raise grid.too_large(manifest.tensors[index].name, largest, "int4")
        found[index] = step
    return ((found.view(np.uint32) + 0xFFFF) >> 16).astype(np.uint16)


def _widths(codes: NDArray[np.uint16]) -> NDArray[np.float32]:
    """The steps that bfloat16s say, whatever their signs."""
    return ((codes & 0x7FFF).astype(np.uint32) << 16).view(np.float32)


def _rounded(
    parameters: Parameters, steps: NDArray[np.float32], seed: int | None, lost: NDArray[np.float64]
) -> Iterator[NDArray[np.float32]]:
    """Each block's levels, in a buffer that the next takes over; by the draws of ``seed``, or to the nearest.

    By chance, what a tensor's values lose, read without their draws, is added to ``lost``, in steps squared.
    """
    beyond = np.empty(grid.BLOCK, np.float32)
    draws = None if seed is None else dither.added(seed, min(parameters.manifest.size, grid.BLOCK))
    for where, pieces, y in grid.in_steps(parameters, steps):
        if draws is None:
            np.add(y, _HALF, out=y)
        else:
            p = np.floor(y, out=beyond[: y.size])
            np.subtract(y, p, out=p)
            for tensor, piece in pieces:
                lost[tensor] += float(np.dot(p[piece], _ONES[: p[piece].size])) - float(np.dot(p[piece], p[piece]))
            np.add(y, draws.of(where.start, y.size), out=y)
        yield np.floor(y, out=y)


def _head(body: Body, manifest: Manifest) -> tuple[NDArray[np.float32], NDArray[np.bool_], int | None]:
    """The steps at the front of a body, of which tensors draws are taken back, their seed. ``WireError`` for others."""
    codes = np.frombuffer(body.take(_STEPS.itemsize * len(manifest.tensors)), _STEPS)
    steps, taken_back = _widths(codes), codes >= _TAKEN_BACK
    if not ((steps >= grid.SMALLEST_STEP) & (steps <= _LARGEST_STEP)).all():  # False for NaN too
        raise WireError(Reject.OUT_OF_RANGE, "a step is not a positive, finite number")
    if not taken_back.any():
        return steps, taken_back, None
    return steps, taken_back, int.from_bytes(body.take(SEEDS.itemsize), "little")


def _read(body: Body, manifest: Manifest) -> Iterator[_Block]:
    """The blocks behind the steps. ``WireError`` where ``encode`` makes no such."""
    for where, pieces in grid.blocks(manifest, grid.BLOCK):
        size = where.stop - where.start
        count = int.from_bytes(body.take(_NUMBERS.itemsize), "little")
        pairs = nibbles.take(body, size)
        places = np.frombuffer(body.take(_NUMBERS.itemsize * count), _NUMBERS)
        levels = np.frombuffer(body.take(_FAR.itemsize * count), _FAR)
        if count and (int(places[-1]) >= size or (places[1:] <= places[:-1]).any()):
            raise WireError(Reject.WRONG_SHAPE, "places of levels that stand apart don't rise within their block")
        if count and ((levels >= -nibbles.LEVELS) & (levels <= nibbles.LEVELS) | (levels < -_FARTHEST)).any():
            raise WireError(Reject.OUT_OF_RANGE, "a level that would have its place, or none, stands apart")
        yield _Block(where, pieces, pairs, places, levels)


def _far_peak(block: _Block, steps: NDArray[np.float32]) -> float:
    """The largest magnitude of the levels apart. ``WireError`` where it is infinite."""
    tensors = np.repeat([tensor for tensor, _ in block.pieces], [piece.stop - piece.start for _, piece in block.pieces])
    peak = float(((np.abs(block.levels.astype(np.float64)) + 0.5) * steps[tensors[block.places]]).max())
    if peak > _LARGEST:
        raise WireError(Reject.OUT_OF_RANGE, "a level leads to an infinite value")
    return peak
