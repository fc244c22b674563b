"""randk: a hundredth of the values, drawn anew each time; the others wait in the sender's residual.

The values lie in as many cells of equal width as are sent, and one is drawn of each, so that no index travels: the body
is the model's size, a seed, and for each block of cells a step and its values in steps, a signed byte each
(``nearest``). Places are Philox's raw numbers, which are the same on every machine (Salmon et al. 2011).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray

from schemas.compression import nearest
from schemas.compression.entropy import Body
from schemas.errors import Reject, WireError
from schemas.parameters import Flat, Manifest, Parameters

ID: Final = 9
FEEDBACK: Final = True
CELLS: Final = 655  # in a block, which is then at most 65,500 values
_SHARE: Final = 100
_HEAD: Final = struct.Struct("<IQ")  # size, seed


def limit(manifest: Manifest) -> int:
    """A byte a cell, four a block of cells, and twelve."""
    cells = _cells(manifest)
    return _HEAD.size + cells + -(-cells // CELLS) * nearest.STEP.size


def encode(parameters: Parameters, rng: np.random.Generator) -> memoryview:
    """The drawn values' levels; one number drawn, the seed. ``WireError`` where values are too large."""
    seed = int(rng.integers(2**64, dtype=np.uint64))
    pieces = [_HEAD.pack(parameters.manifest.size, seed)]
    for where, places in _places(parameters.manifest, seed):
        step, levels = nearest.quantised(parameters.flat[where][places], "randk")
        pieces += (nearest.STEP.pack(step), levels.tobytes())
    return memoryview(b"".join(pieces))


def check(body: Body, manifest: Manifest) -> float:
    """The largest magnitude there is."""
    _read_seed(body, manifest)
    cells, peak = _cells(manifest), 0.0
    for first in range(0, cells, CELLS):
        step = nearest.read_step(body)
        levels = nearest.read_levels(body, min(CELLS, cells - first))
        largest = max(int(levels.max()), -int(levels.min()))
        if largest > nearest.LEVELS:
            raise WireError(Reject.OUT_OF_RANGE, f"a level beyond {nearest.LEVELS}")
        peak = max(peak, largest * float(step))
    return peak * (1 + 2.0**-23)  # what float32 may round up


def blocks(body: Body, manifest: Manifest) -> Iterator[Flat]:
    """Zeros, and the values sent in their places."""
    buffer = np.empty(min(manifest.size, CELLS * _SHARE), np.float32)
    for where, places in _places(manifest, _read_seed(body, manifest)):
        block = buffer[: where.stop - where.start]
        block[:] = 0
        step = nearest.read_step(body)
        block[places] = nearest.read_levels(body, places.size) * step
        yield block


def _cells(manifest: Manifest) -> int:
    return -(-manifest.size // _SHARE)


def _places(manifest: Manifest, seed: int) -> Iterator[tuple[slice, NDArray[np.int64]]]:
    """Each block of cells, and the place in it that is drawn of each cell."""
    raw, cells = np.random.Philox(key=seed), _cells(manifest)
    for first in range(0, cells, CELLS):
        edges = np.arange(first, min(first + CELLS, cells) + 1, dtype=np.int64) * manifest.size // cells
        drawn = np.asarray(raw.random_raw(edges.size - 1), np.uint64) % np.diff(edges).astype(np.uint64)
        yield slice(int(edges[0]), int(edges[-1])), edges[:-1] - edges[0] + drawn.astype(np.int64)


def _read_seed(body: Body, manifest: Manifest) -> int:
    size, seed = _HEAD.unpack(body.take(_HEAD.size))
    if size != manifest.size:
        raise WireError(Reject.WRONG_SHAPE, f"values of a model of {size}, not of {manifest.size}")
    return int(seed)
