"""Damage to bytes that knows nothing of what they mean: the last thing done to most fuzzed inputs."""

from __future__ import annotations

import random

_EDGES = (b"\0", b"\xff", b"\x7f", b"\x80", b"\xff" * 8, b"\0" * 8, b"\xff" * 4, b"\x80" * 10, b"\x7f\xff\xff\xff")
_LONGEST = 1 << 20  # bytes of an input: what a decoder may cost is judged against that


def damage(rng: random.Random, data: bytes, other: bytes = b"") -> bytes:
    """``data`` with one to four faults: flipped, cut, inserted, repeated, overwritten, or spliced with ``other``."""
    result = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        at = rng.randint(0, len(result))
        match rng.choice(("flip", "cut", "behead", "insert", "repeat", "overwrite", "splice", "drop")):
            case "flip" if result:
                result[at % len(result)] ^= 1 << rng.randrange(8)
            case "cut":
                del result[at:]
            case "behead" if rng.random() < 0.2:
                del result[:at]
            case "insert":
                result[at:at] = rng.choice(_EDGES) if rng.random() < 0.5 else rng.randbytes(rng.randint(1, 20))
            case "repeat" if len(result) < _LONGEST:
                piece = result[at : at + rng.randint(1, 64)]
                result[at:at] = piece * min(rng.choice((1, 2, 100)), 1 + _LONGEST // (len(piece) + 1))
            case "overwrite":
                piece = bytearray(rng.choice(_EDGES))
                result[at : at + len(piece)] = piece
            case "splice":
                result[at:] = other[rng.randint(0, len(other)) :]
            case _:
                del result[at : at + rng.randint(1, 8)]
    return bytes(result[:_LONGEST])
