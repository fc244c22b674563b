"""Rotations of pieces of 2**k values that look random: signs drawn from a seed, then a Hadamard matrix, and again.

A Hadamard matrix of d = a b c rows is the Kronecker product of those of a, b and c rows, so that a piece of (a, b, c)
values takes three small matrix products: 2 (a + b + c) operations a value, in a library that is quick at just that.
Each works on the leading axis and puts it last, so that after all of them they lie as before. Sixteen rows are best:
4096 = 16 * 16 * 16 takes half as long as 64 * 64, and less than 8 * 8 * 8 * 8.

Once round is not enough: a piece with one large value becomes flat, and stays so whatever the signs. After twice a
piece of 4096 values looks normal, after three times one of 256 does (Ailon and Chazelle 2006). What twice leaves:
beside a value 10,000 times theirs, the others' means over many rotations are off by 0.6 % of the piece's norm.

The inverse is the same on every machine, bit for bit, whatever order a library sums in and whether it fuses: it works
on whole numbers, and no sum passes 2**24, up to where float32 holds them all.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from schemas.parameters import Flat

WIDEST: Final = 4096  # values
NARROWEST: Final = 256
GRID: Final = 512  # steps to the piece's unit, between two rounds of the inverse
_BOUND: Final = 8 * GRID  # a normal variable's magnitude passes 8 once in 10**15; WIDEST times this is 2**24
_ROUNDS: Final = 3
_ROWS: Final = 16  # of the matrices that are multiplied with


class Rotation:
    """The rotations that belong to a seed (64 bits), for pieces of each width: a power of two in the bounds above."""

    def __init__(self, seed: int) -> None:
        words = np.random.Philox(key=seed).random_raw(_ROUNDS * WIDEST // 64)  # its raw output is fixed for all time
        bits = np.unpackbits(np.asarray(words, "<u8").view(np.uint8), bitorder="little")
        self._signs = 1 - 2 * bits.reshape(_ROUNDS, WIDEST).astype(np.float32)
        self._spare = np.empty(0, np.float32)

    def forward(self, pieces: Flat) -> None:
        """Rotate ``pieces`` of shape (n, width) in place, and stretch them by the root of the width each round."""
        width, turned = pieces.shape[1], pieces
        for signs in self._signs[: rounds(width)]:
            np.multiply(turned, signs[:width], out=pieces)
            turned = self._transformed(pieces)
        if turned is not pieces:
            pieces[:] = turned

    def backward(self, pieces: Flat, scales: Flat) -> None:
        """Rotate ``pieces`` (n, width) back in place: whole numbers, at most ``WIDEST`` in magnitude, become such.

        They are then multiplied by ``scales`` (n,), one a piece, rounded once. The last round stretches them by the
        root of the width, all together also by twice.
        """
        width, factor = pieces.shape[1], 2.0
        for signs in self._signs[rounds(width) - 1 : 0 : -1]:
            np.multiply(self._transformed(pieces), signs[:width] * np.float32(factor / width**0.5), out=pieces)
            np.rint(pieces, out=pieces)
            np.clip(pieces, -_BOUND, _BOUND, out=pieces)
            factor = 1.0
        turned = self._transformed(pieces)
        signed = self._buffer(pieces) if turned is pieces else pieces
        np.multiply(scales[:, None], self._signs[0, :width], out=signed)
        np.multiply(turned, signed, out=pieces)

    def _transformed(self, pieces: Flat) -> Flat:
        """Each piece times the Hadamard matrix, where ``pieces`` lie or in a buffer that the next call takes over."""
        source, target = pieces, self._buffer(pieces)
        for matrix in _FACTORS[pieces.shape[1]]:
            rows = len(matrix)
            leading = source.reshape(len(source), rows, -1)
            np.matmul(leading.transpose(0, 2, 1), matrix, out=target.reshape(len(source), -1, rows))
            source, target = target, source
        return source

    def _buffer(self, pieces: Flat) -> Flat:
        """One of the shape of ``pieces``, always the same memory."""
        if self._spare.size < pieces.size:
            self._spare = np.empty(pieces.size, np.float32)
        return self._spare[: pieces.size].reshape(pieces.shape)


def rounds(width: int) -> int:
    """How often a piece is rotated."""
    return 2 if width == WIDEST else _ROUNDS


def _hadamard(size: int) -> NDArray[np.float32]:
    """Sylvester's matrix, unscaled."""
    matrix = np.ones((1, 1), np.float32)
    while len(matrix) < size:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    return np.ascontiguousarray(matrix)


def _factors(width: int) -> tuple[NDArray[np.float32], ...]:
    """As few matrices of at most ``_ROWS`` rows as do, as equal as may be."""
    power = width.bit_length() - 1
    count = -(-power // (_ROWS.bit_length() - 1))
    return tuple(_hadamard(1 << (power + place) // count) for place in range(count))


_FACTORS: Final = {width: _factors(width) for width in (256, 512, 1024, 2048, 4096)}
