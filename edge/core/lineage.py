"""A model as a snapshot and the steps that lead on from it: as the agent keeps it, and as one blob for its trainer.

The agent has no arrays, so nothing is added up here: that is ``model_reader``'s, in the trainer child. Without steps
the blob is the snapshot itself. Else it is a line of JSON, the snapshot, and the steps. Both halves of it are here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Final, Self

from pydantic import Field, ValidationError

from schemas.errors import Reject, WireError
from schemas.messages import Digest, Message

MOST: Final = 32  # steps
_LONGEST_HEADER: Final = 8192  # bytes
_STEPS: Final = b"{"  # what the line of JSON begins with, and no payload of ``compression``

Size = Annotated[int, Field(ge=1, le=2**33)]


class _Link(Message):
    digest: Digest
    size: Size


class _Header(Message):
    snapshot: Size
    steps: Annotated[tuple[_Link, ...], Field(min_length=1, max_length=MOST)]


@dataclass(frozen=True, slots=True)
class Lineage:
    """``snapshot`` is a payload of ``compression``; each step is one too, with the digest of the model it leads to."""

    snapshot: bytes
    steps: tuple[tuple[str, bytes], ...] = ()

    def pack(self) -> bytes:
        """One blob."""
        if not self.steps:
            return self.snapshot
        links = tuple(_Link(digest=digest, size=len(step)) for digest, step in self.steps)
        header = _Header(snapshot=len(self.snapshot), steps=links).model_dump_json().encode()
        return b"".join((header, b"\n", self.snapshot, *(step for _, step in self.steps)))

    @classmethod
    def unpack(cls, raw: bytes) -> Self:
        """The lineage in ``raw``. Raises ``WireError`` where it is none."""
        if not raw.startswith(_STEPS):
            return cls(raw)
        end = raw.find(b"\n", 0, _LONGEST_HEADER)
        try:
            header = _Header.model_validate_json(raw[: max(0, end)])
        except ValidationError as error:
            raise WireError(Reject.MALFORMED, f"neither a snapshot nor steps: {error.errors()[0]['msg']}") from None
        at, pieces = end + 1, list[bytes]()
        for size in (header.snapshot, *(link.size for link in header.steps)):
            pieces.append(raw[at : at + size])
            at += size
        if at != len(raw):
            raise WireError(Reject.TRUNCATED, f"a model and its steps of {len(raw)} bytes instead of {at}")
        return cls(pieces[0], tuple(zip((link.digest for link in header.steps), pieces[1:], strict=True)))
