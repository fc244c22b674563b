"""Compressed payloads whose header, frame or values are not what a codec makes."""

from __future__ import annotations

import random
import struct
from functools import cache

import numpy as np
import zstandard

from schemas import compression
from schemas.parameters import Manifest, Parameters, TensorSpec
from tests.hostile.raw import damage

MANIFEST = Manifest((TensorSpec("weight", (30, 10)), TensorSpec("bias", (7,)), TensorSpec("one", ())))
_MIB = 2**20


def valid(rng: random.Random) -> bytes:
    """What one of the codecs makes of random values, some far out, or of equal ones, which zstd makes small."""
    numbers = np.random.default_rng(rng.getrandbits(32))
    values = numbers.normal(size=MANIFEST.size) if rng.random() < 0.5 else np.ones(MANIFEST.size)
    values **= rng.choice((1, 9))
    values = values.clip(-6e4, 6e4)  # as far out as float16 goes
    return compression.encode(rng.choice(compression.NAMES), Parameters(MANIFEST, values.astype(np.float32)), numbers)


def hostile(rng: random.Random) -> bytes:
    """A payload with its header changed, another frame in it, or damage anywhere."""
    payload = valid(rng)
    head, body = list(compression.HEADER.unpack_from(payload)), payload[compression.HEADER.size :]
    match rng.choice(("header", "frame", "frame", "values", "damage")):
        case "header":
            at = rng.randrange(len(head))
            last = at == len(head) - 1
            head[at] = rng.choice((0, 1, 2**16, 2**31, 2**32 - 1) if last else (0, 1, 2, 3, 4, 200, 255))
        case "frame":
            head[2], body = 1, frame(rng, head[3])
        case "values":
            head[2], body = 0, rng.choice((b"\xff", b"\0", b"\x7f\x80", b"\x00\x7c", b"\x88")) * head[3]
            body = body[: head[3]]
        case _:
            return damage(rng, payload, valid(rng))
    return compression.HEADER.pack(*head) + body


def frame(rng: random.Random, size: int) -> bytes:  # noqa: PLR0911 - a kind of frame a line
    """A zstd frame, or what looks like one, for a body announced as ``size`` bytes."""
    big = rng.choice((size, size + 1, 512 * _MIB))
    zeros = _packed(big, sized=True)
    match rng.randrange(9):
        case 0:  # no content size
            return _packed(big, sized=False)
        case 1:  # a content size that lies
            return lying(size, big)
        case 2:  # two frames
            return zstandard.ZstdCompressor().compress(bytes(size)) + zeros
        case 3:  # a skippable frame before it, whose length may lie
            skip = rng.choice((0, 8, 2**31, 2**32 - 1))
            return struct.pack("<II", 0x184D2A50 + rng.randrange(16), skip) + bytes(min(skip, 8)) + zeros
        case 4:  # a window of 2 GiB, or the largest there is
            return struct.pack("<IBB", 0xFD2FB528, 0b1100_0000, rng.choice((0xA8, 0xFF))) + struct.pack("<Q", size)
        case 5:  # a dictionary nobody has
            return struct.pack("<IBIQ", 0xFD2FB528, 0b1110_0011, rng.getrandbits(32), size) + b"\x01\0\0"
        case 6:  # a checksum that is wrong
            checked = zstandard.ZstdCompressor(write_checksum=True).compress(bytes(size))
            return checked[:-1] + bytes([checked[-1] ^ 1])
        case 7:  # one block after another that says one byte is repeated for 128 kB
            block = (128 * 1024 << 3 | 1 << 1).to_bytes(3, "little") + b"\0"
            return struct.pack("<IBQ", 0xFD2FB528, 0b1110_0000, size) + block * 512
        case _:
            return damage(rng, zeros)


def lying(said: int, real: int) -> bytes:
    """A frame that says it holds ``said`` bytes and holds ``real``."""
    blocks = _packed(real, sized=False)[6:]  # behind the magic, the descriptor and the window
    return struct.pack("<IBBQ", 0xFD2FB528, 0b1100_0000, 0x50, said) + blocks


@cache
def _packed(size: int, *, sized: bool) -> bytes:
    """A frame of zeros that says how many they are, or doesn't."""
    packer = zstandard.ZstdCompressor(write_content_size=sized).compressobj(size if sized else -1)
    pieces = [packer.compress(bytes(min(_MIB, size - start))) for start in range(0, size, _MIB)]
    return b"".join((*pieces, packer.flush()))
