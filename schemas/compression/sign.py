"""sign: one bit a value, and the mean magnitude of each tensor (signSGD, Bernstein et al. 2018, scaled).

Biased, so the sender has to add what an update loses to its next (error feedback, Karimireddy et al. 2019). A tensor is
cut at every 32,768th value of the model, and each piece has a mean of its own.

The body is one float32 mean a piece, in order, then the signs, eight a byte from the lowest bit up, 1 for less than
zero; the last byte's spare bits are zero.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray

from schemas.compression import grid
from schemas.compression.entropy import Body
from schemas.errors import Reject, WireError
from schemas.parameters import Flat, Manifest, Parameters

ID: Final = 7
FEEDBACK: Final = True
_MEANS: Final = np.dtype("<f4")
_BLOCK: Final = 32_768  # values; whole bytes of signs
_LARGEST: Final = float(np.finfo(np.float32).max)
_SIGNS: Final = (1 - 2 * (np.arange(256)[:, None] >> np.arange(8) & 1)).astype(np.float32)  # by byte: its eight


def limit(manifest: Manifest) -> int:
    """A bit a value and four bytes a piece."""
    return _MEANS.itemsize * _count(manifest) + (manifest.size + 7) // 8


def encode(parameters: Parameters, _rng: np.random.Generator) -> memoryview:
    """Means and signs; nothing is drawn."""
    manifest = parameters.manifest
    means, magnitudes, index = np.empty(_count(manifest), _MEANS), np.empty(_BLOCK, np.float32), 0
    signs = np.empty((manifest.size + 7) // 8, np.uint8)
    for where, pieces in grid.blocks(manifest, _BLOCK):
        values = parameters.flat[where]
        signs[where.start // 8 : (where.stop + 7) // 8] = np.packbits(values < 0, bitorder="little")
        np.abs(values, out=magnitudes[: values.size])
        for _, piece in pieces:
            means[index] = magnitudes[piece].mean(dtype=np.float64)
            index += 1
    return np.concatenate((means.view(np.uint8), signs)).data


def check(body: Body, manifest: Manifest) -> float:
    """The largest mean."""
    means = _read_means(body, manifest)
    body.skip(manifest.size // 8)
    if manifest.size % 8 and body.take(1)[0] >> manifest.size % 8:
        raise WireError(Reject.MALFORMED, "something stands behind the last sign")
    return float(means.max(initial=0))


def blocks(body: Body, manifest: Manifest) -> Iterator[Flat]:
    """Signs times means."""
    means, buffer, index = _read_means(body, manifest), np.empty((_BLOCK // 8, 8), np.float32), 0
    for where, pieces in grid.blocks(manifest, _BLOCK):
        count = where.stop - where.start
        signs = np.frombuffer(body.take((count + 7) // 8), np.uint8)
        np.take(_SIGNS, signs, axis=0, out=buffer[: signs.size], mode="clip")  # "raise" would buffer
        values = buffer.reshape(-1)[:count]
        for _, piece in pieces:
            np.multiply(values[piece], means[index], out=values[piece])
            index += 1
        yield values


def _read_means(body: Body, manifest: Manifest) -> NDArray[np.float32]:
    means = np.frombuffer(body.take(_MEANS.itemsize * _count(manifest)), _MEANS)
    if not ((means >= 0) & (means <= _LARGEST) & ~np.signbit(means)).all():  # False for NaN too
        raise WireError(Reject.OUT_OF_RANGE, "a mean magnitude is not a finite number from zero up")
    return means


def _count(manifest: Manifest) -> int:
    return sum(len(pieces) for _, pieces in grid.blocks(manifest, _BLOCK))
