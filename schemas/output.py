"""What a command that works for hours prints, and how its work outlasts that: lines may be lost, and no more."""

from __future__ import annotations

import errno
import io
import sys
from typing import IO, Final, TextIO

FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})  # what a disk, or a quota, says where output goes to a file
_GONE: Final = frozenset({errno.EPIPE, errno.EIO})  # what a pipe says that nobody reads any more, or a terminal


class Output:
    """Lines on standard output, or on ``out``. A full disk costs those that it doesn't take; the next one is whole."""

    def __init__(self, out: IO[str] | None = None, *, needed: bool = False) -> None:
        """Where nobody reads any more, what follows is dropped; of what is ``needed`` it raises ``BrokenPipeError``."""
        self._out = out or sys.stdout
        self._needed = needed
        self._torn = False  # a line may have got to the disk in part
        self._gone = False

    def line(self, text: str) -> None:
        """Print a line; it may wait for ``flush``."""
        if self._gone:
            return
        try:
            self._out.write("\n" * self._torn + text + "\n")
            self._torn = False
        except OSError as error:
            self._torn = True
            self._bear(error)

    def tell(self, text: str) -> None:
        """Print a line, and let whoever reads have it at once."""
        self.line(text)
        self.flush()

    def flush(self) -> None:
        """Let whoever reads have the lines; those that a full disk doesn't take wait for the next time."""
        if self._gone:
            return
        try:
            self._out.flush()
        except OSError as error:
            self._bear(error)

    def _bear(self, error: OSError) -> None:
        if error.errno in _GONE and self._needed:
            raise BrokenPipeError(errno.EPIPE, error.strerror)  # which ends a command without a word
        self._gone = error.errno in _GONE
        if not self._gone and error.errno not in FULL:
            raise error


class Terminal(io.TextIOBase):
    """A terminal to draw on, which may go away: what is drawn from then on is dropped.

    Where it is a file (``FORCE_COLOR``), a full disk costs drawings as it costs an ``Output`` lines.
    """

    def __init__(self, out: TextIO | None = None) -> None:
        """``out`` is standard output unless given."""
        super().__init__()
        self._out: TextIO = out or sys.stdout
        self._gone = False

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """Its own."""
        return self._out.encoding or "utf-8"

    def isatty(self) -> bool:
        """Whether it is one at all."""
        return self._out.isatty()

    def fileno(self) -> int:
        """Its own."""
        return self._out.fileno()

    def write(self, text: str) -> int:
        """All of it, as far as anybody can tell."""
        if not self._gone:
            try:
                return self._out.write(text)
            except OSError as error:
                self._bear(error)
        return len(text)

    def flush(self) -> None:
        """Draw what was written."""
        if not self._gone:
            try:
                self._out.flush()
            except OSError as error:
                self._bear(error)

    def close(self) -> None:
        """Nothing: it is its owner's to close. As it is cleared away, a last look at what waits would be in vain."""

    def _bear(self, error: OSError) -> None:
        self._gone = error.errno in _GONE
        if not self._gone and error.errno not in FULL:
            raise error
