"""bfloat16: half the bytes and all of float32's range; rounded to nearest, so the error is at most 2**-8 of a value.

A bfloat16 is a float32's upper half. The body is the values' byte planes. Rounding to nearest is biased, but too
little to keep account of.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np

from schemas.compression import floats, planes
from schemas.compression.entropy import Body
from schemas.errors import Reject, WireError
from schemas.parameters import Flat, Manifest, Parameters

ID: Final = 4
FEEDBACK: Final = False
_HALVES: Final = np.dtype("<u2")
_LARGEST: Final = 0x7F7F_7FFF  # the bits of the largest float32 that rounds to a finite bfloat16


def limit(manifest: Manifest) -> int:
    """Two bytes a value."""
    return manifest.size * _HALVES.itemsize


def encode(parameters: Parameters, _rng: np.random.Generator) -> memoryview:
    """The rounded values' planes, ties to even. ``WireError`` where one would become infinite."""
    halves = np.empty(parameters.manifest.size, _HALVES)
    for start in range(0, halves.size, planes.BLOCK):
        bits = parameters.flat[start : start + planes.BLOCK].view(np.uint32)
        if int((bits & 0x7FFF_FFFF).max()) > _LARGEST:
            raise WireError(Reject.OUT_OF_RANGE, "a value beyond 3.39e38: use the codec float32")
        halves[start : start + planes.BLOCK] = (bits + (0x7FFF + (bits >> 16 & 1))) >> 16
    return planes.split(halves)


def check(body: Body, manifest: Manifest) -> float:
    """The largest magnitude there is."""
    return floats.largest(blocks(body, manifest))


def blocks(body: Body, manifest: Manifest) -> Iterator[Flat]:
    """The values, exactly those that ``encode`` rounded to."""
    for halves in planes.join(body, _HALVES, manifest.size):
        yield (halves.astype(np.uint32) << 16).view(np.float32)
