"""A blob in bounded parts, and back from parts in any order, repeated, or lost on the way.

Parts are equally long, except for a shorter last one, so a part's place follows from its index alone. An assembly
keeps the parts it is given, without copying, and joins them once.
"""

from __future__ import annotations

import hashlib
from typing import Final, Protocol

from schemas.counted import counted
from schemas.errors import Reject, WireError
from schemas.messages import MAX_PARTS, BlobRef, Part

LARGE: Final = 4 * 2**20  # bytes; of a larger update the first part goes alone, so that no broker has to queue it all


class Bytes(Protocol):
    """A blob to be cut: bytes, or what gives them a slice at a time."""

    def __getitem__(self, where: slice, /) -> bytes:
        """The bytes there."""


def describe(blob: bytes, part_size: int) -> BlobRef:
    """What a receiver must know of ``blob`` cut into parts of at most ``part_size`` bytes.

    Raises ``WireError`` where that takes more than ``MAX_PARTS`` parts, ``ValueError`` for an empty blob.
    """
    if not blob or part_size < 1:
        raise ValueError("a blob and its parts have at least one byte")
    parts = -(-len(blob) // part_size)
    if parts > MAX_PARTS:
        raise WireError(Reject.TOO_LARGE, f"{parts} parts; at most {MAX_PARTS}: use a larger part size")
    return BlobRef(digest=hashlib.sha256(blob).hexdigest(), size=len(blob), parts=parts)


def cut(blob: Bytes, ref: BlobRef, index: int) -> Part:
    """Part ``index`` of the ``blob`` that ``ref`` describes; ``IndexError`` where there is no such part."""
    if not 0 <= index < ref.parts:
        raise IndexError(f"part {index} of a blob of {ref.parts} parts")
    stride = _stride(ref)
    return Part(blob=ref, index=index, payload=blob[index * stride : (index + 1) * stride])


class Store(Protocol):
    """Where an assembly keeps the parts it has."""

    def put(self, offset: int, payload: bytes) -> None:
        """Keep the bytes that belong at ``offset`` of the blob."""

    def join(self) -> bytes:
        """The whole blob, once every part was put."""

    def clear(self) -> None:
        """Forget all; the store is not used again before the next ``put``."""


class Memory:
    """Parts as they came, joined once."""

    def __init__(self) -> None:
        self._parts: dict[int, bytes] = {}

    def put(self, offset: int, payload: bytes) -> None:
        """Keep the bytes that belong at ``offset`` of the blob."""
        self._parts[offset] = payload

    def join(self) -> bytes:
        """The whole blob, once every part was put."""
        return b"".join(self._parts[offset] for offset in sorted(self._parts))

    def clear(self) -> None:
        """Forget all."""
        self._parts.clear()


class Assembly:
    """One blob being put together. Holds at most ``ref.size`` bytes, and for an instant twice that when joining."""

    def __init__(self, ref: BlobRef, limit: int, store: Store | None = None) -> None:
        """``limit``: the largest blob the caller takes, in bytes. ``WireError`` where ``ref`` is over it or absurd.

        Parts are kept in ``store``, or in memory.
        """
        if ref.size > limit:
            raise WireError(Reject.TOO_LARGE, f"a blob of {ref.size} bytes; at most {limit}")
        if ref.parts != -(-ref.size // _stride(ref)):
            raise WireError(Reject.MALFORMED, f"{ref.size} bytes don't make {ref.parts} equal parts")
        self.ref = ref
        self._store = store or Memory()
        self._have: set[int] = set()
        self._blob: bytes | None = None

    def add(self, part: Part) -> bool:
        """Take ``part``; False where its place was taken: the first one stays. ``WireError`` where it doesn't fit."""
        if part.blob != self.ref:
            raise WireError(Reject.WRONG_DIGEST, f"a part of blob {part.blob.digest}, not of {self.ref.digest}")
        if part.index >= self.ref.parts:
            raise WireError(Reject.OUT_OF_RANGE, f"part {part.index} of a blob of {counted(self.ref.parts, 'part')}")
        stride = _stride(self.ref)
        expected = min(stride, self.ref.size - part.index * stride)
        if len(part.payload) != expected:
            reason = Reject.TRUNCATED if len(part.payload) < expected else Reject.TOO_LARGE
            raise WireError(reason, f"part {part.index} has {len(part.payload)} bytes, not {expected}")
        if self._blob is not None or part.index in self._have:
            return False
        self._store.put(part.index * stride, part.payload)
        self._have.add(part.index)
        return True

    def missing(self) -> tuple[int, ...]:
        """The indices still to come, rising."""
        if self.complete:
            return ()
        return tuple(index for index in range(self.ref.parts) if index not in self._have)

    @property
    def complete(self) -> bool:
        """Whether every part has come."""
        return self._blob is not None or len(self._have) == self.ref.parts

    def blob(self) -> bytes:
        """The whole blob. ``WireError`` where parts are missing or the digest is wrong.

        After a wrong digest every part is forgotten, since nothing tells which of them is at fault.
        """
        if self._blob is not None:
            return self._blob
        if not self.complete:
            raise WireError(Reject.TRUNCATED, f"{len(self._have)} of {counted(self.ref.parts, 'part')} have come")
        blob = self._store.join()
        self._store.clear()
        self._have.clear()
        if hashlib.sha256(blob).hexdigest() != self.ref.digest:
            raise WireError(Reject.WRONG_DIGEST, f"the parts don't add up to blob {self.ref.digest}")
        self._blob = blob
        return blob


def _stride(ref: BlobRef) -> int:
    return -(-ref.size // ref.parts)
