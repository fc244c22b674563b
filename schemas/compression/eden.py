"""eden1 to eden4: one to four bits a value, unbiased, with the least error known for their bits.

DRIVE and EDEN (Vargaftik et al. 2021, 2022). A piece of values is rotated at random (``hadamard``), which makes it look
normal whatever it was; each value becomes the nearest of the 2, 4, 8 or 16 that lose least of a normal variable (Lloyd
1982, Max 1960); and the scale is |x|**2 / <Rx, c>, which makes the whole unbiased. With D lost by the quantiser, the
squared error is D / (1 - D) of |x|**2: 0.57, 0.133, 0.036 and 0.0096.

A piece has 4096 values. What a span of values leaves over goes into smaller ones, the last filled up with zeros; few
values are never random enough to be unbiased. So a span begins with each tensor of ``_LARGE`` values or more, and the
small ones behind it, biases and the like, belong to it.

The body is the number of bits (one byte), that of the values (four), the seed of the rotations (eight), a float32 scale
a piece, and the pieces' codes: a sign, 1 for less than zero, above the rank of the magnitude. Codes of 1, 2 or 4 bits
lie in a byte from the lowest bit up; of those of 3 bits, a piece has the ranks first, 2 bits each, and then the signs.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from schemas.compression import hadamard
from schemas.compression.entropy import Body
from schemas.errors import Reject, WireError
from schemas.parameters import Flat, Manifest, Parameters

ID: Final = 6
_HEAD: Final = struct.Struct("<BIQ")
_SCALES: Final = np.dtype("<f4")
_LARGE: Final = 1024  # values
_FULL: Final = 7 / 8  # a piece that is at least so full is filled up rather than halved
_BLOCK: Final = 65_536  # values at a time: they stay in the cache, and calls cost little beside them
_TINY: Final = float(np.finfo(np.float32).tiny)
_LARGEST: Final = float(np.finfo(np.float32).max) / 2**24  # as a scale: times any sum, it is finite
_UNIT: Final = 256  # steps of a magnitude to the standard deviation
_MAGNITUDES: Final = {1: (256,), 2: (116, 387), 3: (63, 194, 344, 551), 4: (33, 99, 168, 241, 322, 414, 530, 700)}
_APART: Final = 3  # bits that don't go into a byte: ranks and signs lie apart

Bytes = NDArray[np.uint8]


class Run(NamedTuple):
    """Neighbouring pieces of one width: values ``start`` to ``stop``, and zeros behind where they don't fill them."""

    start: int
    stop: int
    width: int

    @property
    def pieces(self) -> int:
        """How many."""
        return -(-(self.stop - self.start) // self.width)


def runs(manifest: Manifest) -> Iterator[Run]:
    """How a model is cut."""
    cuts = [where.start for where in manifest.slices() if where.start == 0 or where.stop - where.start >= _LARGE]
    for start, stop in pairwise((*cuts, manifest.size)):
        at = start
        while at < stop:
            width = _width(stop - at)
            end = min(at + max((stop - at) // width, 1) * width, stop)
            yield Run(at, end, width)
            at = end


def _width(left: int) -> int:
    """Of the piece that comes next."""
    width = max(1 << (left - 1).bit_length(), hadamard.NARROWEST)
    if width > hadamard.NARROWEST and left < _FULL * width:
        width //= 2
    return min(width, hadamard.WIDEST)


@dataclass(frozen=True, slots=True)
class Eden:
    """The codec of so many ``bits`` a value, 1 to 4. It reads bodies of as many bits and of fewer."""

    bits: int

    @property
    def ID(self) -> int:  # noqa: N802 - a codec's constant
        """One for all four: a body says its bits."""
        return ID

    @property
    def FEEDBACK(self) -> bool:  # noqa: N802 - a codec's constant
        """Unbiased."""
        return False

    def limit(self, manifest: Manifest) -> int:
        """The bits of all pieces, and four bytes a piece."""
        cut = list(runs(manifest))
        codes = sum(run.pieces * _bytes(run.width, self.bits) for run in cut)
        return _HEAD.size + _SCALES.itemsize * sum(run.pieces for run in cut) + codes

    def encode(self, parameters: Parameters, rng: np.random.Generator) -> memoryview:
        """Scales and codes; one seed drawn. ``WireError`` where values are too large."""
        manifest, seed = parameters.manifest, int(rng.integers(2**64, dtype=np.uint64))
        body = np.empty(self.limit(manifest), np.uint8)
        body[: _HEAD.size] = np.frombuffer(_HEAD.pack(self.bits, manifest.size, seed), np.uint8)
        cut, rotation, scratch = list(runs(manifest)), hadamard.Rotation(seed), np.empty(_BLOCK, np.float32)
        total, at, index = sum(run.pieces for run in cut), _HEAD.size, 0
        at += _SCALES.itemsize * total
        scales = np.empty(total, _SCALES)
        for run, count in _batches(cut):
            pieces = scratch[: count * run.width]
            values = parameters.flat[run.start : run.stop]
            pieces[: values.size], pieces[values.size :] = values, 0
            found, codes = _quantised(pieces.reshape(count, run.width), rotation, self.bits)
            scales[index : index + count] = found
            body[at : at + codes.size] = codes.reshape(-1)
            at, index = at + codes.size, index + count
        if not (scales <= _LARGEST).all():
            largest = parameters.peak
            raise WireError(Reject.OUT_OF_RANGE, f"{largest:g} is too large for eden{self.bits}: use float32")
        body[_HEAD.size : _HEAD.size + scales.nbytes] = scales.view(np.uint8)
        return body.data

    def check(self, body: Body, manifest: Manifest) -> float:
        """The largest magnitude that a scale allows, were all of its piece's values the largest."""
        cut = list(runs(manifest))
        bits, _, scales = _head(body, manifest, cut)
        body.skip(sum(run.pieces * _bytes(run.width, bits) for run in cut))
        widths = np.repeat([run.width for run in cut], [run.pieces for run in cut])
        return float((scales * widths).max(initial=0.0)) * (2 * _MAGNITUDES[bits][-1] + 1)

    def blocks(self, body: Body, manifest: Manifest) -> Iterator[Flat]:
        """The values of a few pieces at a time, the same bits on every machine."""
        cut = list(runs(manifest))
        bits, seed, scales = _head(body, manifest, cut)
        rotation, scratch, index = hadamard.Rotation(seed), np.empty(_BLOCK, np.float32), 0
        for run, count in _batches(cut):
            pieces = scratch[: count * run.width].reshape(count, run.width)
            codes = np.frombuffer(body.take(count * _bytes(run.width, bits)), np.uint8).reshape(count, -1)
            _unpack(codes, bits, pieces)
            rotation.backward(pieces, scales[index : index + count])
            index += count
            yield scratch[: run.stop - run.start]


def _head(body: Body, manifest: Manifest, cut: list[Run]) -> tuple[int, int, NDArray[np.float32]]:
    """The bits, the seed, and the scales at the front of a body. ``WireError`` where they can't be."""
    bits, size, seed = _HEAD.unpack(body.take(_HEAD.size))
    if size != manifest.size:
        raise WireError(Reject.WRONG_SHAPE, f"{size} values for a model of {manifest.size}")
    if bits not in _MAGNITUDES:
        raise WireError(Reject.MALFORMED, f"{bits} bits a value")
    scales = np.frombuffer(body.take(_SCALES.itemsize * sum(run.pieces for run in cut)), _SCALES)
    zero = scales.view("<u4") == 0
    if not (zero | ((scales >= _TINY) & (scales <= _LARGEST))).all():  # False for NaN too
        raise WireError(Reject.OUT_OF_RANGE, "a scale is neither zero nor a positive, finite number")
    return bits, seed, scales


def _bytes(width: int, bits: int) -> int:
    return width * bits // 8


def _batches(cut: list[Run]) -> Iterator[tuple[Run, int]]:
    """The runs in pieces of at most ``_BLOCK`` values, and how many pieces each has."""
    for run in cut:
        most = _BLOCK // run.width * run.width
        for start in range(run.start, run.stop, most):
            part = Run(start, min(start + most, run.stop), run.width)
            yield part, part.pieces


def _quantised(pieces: Flat, rotation: hadamard.Rotation, bits: int) -> tuple[NDArray[np.float64], Bytes]:
    """The scales, float64 (n,), and codes, (n, bytes a piece), of pieces that are overwritten."""
    width = pieces.shape[1]
    largest = np.maximum(pieces.max(axis=1), -pieces.min(axis=1)).astype(np.float64)
    np.multiply(pieces, (1 / np.maximum(largest, _TINY)).astype(np.float32)[:, None], out=pieces)
    rotation.forward(pieces)
    power = np.einsum("nd,nd->n", pieces, pieces, dtype=np.float64)
    deviation = np.sqrt(power / width)
    inverse = np.divide(1, deviation, out=np.zeros_like(deviation), where=deviation > 0)
    np.multiply(pieces, inverse.astype(np.float32)[:, None], out=pieces)
    negative = pieces < 0
    np.abs(pieces, out=pieces)
    ranks = _ranks(pieces, bits)
    magnitudes = np.asarray(_MAGNITUDES[bits], np.float32)
    chosen = np.take(magnitudes, ranks) if bits > 1 else np.broadcast_to(magnitudes, pieces.shape)
    likeness = np.einsum("nd,nd->n", pieces, chosen, dtype=np.float64)
    # |x|**2 / <Rx, c> with x of deviation 1, times its deviation before it was rotated, which stretched it.
    norm = np.maximum(largest, _TINY) * deviation / width ** (hadamard.rounds(width) / 2)
    scales = norm * np.divide(width, likeness, out=np.zeros_like(likeness), where=power > 0) / (2 * width**0.5)
    return np.where(scales < _TINY, 0.0, scales), _pack(ranks, negative, bits)


def _ranks(magnitudes: Flat, bits: int) -> Bytes:
    """Which of the magnitudes is nearest, from 0, the smallest."""
    steps = _MAGNITUDES[bits]
    ranks = np.zeros(magnitudes.shape, np.uint8)
    above = np.empty(magnitudes.shape, np.bool_)
    for lower, upper in pairwise(steps):
        np.greater(magnitudes, (lower + upper) / (2 * _UNIT), out=above)
        np.add(ranks, above.view(np.uint8), out=ranks)
    return ranks


def _pack(ranks: Bytes, negative: NDArray[np.bool_], bits: int) -> Bytes:
    """The codes, a row of bytes a piece."""
    signs = negative.view(np.uint8)
    if bits == _APART:
        return np.concatenate((_side_by_side(ranks, bits - 1), _side_by_side(signs, 1)), axis=1)
    return _side_by_side(ranks | signs << np.uint8(bits - 1), bits)


def _side_by_side(codes: Bytes, bits: int) -> Bytes:
    """As many codes in a byte as go into it, the first in its lowest bits."""
    if bits == 1:
        return np.packbits(codes, axis=1, bitorder="little")
    words = codes.view(f"<u{8 // bits}")  # the codes that share a byte
    packed = words
    for place in range(1, 8 // bits):
        packed = packed | words >> place * (8 - bits)
    return packed.astype(np.uint8)


def _unpack(codes: Bytes, bits: int, pieces: Flat) -> None:
    """The signed magnitudes of ``codes``, whole numbers, to ``pieces``."""
    if bits != _APART:
        _look_up(_TABLES[bits], codes, pieces)
        return
    ranks = pieces.shape[1] * (bits - 1) // 8
    _look_up(_TABLES[bits], codes[:, :ranks], pieces)
    signs = np.empty_like(pieces)
    _look_up(_SIGNS, codes[:, ranks:], signs)
    np.multiply(pieces, signs, out=pieces)


def _look_up(table: NDArray[np.float32], codes: Bytes, values: Flat) -> None:
    np.take(table, codes, axis=0, out=values.reshape(*codes.shape, -1), mode="clip")  # "raise" would buffer


def _table(values: tuple[int, ...]) -> NDArray[np.float32]:
    """For each byte, the values of the codes in it."""
    bits = (len(values) - 1).bit_length()
    fields = np.arange(256)[:, None] >> np.arange(0, 8, bits) & (len(values) - 1)
    return np.take(np.asarray(values, np.float32), fields)


def _signed(magnitudes: tuple[int, ...]) -> tuple[int, ...]:
    return (*magnitudes, *(-magnitude for magnitude in magnitudes))


_SIGNS: Final = _table((1, -1))
_TABLES: Final = {
    bits: _table(magnitudes if bits == _APART else _signed(magnitudes)) for bits, magnitudes in _MAGNITUDES.items()
}
