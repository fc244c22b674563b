"""Stochastic rounding to a grid: unbiased, so errors cancel over devices.

A value of y steps becomes floor(y + u), u uniform in [0, 1): y on average (to 1e-5 of a step, float32's resolution
there) and within one step always (QSGD, Alistarh et al. 2017). How wide a tensor's steps are is the codec's to say.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray

from schemas.compression.entropy import Body
from schemas.errors import Reject, WireError
from schemas.parameters import Flat, Manifest, Parameters

STEPS: Final = np.dtype("<f4")
BLOCK: Final = 32_768  # values at a time, so that the intermediates stay in the cache; int4's body is laid out by it
_FINE: Final = 1 + 2.0**-20  # keeps y below its bound whatever float32 rounds up, so that floor(y + u) keeps to it
_FEW: Final = 256
SMALLEST_STEP: Final = float(np.finfo(np.float32).tiny)  # a smaller one has no float32 inverse
_LARGEST: Final = float(np.finfo(np.float32).max)


def steps(parameters: Parameters, levels: int, codec: str) -> NDArray[np.float32]:
    """One step a tensor, the largest magnitude over the ``levels`` to either side. ``WireError`` as ``too_large``."""
    manifest, found = parameters.manifest, np.empty(len(parameters.manifest.tensors), STEPS)
    for index, where in enumerate(manifest.slices()):
        values = parameters.flat[where]
        largest = max(float(values.max()), -float(values.min()))
        found[index] = step = usable(largest / levels)
        if step > largest_step(levels):
            raise too_large(manifest.tensors[index].name, largest, codec)
    return found


def usable(step: float) -> float:
    """A step that is never less, that float32 can hold, and that keeps the largest value to its level."""
    return max(step * _FINE, SMALLEST_STEP)


def too_large(name: str, largest: float, codec: str) -> WireError:
    """What is raised of a tensor ``name``."""
    return WireError(Reject.OUT_OF_RANGE, f"{name} has {largest:g}, too large for {codec}: use float32")


def power(values: Flat) -> float:
    """The sum of their squares, added up in one order on every machine: a model must be made again to the bit."""
    sums = np.zeros(min(values.size, BLOCK))
    for start in range(0, values.size, BLOCK):
        block = values[start : start + BLOCK]
        sums[: block.size] += np.square(block, dtype=np.float64)
    while sums.size > _FEW:
        upper = sums[(sums.size + 1) // 2 :]
        sums = sums[: sums.size - upper.size]
        sums[: upper.size] += upper
    return math.fsum(sums.tolist())


def largest_step(levels: int) -> float:
    """One that is still finite as often as its codec can say, which is once more than ``levels``."""
    return _LARGEST / (levels + 1)


def read_steps(body: Body, manifest: Manifest, levels: int) -> NDArray[np.float32]:
    """The steps at the front of a body. ``WireError`` where one can't be a step."""
    found = np.frombuffer(body.take(STEPS.itemsize * len(manifest.tensors)), STEPS)
    if not ((found >= SMALLEST_STEP) & (found <= largest_step(levels))).all():  # False for NaN too
        raise WireError(Reject.OUT_OF_RANGE, "a step is not a positive, finite number")
    return found


def rounded(
    parameters: Parameters, steps: NDArray[np.float32], rng: np.random.Generator
) -> Iterator[tuple[slice, NDArray[np.float32]]]:
    """Each block's place and its values as whole numbers of steps, in a buffer that the next block takes over."""
    noise = np.empty(BLOCK, np.float32)
    for where, _, y in in_steps(parameters, steps):
        u = noise[: y.size]
        rng.random(dtype=np.float32, out=u)
        np.add(y, u, out=y)
        yield where, np.floor(y, out=y)


def in_steps(
    parameters: Parameters, steps: NDArray[np.float32]
) -> Iterator[tuple[slice, list[tuple[int, slice]], NDArray[np.float32]]]:
    """Each block's place, the tensors in it, and its values in steps, in a buffer that the next block takes over."""
    scaled, inverse = np.empty(BLOCK, np.float32), np.float32(1) / steps
    for where, pieces in blocks(parameters.manifest, BLOCK):
        y = scaled[: where.stop - where.start]
        for tensor, piece in pieces:
            np.multiply(parameters.flat[where][piece], inverse[tensor], out=y[piece])
        yield where, pieces, y


def blocks(manifest: Manifest, most: int) -> Iterator[tuple[slice, list[tuple[int, slice]]]]:
    """Blocks of at most ``most`` values, and for each the tensors in it by index, and where they lie in the block."""
    cuts = [(index, where.start, where.stop) for index, where in enumerate(manifest.slices())]
    first = 0
    for start in range(0, manifest.size, most):
        stop, pieces = min(start + most, manifest.size), []
        for index, begin, end in cuts[first:]:
            if begin >= stop:
                break
            first = index
            if end > start:
                pieces.append((index, slice(max(begin, start) - start, min(end, stop) - start)))
        yield slice(start, stop), pieces


def scaled(levels: Flat, steps: NDArray[np.float32], pieces: list[tuple[int, slice]]) -> Flat:
    """``levels`` of one block times their tensors' steps, in place."""
    for tensor, piece in pieces:
        np.multiply(levels[piece], steps[tensor], out=levels[piece])
    return levels
