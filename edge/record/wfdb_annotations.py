"""Annotation files in MIT format, as WFDB has them, from bytes and back. Pure; both halves are here.

Source: PhysioNet, "annot(5)" of the WFDB Applications Guide, and ``ecgcodes.h`` for the codes.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import Final

from schemas.errors import DataError

# The codes of the annotations that mark beats, by their symbols.
CODES: Final = {
    "N": 1,
    "L": 2,
    "R": 3,
    "a": 4,
    "V": 5,
    "F": 6,
    "J": 7,
    "A": 8,
    "S": 9,
    "E": 10,
    "j": 11,
    "/": 12,
    "Q": 13,
    "B": 25,
    "?": 30,
    "e": 34,
    "n": 35,
    "f": 38,
    "r": 41,
}
SYMBOLS: Final = {code: symbol for symbol, code in CODES.items()}
UNLABELLED: Final = "unlabelled"  # the note of a beat that is one, and nobody has said of which class
WAITING: Final = CODES["?"]  # and its code
# The longest record that is taken has 50 million samples. At 76 Hz, the least, these are 183 hours, in which a heart of
# 90 beats a minute throughout beats a million times; in a day none does more than 432,000 times, five a second. A
# million takes 120 MB when decoded, and 170 with the note ``UNLABELLED`` at each.
MOST: Final = 1_000_000
LARGEST: Final = 16 * 2**20  # bytes of a file of so many beats, at 14 bytes each
_SKIP, _NUMBER, _SUBTYPE, _CHANNEL, _NOTE = 59, 60, 61, 62, 63
_NEAR: Final = 1023  # samples that an annotation may lie behind the one before, without a skip
_MOST_NOTE: Final = 255  # bytes


@dataclass(frozen=True, slots=True)
class Annotation:
    """One annotation: at which sample, and its code."""

    sample: int
    code: int
    subtype: int = 0
    channel: int = 0
    number: int = 0
    note: bytes = b""

    @property
    def beat(self) -> bool:
        """Whether it marks a beat."""
        return self.code in SYMBOLS

    @property
    def symbol(self) -> str:
        """Of a beat that somebody has labelled; empty for all else."""
        return "" if self.note.rstrip(b"\0") == UNLABELLED.encode() else SYMBOLS.get(self.code, "")


def encode(annotations: Iterable[Annotation]) -> bytes:
    """The file of annotations in order of their samples."""
    parts, sample, channel, number = [], 0, 0, 0
    for one in annotations:
        gap = one.sample - sample
        least = 0 if one.code else 1  # a word of code 0 with a gap of 0 is the end of the file
        if not least <= gap <= _NEAR:
            skip = gap - least
            parts.append(_word(_SKIP, 0) + struct.pack("<HH", skip >> 16 & 0xFFFF, skip & 0xFFFF))
            gap = least
        parts.append(_word(one.code, gap))
        if one.subtype:
            parts.append(_word(_SUBTYPE, one.subtype & 0x3FF))
        if one.channel != channel:
            parts.append(_word(_CHANNEL, one.channel))
        if one.number != number:
            parts.append(_word(_NUMBER, one.number & 0x3FF))
        if one.note:
            note = one.note[:_MOST_NOTE]
            parts.append(_word(_NOTE, len(note)) + note + b"\0" * (len(note) % 2))
        sample, channel, number = one.sample, one.channel, one.number
    return b"".join(parts) + _word(0, 0)


def decode(content: bytes) -> tuple[Annotation, ...]:
    """The annotations of a file. Raises ``DataError`` where it is none, or has more than ``MOST``."""
    try:
        found = tuple(islice(_read(content), MOST + 1))
    except (struct.error, IndexError):
        raise DataError("it breaks off before its end, or is no annotation file of WFDB: copy it again") from None
    if len(found) > MOST:
        raise DataError(f"it has more than {MOST} annotations: cut the record into days, each with its own")
    return found


def _read(content: bytes) -> Iterator[Annotation]:
    at, sample, newest = 0, 0, None
    while True:
        (word,) = struct.unpack_from("<H", content, at)
        at += 2
        code, value = word >> 10, word & 0x3FF
        if code < _SKIP and newest is not None:
            yield newest
        if not word:
            return
        if code == _SKIP:
            high, low = struct.unpack_from("<hH", content, at)
            at, sample = at + 4, sample + (high << 16 | low)
        elif code == _NOTE:
            newest = _of(newest, note=content[at : at + value])
            at += value + value % 2
        elif code > _SKIP:
            newest = _changed(newest, code, value)
        else:
            sample += value
            before = newest or Annotation(0, 0)
            newest = Annotation(sample, code, channel=before.channel, number=before.number)


def _changed(newest: Annotation | None, code: int, value: int) -> Annotation:
    if code == _NUMBER:
        return _of(newest, number=value)
    return _of(newest, subtype=value) if code == _SUBTYPE else _of(newest, channel=value)


def _of(newest: Annotation | None, **changes: object) -> Annotation:
    if newest is None:
        raise DataError("it begins with what belongs to no annotation: it is no annotation file of WFDB")
    return replace(newest, **changes)  # type: ignore[arg-type]  # the fields' own types


def _word(code: int, value: int) -> bytes:
    return struct.pack("<H", code << 10 | value)
