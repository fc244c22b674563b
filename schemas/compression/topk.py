"""topk and topk10: the largest hundredth, or tenth, of the values; the others wait in the sender's residual.

They are the largest of the whole delta, not of each tensor (sparsification with memory: Stich et al. 2018, Lin et al.
2018). The body is the two lower bytes of the model's size, by which others are told, then for each block of 65,535
values: how many of it are sent, how often 255 are passed over, their step; the gaps; and the values in steps
(``nearest``), two a byte (``nibbles``): with a byte each, models end no nearer to where they would be without loss. A
value that is none of a step isn't sent. A gap is the number of values passed over, one byte: 255 passes over 255 and
sends none. One value in a hundred takes 1.08 bytes so, and zstd finds what is left to gain where they stand closer.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from schemas.compression import nearest, nibbles
from schemas.compression.entropy import Body
from schemas.errors import Reject, WireError
from schemas.parameters import Flat, Manifest, Parameters

BLOCK: Final = 65_535  # values: as many as two bytes can say
_SIZE: Final = struct.Struct("<H")
_HEAD: Final = struct.Struct("<HH")  # values sent, gaps of 255 that send none
_LOWER: Final = 0xFFFF
_PASS: Final = 255
_LARGEST_SHARE: Final = 10


@dataclass(frozen=True, slots=True)
class Largest:
    """The codec that sends one value in ``share`` at most, but one at least. What it decodes is any of them."""

    share: int
    name: str
    ID: int = 15  # 8 was of a layout with a byte a value, 13 of one with the model's whole size
    FEEDBACK: bool = True

    def limit(self, manifest: Manifest) -> int:
        """A byte and a half a value sent, a byte for every 255 passed over, eight and a half a block, and two."""
        blocks, sent = -(-manifest.size // BLOCK), -(-manifest.size // _LARGEST_SHARE)
        levels = (sent + blocks) // 2  # each block's last may be odd
        return _SIZE.size + blocks * (_HEAD.size + nearest.STEP.size) + sent + levels + manifest.size // _PASS

    def encode(self, parameters: Parameters, _rng: np.random.Generator) -> memoryview:
        """Gaps and levels; nothing is drawn. ``WireError`` where values are too large."""
        pieces = [_SIZE.pack(parameters.manifest.size & _LOWER)]
        for values, largest in _chosen(parameters, max(1, parameters.manifest.size // self.share)):
            step, levels = nearest.quantised(values[largest], self.name, nibbles.LEVELS)
            chosen, levels = largest[levels != 0], levels[levels != 0]
            gaps, pairs = _gaps(chosen), nibbles.packed(np.append(levels, np.zeros(levels.size % 2, np.int8)))
            head = _HEAD.pack(chosen.size, gaps.size - chosen.size) + nearest.STEP.pack(step)
            pieces += (head, gaps.tobytes(), pairs.tobytes())
        return memoryview(b"".join(pieces))

    def check(self, body: Body, manifest: Manifest) -> float:
        """The largest magnitude there is."""
        peak, left = 0.0, -(-manifest.size // _LARGEST_SHARE)
        for _, places, levels, step in _read(body, manifest):
            left -= places.size
            if left < 0:
                raise WireError(Reject.WRONG_SHAPE, f"more than one value in {_LARGEST_SHARE}")
            largest = max(int(levels.max(initial=0)), -int(levels.min(initial=0)))
            if largest > nibbles.LEVELS:
                raise WireError(Reject.OUT_OF_RANGE, f"a level beyond {nibbles.LEVELS}")
            peak = max(peak, largest * float(step))
        return peak * (1 + 2.0**-23)  # what float32 may round up

    def blocks(self, body: Body, manifest: Manifest) -> Iterator[Flat]:
        """Zeros, and the values sent in their places."""
        buffer = np.empty(min(manifest.size, BLOCK), np.float32)
        for size, places, levels, step in _read(body, manifest):
            block = buffer[:size]
            block[:] = 0
            block[places] = levels * step
            yield block


HUNDREDTH: Final = Largest(100, "topk")
TENTH: Final = Largest(_LARGEST_SHARE, "topk10")


def _chosen(parameters: Parameters, count: int) -> Iterator[tuple[Flat, NDArray[np.intp]]]:
    """Each block and the places in it of the ``count`` largest magnitudes; of equal ones the first, and no zeros."""
    magnitudes = np.abs(parameters.flat)
    least = np.float32(0)
    if magnitudes.size:
        magnitudes.partition(magnitudes.size - count)
        least = magnitudes[magnitudes.size - count]
    ties = count - int(np.count_nonzero(magnitudes[magnitudes.size - count :] > least))
    for start in range(0, parameters.manifest.size, BLOCK):
        values = parameters.flat[start : start + BLOCK]
        sizes = np.abs(values)
        wanted = sizes > least
        if least > 0:
            equal = np.flatnonzero(sizes == least)[:ties]
            wanted[equal] = True
            ties -= equal.size
        yield values, np.flatnonzero(wanted)


def _gaps(places: NDArray[np.intp]) -> NDArray[np.uint8]:
    """How many values are passed over before each place, in bytes."""
    whole, rest = np.divmod(np.diff(places, prepend=-1) - 1, _PASS)
    gaps = np.full(places.size + int(whole.sum()), _PASS, np.uint8)
    gaps[np.cumsum(whole + 1) - 1] = rest
    return gaps


def _read(body: Body, manifest: Manifest) -> Iterator[tuple[int, NDArray[np.intp], NDArray[np.int8], np.float32]]:
    """Each block's size, the places in it, their levels, and the step. ``WireError`` where they can't be."""
    (size,) = _SIZE.unpack(body.take(_SIZE.size))
    if size != manifest.size & _LOWER:
        raise WireError(Reject.WRONG_SHAPE, f"values of another model than one of {manifest.size}")
    for start in range(0, manifest.size, BLOCK):
        length = min(BLOCK, manifest.size - start)
        count, passes = _HEAD.unpack(body.take(_HEAD.size))
        if count > length or passes > length // _PASS:  # before anything is allocated for them
            raise WireError(Reject.MALFORMED, f"{count} and {passes} gaps in {length} values")
        step = nearest.read_step(body)
        gaps = np.frombuffer(body.take(count + passes), np.uint8)
        sends = gaps != _PASS
        places = (np.cumsum(gaps + sends, dtype=np.intp) - 1)[sends]
        if places.size != count or (gaps.size and not sends[-1]):
            raise WireError(Reject.MALFORMED, "gaps that don't lead to as many values as are sent")
        if count and places[-1] >= length:
            raise WireError(Reject.WRONG_SHAPE, "a value behind the end of its block")
        yield length, places, nibbles.unpacked(nibbles.take(body, count), count), step
