"""What is published, on disk: a model may be needed again after any reconnect, and hardly ever is.

Each blob is a file without a name, gone with the process or as soon as nobody holds it. Nothing is synced: all of it
can be made again.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import weakref
from pathlib import Path
from typing import Final

from schemas.errors import StateError
from schemas.parts import Bytes

SMALL: Final = 2**20  # bytes that a blob may have and stay in memory


class Shelf:
    """Puts blobs in ``directory``."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def put(self, blob: bytes) -> Bytes:
        """``blob``, to be read a slice at a time; itself where it is small, or where the disk won't have it."""
        if len(blob) > SMALL:
            with contextlib.suppress(OSError):
                return _File(self._directory, blob)
        return blob


class _File:
    """One blob."""

    def __init__(self, directory: Path, blob: bytes) -> None:
        with tempfile.TemporaryFile(dir=directory, buffering=0) as file:
            left = memoryview(blob)
            while left:  # a disk that fills up takes the first half of a write without a word
                left = left[file.write(left) :]
            self._handle = os.dup(file.fileno())
        self._size = len(blob)
        weakref.finalize(self, os.close, self._handle)

    def __getitem__(self, where: slice) -> bytes:
        start, stop, _ = where.indices(self._size)
        try:
            found = os.pread(self._handle, stop - start, start)
        except OSError as error:
            raise StateError(f"a published model can't be read again: {error.strerror}. Check the disk") from error
        if len(found) != stop - start:
            raise StateError("a published model can't be read again: its file was cut. Check the disk")
        return found
