"""Update codecs: parameters to few bytes and back, from the bytes and the model's manifest alone.

A payload is a header of 7 bytes and a body. The header names the codec, how the body was packed (``entropy``), and
the body's length before that; each codec's module has both of its halves. To add a codec, write its module beside
the others with an ``ID`` of its own and what ``Codec`` asks for, and add its line to ``TABLE``.

    offset  bytes  field
    0       1      what marks this layout, the third: 0xF3
    1       1      the codec's ID
    2       1      packing: 0 none, 1 zstd
    3       4      length of the unpacked body in bytes, little-endian
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np

from schemas.compression import bfloat16, entropy, float16, float32, int4, int8, lowrank, randk, sign, topk
from schemas.compression.eden import Eden
from schemas.compression.entropy import Body
from schemas.errors import Reject, WireError
from schemas.parameters import Flat, Manifest, Parameters


class Codec(Protocol):
    """What a codec's module has. What it is given to encode is finite.

    A body is read twice: once to see whether it is sound, and then, sure that it is, for its values. Both read it from
    front to back, so it is never whole in memory, and neither are the values.
    """

    @property
    def ID(self) -> int:  # noqa: N802 - a module's constant
        """The codec's number in payloads, 1 to 255; never given to another."""

    @property
    def FEEDBACK(self) -> bool:  # noqa: N802 - a module's constant
        """Whether it is biased, so that what an update loses has to be added to the sender's next (error feedback)."""

    def limit(self, manifest: Manifest) -> int:
        """The longest body of a model, in bytes: more is refused before it is unpacked."""

    def encode(self, parameters: Parameters, rng: np.random.Generator, /) -> memoryview:
        """The body, as bytes; the same for the same state of ``rng``. ``WireError`` for values out of range."""

    def check(self, body: Body, manifest: Manifest) -> float:
        """Read a body that anybody may have sent: no value of it is larger in magnitude than what is returned.

        ``WireError`` for any other bytes than ``encode`` makes; ``body.end()`` is for the caller.
        """

    def blocks(self, body: Body, manifest: Manifest) -> Iterator[Flat]:
        """The values of a body that ``check`` has passed, in order: finite, float32, at most a few 100 kB at a time.

        A block is good until the next is asked for.
        """


TABLE: Final[dict[str, Codec]] = {
    "float32": float32,
    "bfloat16": bfloat16,
    "float16": float16,
    "int8": int8,
    "int4": int4.UPDATES,
    "eden1": Eden(1),
    "eden2": Eden(2),
    "eden3": Eden(3),
    "eden4": Eden(4),
    "sign": sign,
    "topk": topk.HUNDREDTH,
    "topk10": topk.TENTH,
    "randk": randk,
    "lowrank": lowrank,
}
NAMES: Final = tuple(TABLE)
HEADER: Final = struct.Struct("<BBBI")
MARK: Final = 0xF3

_LONGEST: Final = 2**32 - 1  # bytes that the header can say
# Of codecs with one number the last reads the bodies of all.
_BY_ID: Final = {codec.ID: codec for codec in TABLE.values()}


@dataclass(frozen=True, slots=True, eq=False)
class Compressed:
    """A payload found sound: no value is NaN, infinite, or larger in magnitude than ``peak``."""

    manifest: Manifest
    peak: float
    _codec: Codec
    _packing: int
    _packed: memoryview
    _size: int

    def blocks(self) -> Iterator[Flat]:
        """The values in the manifest's order, float32, a block at a time that is good until the next one."""
        return self._codec.blocks(Body(self._packing, self._packed, self._size), self.manifest)

    def parameters(self) -> Parameters:
        """All values at once."""
        flat, at = np.empty(self.manifest.size, np.float32), 0
        for block in self.blocks():
            flat[at : at + block.size] = block
            at += block.size
        return Parameters(self.manifest, flat)


def encode(name: str, parameters: Parameters, rng: np.random.Generator) -> bytes:
    """The payload of ``parameters`` in the codec ``name``, the same for the same state of ``rng``.

    Raises ``WireError`` for an unknown name, and for values that are not finite or beyond the codec's range.
    """
    codec = TABLE.get(name)
    if codec is None:
        raise WireError(Reject.UNKNOWN_CODEC, f"{name!r}: use one of {', '.join(NAMES)}")
    return encode_with(codec, parameters, rng)


def encode_with(codec: Codec, parameters: Parameters, rng: np.random.Generator) -> bytes:
    """The same with a codec that may be in no table, as long as one there reads its bodies."""
    if not parameters.is_finite():
        raise WireError(Reject.NOT_FINITE, "some values are NaN or infinite: lower the learning rate or check the data")
    body = codec.encode(parameters, rng)
    if len(body) > _LONGEST:
        raise WireError(Reject.TOO_LARGE, f"a body of {len(body)} bytes; at most {_LONGEST}: use a smaller codec")
    packing, packed = entropy.pack(body)
    return b"".join((HEADER.pack(MARK, codec.ID, packing, len(body)), packed))


def read(payload: bytes | memoryview, manifest: Manifest) -> Compressed:
    """What ``payload`` holds, once every byte of it was judged, and still compressed unless it is small.

    Raises ``WireError`` for anything that ``encode`` doesn't make for this manifest. Allocates a few hundred kB.
    """
    if len(payload) < HEADER.size:
        raise WireError(Reject.TRUNCATED, f"{len(payload)} bytes, less than a header")
    mark, number, packing, size = HEADER.unpack_from(payload)
    if mark != MARK:
        raise WireError(Reject.MALFORMED, "not the header of compressed parameters")
    codec = _BY_ID.get(number)
    if codec is None:
        raise WireError(Reject.UNKNOWN_CODEC, f"codec {number} is not known here: upgrade, or use {', '.join(NAMES)}")
    if size > codec.limit(manifest):
        raise WireError(Reject.TOO_LARGE, f"{size} bytes for a model that takes at most {codec.limit(manifest)}")
    packed = memoryview(payload)[HEADER.size :]
    entropy.check(packing, packed, size)
    packing, packed = entropy.unpack_small(packing, packed, size)
    body = Body(packing, packed, size)
    peak = codec.check(body, manifest)
    body.end()
    return Compressed(manifest, peak, codec, packing, packed, size)


def decode(payload: bytes | memoryview, manifest: Manifest) -> Parameters:
    """The parameters in ``payload``, finite and in the manifest's shapes. Raises ``WireError`` for anything else.

    Allocates the values, and a few hundred kB beside them.
    """
    return read(payload, manifest).parameters()
