"""A socket that is read and written in large pieces, for a client library that asks for a byte at a time.

paho takes three calls to read a packet and one to write each. A call lets go of Python's lock, and gets it back only
when the thread that computes meanwhile is made to give it up: with a thousand devices that was most of the waiting.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
from typing import Final

AHEAD: Final = 64 * 1024  # bytes read at once
TOGETHER: Final = 16 * 1024  # bytes of small packets written at once
CLOSE_S: Final = 0.5  # for the last of them

_LATER: Final = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


class BufferedSocket:
    """A non-blocking ``socket`` in front of which small reads and writes are gathered. What is sent needs ``flush``."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._read = memoryview(b"")  # what was received, and not asked for yet
        self._unsent = bytearray()

    @property
    def socket(self) -> socket.socket:
        """The one behind it."""
        return self._sock

    @property
    def readable(self) -> bool:
        """Whether there is something to ``recv`` of which no selector tells."""
        return bool(self._read) or (isinstance(self._sock, ssl.SSLSocket) and self._sock.pending() > 0)

    @property
    def writing(self) -> bool:
        """Whether something waits until the kernel takes more."""
        return bool(self._unsent)

    def recv(self, size: int) -> bytes:
        """At most ``size`` bytes; none at the end. ``BlockingIOError``, or TLS's own, where there is nothing yet."""
        if not self._read:
            received = self._sock.recv(max(size, AHEAD))
            if len(received) <= size:
                return received
            self._read = memoryview(received)
        piece = bytes(self._read[:size])
        self._read = self._read[size:]
        return piece

    def send(self, data: bytes | bytearray) -> int:
        """How many bytes of ``data`` were taken: all of a small packet. ``BlockingIOError``, or TLS's, where none."""
        if len(self._unsent) + len(data) <= TOGETHER:
            self._unsent += data
            return len(data)
        self.flush()
        if self._unsent:
            raise BlockingIOError
        return self._sock.send(data)

    def flush(self) -> None:
        """Send as much of what waits as the kernel takes. ``OSError`` where the connection is gone."""
        with contextlib.suppress(*_LATER):
            while self._unsent:
                del self._unsent[: self._sock.send(self._unsent)]

    def drop(self) -> None:
        """Send nothing of what waits any more: what is written next would follow half a packet, so close it."""
        self._unsent.clear()

    def setblocking(self, flag: bool) -> None:  # noqa: FBT001 - a socket's own
        """As a socket's."""
        self._sock.setblocking(flag)

    def fileno(self) -> int:
        """As a socket's; -1 once closed."""
        return self._sock.fileno()

    def close(self) -> None:
        """Send what waits, if that takes no time, and close."""
        if self._unsent and self._sock.fileno() >= 0:
            with contextlib.suppress(OSError):
                self._sock.settimeout(CLOSE_S)
                self._sock.sendall(self._unsent)
        self._unsent.clear()
        self._sock.close()
