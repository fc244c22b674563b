"""Protobuf messages taken apart into fields, changed, and written again with lengths and numbers that may lie."""

from __future__ import annotations

import random

_EDGES = (0, 1, 2, 127, 128, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**53 + 1, 2**63 - 1, 2**63, 2**64 - 1)
_LONGEST = 1 << 20  # bytes that repeating a field adds
_VARINT, _FIXED64, _BYTES, _OPEN, _CLOSE, _FIXED32 = range(6)  # protobuf's wire types
Field = tuple[int, int, bytes]  # number, wire type, what follows the tag; of _BYTES without its length


def varint(value: int, spare: int = 0) -> bytes:
    """``value`` in as few bytes as it takes, or in ``spare`` more."""
    result = bytearray()
    while True:
        value, low = value >> 7, value & 0x7F
        if not value:
            break
        result.append(low | 0x80)
    for _ in range(spare):
        result.append(low | 0x80)
        low = 0
    result.append(low)
    return bytes(result)


def fields(data: bytes) -> list[Field]:
    """The fields of a valid message."""
    found, at = [], 0
    while at < len(data):
        tag, at = _read(data, at)
        end = at
        if tag & 7 == _VARINT:
            end = _read(data, at)[1]
        elif tag & 7 == _BYTES:
            length, at = _read(data, at)
            end = at + length
        else:
            end += 8 if tag & 7 == _FIXED64 else 4
        found.append((tag >> 3, tag & 7, data[at:end]))
        at = end
    return found


def _read(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while data[at] & 0x80:
        value |= (data[at] & 0x7F) << shift
        at, shift = at + 1, shift + 7
    return value | data[at] << shift, at + 1


def write(message: list[Field], rng: random.Random | None = None) -> bytes:
    """The message's bytes; with ``rng`` a few lengths lie."""
    out = bytearray()
    for number, kind, body in message:
        out += varint(number << 3 | kind)
        if kind == _BYTES:
            lies = rng is not None and rng.random() < 0.1
            out += varint(rng.choice((*_EDGES, len(body) + 1)) if rng is not None and lies else len(body))
        out += body
    return bytes(out)


def mutate(rng: random.Random, data: bytes, other: bytes, depth: int = 0) -> bytes:
    """A valid message, changed in one to three fields; ``other`` is another valid message, to take fields from."""
    message = fields(data)
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(len(message)) if message else 0
        match rng.choice(("value", "value", "remove", "repeat", "unknown", "kind", "take", "into", "shuffle", "group")):
            case "value" if message:
                message[at] = _value(rng, *message[at])
            case "remove" if message:
                del message[at]
            case "repeat" if message:
                message[at:at] = [message[at]] * min(rng.choice((1, 2, 3000)), _LONGEST // (len(message[at][2]) + 1))
            case "kind" if message:
                message[at] = (message[at][0], rng.randrange(8), message[at][2])
            case "take":
                message.append(rng.choice(fields(other)))
            case "into" if message and message[at][1] == _BYTES and depth < 2:
                message[at] = (message[at][0], _BYTES, _inner(rng, message[at][2], depth))
            case "shuffle":
                rng.shuffle(message)
            case "group":
                message.append((rng.randint(1, 12), _OPEN, varint(8 << 3 | _OPEN) * rng.choice((1, 90, 5000))))
            case _:
                message.append(
                    (rng.choice((12, 127, 2**29 - 1, 0)), rng.randrange(6), rng.randbytes(rng.randint(0, 30)))
                )
    return write(message, rng)


def _value(rng: random.Random, number: int, kind: int, body: bytes) -> Field:
    if kind == _VARINT:
        return number, kind, varint(rng.choice(_EDGES), rng.choice((0, 0, 0, 3, 12)))
    if kind == _BYTES:
        longer = (b"", body[:-1], body + b"\0", body * 2, b"\xff" * len(body), bytes(rng.choice((17, 1000, 100_000))))
        return number, kind, rng.choice((*longer, b"\xed\xa0\x80", b"UPPER", b"dev-1\n"))
    return (
        number,
        kind,
        rng.choice((b"\xff" * len(body), bytes(len(body)), b"\0" * 6 + b"\xf0\x7f", b"\xff" * 7 + b"\x7f")),
    )


def _inner(rng: random.Random, body: bytes, depth: int) -> bytes:
    """A field's bytes changed as a message where they are one, else as a packed list of numbers without end."""
    try:
        return mutate(rng, body, body, depth + 1)
    except IndexError:
        return varint(rng.choice(_EDGES)) * rng.choice((1, 100, 200_000))
