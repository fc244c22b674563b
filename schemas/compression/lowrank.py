"""lowrank: each matrix as the product of two thin ones, of rank 2; what they leave out waits in the sender's residual.

A tensor of two or more dimensions is a matrix of its first one by all others. Its left factor is an orthonormal basis
that two power iterations from a random start have found, the right one what the matrix is in that basis (PowerSGD,
Vogels et al. 2019). The body has, for each tensor, two steps for either factor and then the columns of the left and of
the right one, a signed byte a value (``nearest``). A tensor that would not be smaller so is a step and its values.

The product is added up value by value, so decoding is bit-equal everywhere. Encoding asks BLAS and LAPACK: the same
bytes again on the same machine with the same threads, and not on others.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray

from schemas.compression import nearest
from schemas.compression.entropy import Body
from schemas.errors import Reject, WireError
from schemas.parameters import Flat, Manifest, Parameters, TensorSpec

ID: Final = 10
FEEDBACK: Final = True
RANK: Final = 2
BLOCK: Final = 32_768  # values
_ITERATIONS: Final = 2
_LARGEST: Final = float(np.finfo(np.float32).max)
_SMALLEST: Final = float(np.finfo(np.float32).tiny)
_ROUNDING: Final = 1 + 2.0**-20  # more than float32 may round up in a product and a sum

Factor = NDArray[np.float32]


def limit(manifest: Manifest) -> int:
    """A byte for every value of a factor, or of a tensor that has none, and four for every step."""
    return sum(_bytes(tensor) for tensor in manifest.tensors)


def encode(parameters: Parameters, rng: np.random.Generator) -> memoryview:
    """Steps and levels; draws where to start. ``WireError`` naming the tensor where values are too large."""
    pieces: list[bytes] = []
    for tensor, where in zip(parameters.manifest.tensors, parameters.manifest.slices(), strict=True):
        values = parameters.flat[where]
        shape = _matrix(tensor)
        columns = [values] if shape is None else [*_factors(values.reshape(shape), rng, tensor.name)]
        found = [nearest.quantised(column, "lowrank") for column in columns]
        pieces += [nearest.STEP.pack(step) for step, _ in found]
        pieces += [levels.tobytes() for _, levels in found]
    return memoryview(b"".join(pieces))


def check(body: Body, manifest: Manifest) -> float:
    """The largest magnitude that the steps allow. ``WireError`` where a product would not be finite."""
    peak, most = 0.0, float(nearest.LEVELS + 1)
    for tensor in manifest.tensors:
        shape = _matrix(tensor)
        if shape is None:
            bound = float(nearest.read_step(body)) * most
            body.skip(tensor.size)
        else:
            steps = [float(nearest.read_step(body)) for _ in range(2 * RANK)]
            bound = sum(steps[rank] * steps[RANK + rank] for rank in range(RANK)) * most**2 * _ROUNDING
            body.skip(RANK * sum(shape))
        if bound > _LARGEST:
            raise WireError(Reject.OUT_OF_RANGE, f"the factors of {tensor.name} make values that are not finite")
        peak = max(peak, bound)
    return peak


def blocks(body: Body, manifest: Manifest) -> Iterator[Flat]:
    """Levels times steps, or the sum of the factors' outer products."""
    buffer = np.empty(BLOCK, np.float32)
    for tensor in manifest.tensors:
        shape = _matrix(tensor)
        if shape is None:
            step = nearest.read_step(body)
            for start in range(0, tensor.size, BLOCK):
                block = buffer[: min(BLOCK, tensor.size - start)]
                yield np.multiply(nearest.read_levels(body, block.size), step, out=block)
        else:
            steps = [nearest.read_step(body) for _ in range(2 * RANK)]
            lengths = [length for length in shape for _ in range(RANK)]
            pairs = zip(steps, lengths, strict=True)
            columns = [nearest.read_levels(body, length) * step for step, length in pairs]
            yield from _product(columns[:RANK], columns[RANK:], buffer)


def _matrix(tensor: TensorSpec) -> tuple[int, int] | None:
    """The shape of a tensor as a matrix; None where its factors would not be smaller than its values."""
    rows = tensor.shape[0] if tensor.shape else 1
    columns = tensor.size // rows
    step = nearest.STEP.size
    return (rows, columns) if RANK * (rows + columns + 2 * step) < tensor.size + step else None


def _bytes(tensor: TensorSpec) -> int:
    shape, step = _matrix(tensor), nearest.STEP.size
    return tensor.size + step if shape is None else RANK * (sum(shape) + 2 * step)


def _factors(matrix: Factor, rng: np.random.Generator, name: str) -> Iterator[Flat]:
    """The columns of the left factor, then those of the right one."""
    right = rng.standard_normal((matrix.shape[1], RANK), dtype=np.float32)
    largest = max(float(matrix.max()), -float(matrix.min()))
    scale = max(largest, _SMALLEST)  # squares of what is far from one would leave float32's range
    matrix = matrix / np.float32(scale)
    for _ in range(_ITERATIONS):
        left = np.linalg.qr(matrix @ right)[0]
        right = matrix.T @ left
    if float(np.abs(right).sum(axis=1).max()) * scale * 2 > _LARGEST:
        raise WireError(Reject.OUT_OF_RANGE, f"{name} has {largest:g}, too large for lowrank: use float32")
    right *= np.float32(scale)
    yield from (np.ascontiguousarray(column) for column in (*left.T, *right.T))


def _product(left: list[Flat], right: list[Flat], buffer: Flat) -> Iterator[Flat]:
    """The values of the product, in the order of its rows."""
    rows, columns = left[0].size, right[0].size
    width = min(columns, BLOCK)
    height = max(1, BLOCK // columns)
    for row in range(0, rows, height):
        down = slice(row, min(row + height, rows))
        high = down.stop - down.start
        for column in range(0, columns, width):
            across = slice(column, min(column + width, columns))
            block = buffer[: high * (across.stop - across.start)].reshape(high, -1)
            np.multiply(left[0][down, np.newaxis], right[0][across], out=block)
            for rank in range(1, RANK):
                block += left[rank][down, np.newaxis] * right[rank][across]
            yield block.reshape(-1)
