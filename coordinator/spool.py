"""Unfinished updates on disk: the coordinator's memory stays flat however many devices send at once.

One file without a name, gone with the process, in blocks of equal size that are used again, the lowest first: so it is
never larger than all that was ever in it at one time. It shrinks to nothing whenever none is in use. Nothing is synced:
what is in it counts for nothing yet, and devices still have it.
"""

from __future__ import annotations

import heapq
import io
import os
import tempfile
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from coordinator.inbox import BLOCK
from coordinator.models import REFUSED
from schemas.errors import DiskFull, StateError
from schemas.messages import BlobRef


class Spool:
    """Room for blobs in ``directory``; a context manager."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._free: list[int] = []  # blocks, as a heap
        self._blocks = 0
        try:
            self._file = tempfile.TemporaryFile(dir=directory)  # noqa: SIM115  - ``__exit__`` closes it
        except OSError as error:
            raise StateError(
                f"{directory}: {error.strerror}. Check the directory, its owner and permissions"
            ) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def slot(self, ref: BlobRef) -> Slot:
        """Room for one blob, until it is cleared."""
        wanted = -(-ref.size // BLOCK)
        taken = [heapq.heappop(self._free) for _ in range(min(wanted, len(self._free)))]
        more = wanted - len(taken)
        taken.extend(range(self._blocks, self._blocks + more))
        self._blocks += more
        return Slot(self, array("L", taken), ref.size)

    def write(self, blocks: Sequence[int], offset: int, payload: bytes) -> None:
        """Write into a blob; ``DiskFull`` where the disk takes no more, and the same can be written again."""
        left = memoryview(payload)
        try:
            while left:  # a disk that fills up takes the first half of a write without a word
                place, run = _run(blocks, offset, len(left))
                written = os.pwrite(self._file.fileno(), left[:run], place)
                offset, left = offset + written, left[written:]
        except OSError as error:
            text = f"{self._directory}: {error.strerror}. Free some disk space; updates are kept there as they come"
            raise (DiskFull if error.errno in REFUSED else StateError)(text) from error

    def read(self, blocks: Sequence[int], size: int) -> bytes:
        """The first ``size`` bytes of a blob."""
        place, run = _run(blocks, 0, size)
        if run == size:  # as most are
            return os.pread(self._file.fileno(), size, place)
        blob, offset = io.BytesIO(bytes(size)), 0  # filled in place, so that there is one copy
        with blob.getbuffer() as room:
            while offset < size:
                place, run = _run(blocks, offset, size - offset)
                os.preadv(self._file.fileno(), (room[offset : offset + run],), place)
                offset += run
        return blob.getvalue()

    def release(self, blocks: Sequence[int]) -> None:
        """Let others have a blob's blocks."""
        for block in blocks:
            heapq.heappush(self._free, block)
        if len(self._free) == self._blocks:
            self._free.clear()
            self._blocks = 0
            os.ftruncate(self._file.fileno(), 0)


def _run(blocks: Sequence[int], offset: int, size: int) -> tuple[int, int]:
    """Where a blob's byte at ``offset`` stands in the file, and how many of ``size`` from there follow each other."""
    first = last = offset // BLOCK
    within = offset - first * BLOCK
    while (found := (last - first + 1) * BLOCK - within) < size and blocks[last + 1] == blocks[last] + 1:
        last += 1
    return blocks[first] * BLOCK + within, min(found, size)


class Slot:
    """One blob's place in a spool; a ``schemas.parts.Store``."""

    def __init__(self, spool: Spool, blocks: Sequence[int], size: int) -> None:
        self._spool = spool
        self._blocks: Sequence[int] | None = blocks
        self._size = size

    def put(self, offset: int, payload: bytes) -> None:
        """Keep the bytes that belong at ``offset`` of the blob."""
        assert self._blocks is not None
        self._spool.write(self._blocks, offset, payload)

    def join(self) -> bytes:
        """The whole blob, once every part was put."""
        assert self._blocks is not None
        return self._spool.read(self._blocks, self._size)

    def clear(self) -> None:
        """Give the place back; the second time nothing happens."""
        if self._blocks is not None:
            self._spool.release(self._blocks)
            self._blocks = None
