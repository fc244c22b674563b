"""Unfinished updates on disk: the coordinator's memory stays flat however many devices send at once.

One file without a name, gone with the process, in slots of equal size that are used again, the lowest first; it shrinks
to nothing whenever none is in use. Nothing is synced: what is in it counts for nothing yet, and devices still have it.
"""

from __future__ import annotations

import heapq
import os
import tempfile
from pathlib import Path
from typing import Self

from coordinator.models import REFUSED
from schemas.errors import DiskFull, StateError
from schemas.messages import BlobRef


class Spool:
    """Slots for blobs of at most ``slot_size`` bytes in ``directory``; a context manager."""

    def __init__(self, directory: Path, slot_size: int) -> None:
        self._directory = directory
        self._slot_size = slot_size
        self._free: list[int] = []  # a heap
        self._slots = 0
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
        if not self._free:
            self._free.append(self._slots)
            self._slots += 1
        return Slot(self, heapq.heappop(self._free), ref.size)

    def write(self, slot: int, offset: int, payload: bytes) -> None:
        """Write into a slot; ``DiskFull`` where the disk takes no more, and the same can be written again."""
        place, left = slot * self._slot_size + offset, memoryview(payload)
        try:
            while left:  # a disk that fills up takes the first half of a write without a word
                written = os.pwrite(self._file.fileno(), left, place)
                place, left = place + written, left[written:]
        except OSError as error:
            text = f"{self._directory}: {error.strerror}. Free some disk space; updates are kept there as they come"
            raise (DiskFull if error.errno in REFUSED else StateError)(text) from error

    def read(self, slot: int, size: int) -> bytes:
        """The first ``size`` bytes of a slot."""
        return os.pread(self._file.fileno(), size, slot * self._slot_size)

    def release(self, slot: int) -> None:
        """Let another blob have the slot."""
        heapq.heappush(self._free, slot)
        if len(self._free) == self._slots:
            self._free.clear()
            self._slots = 0
            os.ftruncate(self._file.fileno(), 0)


class Slot:
    """One blob's place in a spool; a ``schemas.parts.Store``."""

    def __init__(self, spool: Spool, number: int, size: int) -> None:
        self._spool = spool
        self._number: int | None = number
        self._size = size

    def put(self, offset: int, payload: bytes) -> None:
        """Keep the bytes that belong at ``offset`` of the blob."""
        assert self._number is not None
        self._spool.write(self._number, offset, payload)

    def join(self) -> bytes:
        """The whole blob, once every part was put."""
        assert self._number is not None
        return self._spool.read(self._number, self._size)

    def clear(self) -> None:
        """Give the place back; the second time nothing happens."""
        if self._number is not None:
            self._spool.release(self._number)
            self._number = None
