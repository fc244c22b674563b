"""int8: a quarter of the bytes, by stochastic rounding to 127 steps either way in each tensor (``grid``); unbiased.

The body is one float32 step per tensor, in the manifest's order, then one signed byte per value.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np

from schemas.compression import grid
from schemas.compression.entropy import Body
from schemas.parameters import Flat, Manifest, Parameters

ID: Final = 3
FEEDBACK: Final = False
_LEVELS: Final = 127


def limit(manifest: Manifest) -> int:
    """A byte a value and four a tensor."""
    return grid.STEPS.itemsize * len(manifest.tensors) + manifest.size


def encode(parameters: Parameters, rng: np.random.Generator) -> memoryview:
    """Steps and levels; one float32 drawn per value. ``WireError`` naming the tensor where values are too large."""
    steps = grid.steps(parameters, _LEVELS, "int8")
    body = np.empty(steps.nbytes + parameters.manifest.size, np.uint8)
    body[: steps.nbytes] = steps.view(np.uint8)
    levels = body[steps.nbytes :].view(np.int8)
    for where, values in grid.rounded(parameters, steps, rng):
        levels[where] = values
    return body.data


def check(body: Body, manifest: Manifest) -> float:
    """The largest magnitude that the steps allow."""
    steps = grid.read_steps(body, manifest, _LEVELS)
    body.skip(manifest.size)
    return float(steps.max(initial=0)) * (_LEVELS + 1)


def blocks(body: Body, manifest: Manifest) -> Iterator[Flat]:
    """Levels times steps."""
    steps = grid.read_steps(body, manifest, _LEVELS)
    values = np.empty(grid.BLOCK, np.float32)
    for where, pieces in grid.blocks(manifest, grid.BLOCK):
        block = values[: where.stop - where.start]
        block[:] = np.frombuffer(body.take(block.size), np.int8)
        yield grid.scaled(block, steps, pieces)
