"""Update codecs: parameters to few bytes and back, from the bytes and the model's manifest alone.

A payload is a header of 16 bytes and a body. The header names the codec, how the body was packed (``entropy``), and
the body's length before that; each codec's module has both of its halves. To add a codec, write its module beside
the others with an ``ID`` of its own and the three functions of ``Codec``, and add its line to ``TABLE``.

    offset  bytes  field
    0       3      "FBT"
    3       1      version of this layout: 1
    4       1      the codec's ID
    5       1      packing: 0 none, 1 zstd
    6       2      zero
    8       8      length of the unpacked body in bytes, little-endian
"""

from __future__ import annotations

import struct
from typing import Final, Protocol

import numpy as np

from schemas.compression import entropy, float16, float32, int8
from schemas.errors import Reject, WireError
from schemas.parameters import Flat, Manifest, Parameters


class Codec(Protocol):
    """What a codec's module has. What it is given to encode is finite, and what it decodes is checked to be."""

    @property
    def ID(self) -> int:  # noqa: N802 - a module's constant
        """The codec's number in payloads, 1 to 255; never given to another."""

    def limit(self, manifest: Manifest) -> int:
        """The longest body of a model, in bytes: more is refused before it is unpacked."""

    def encode(self, parameters: Parameters, rng: np.random.Generator) -> memoryview:
        """The body, as bytes; the same for the same state of ``rng``. ``WireError`` for values out of range."""

    def decode(self, body: memoryview, manifest: Manifest) -> Flat:
        """The values, float32 of shape (manifest.size,). ``WireError`` for any other bytes than ``encode`` makes."""


TABLE: Final[dict[str, Codec]] = {
    "float32": float32,
    "float16": float16,
    "int8": int8,
}
NAMES: Final = tuple(TABLE)
HEADER: Final = struct.Struct("<3sBBBHQ")

_MAGIC: Final = b"FBT"
_VERSION: Final = 1
_BY_ID: Final = {codec.ID: codec for codec in TABLE.values()}


def encode(name: str, parameters: Parameters, rng: np.random.Generator) -> bytes:
    """The payload of ``parameters`` in the codec ``name``, the same for the same state of ``rng``.

    Raises ``WireError`` for an unknown name, and for values that are not finite or beyond the codec's range.
    """
    codec = TABLE.get(name)
    if codec is None:
        raise WireError(Reject.UNKNOWN_CODEC, f"{name!r}: use one of {', '.join(NAMES)}")
    if not parameters.is_finite():
        raise WireError(Reject.NOT_FINITE, "some values are NaN or infinite: lower the learning rate or check the data")
    body = codec.encode(parameters, rng)
    packing, packed = entropy.pack(body)
    return b"".join((HEADER.pack(_MAGIC, _VERSION, codec.ID, packing, 0, len(body)), packed))


def decode(payload: bytes, manifest: Manifest) -> Parameters:
    """The parameters in ``payload``, finite and in the manifest's shapes. Raises ``WireError`` for anything else.

    Allocates no more than the manifest calls for. The values may be a read-only view of ``payload``.
    """
    if len(payload) < HEADER.size:
        raise WireError(Reject.TRUNCATED, f"{len(payload)} bytes, less than a header")
    magic, version, number, packing, zero, size = HEADER.unpack_from(payload)
    if (magic, version, zero) != (_MAGIC, _VERSION, 0):
        raise WireError(Reject.MALFORMED, "not the header of compressed parameters")
    codec = _BY_ID.get(number)
    if codec is None:
        raise WireError(Reject.UNKNOWN_CODEC, f"codec {number} is not known here: upgrade, or use {', '.join(NAMES)}")
    if size > codec.limit(manifest):
        raise WireError(Reject.TOO_LARGE, f"{size} bytes for a model that takes at most {codec.limit(manifest)}")
    body = entropy.unpack(packing, memoryview(payload)[HEADER.size :], size)
    parameters = Parameters(manifest, codec.decode(body, manifest))
    if not parameters.is_finite():
        raise WireError(Reject.NOT_FINITE, "some values are NaN or infinite")
    return parameters
