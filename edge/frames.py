"""Frames of bytes over a Unix socket, between an agent and its trainer child.

Each is its length, eight bytes in network order, and its bytes. ``multiprocessing.connection`` does the same, and more:
a waiting agent would carry it all day with pickle, 0.7 MB that it never uses.
"""

from __future__ import annotations

import io
import select
import socket
import struct
import weakref
from types import TracebackType
from typing import Final, Self

_LENGTH: Final = struct.Struct("!Q")
_SMALL: Final = 16_384  # bytes of a frame that is copied to leave with its length at once
_PIECE: Final = 2**20  # bytes received at a time


class Frames:
    """One end. A thread may send while another one receives, but no two may do the same."""

    def __init__(self, peer: socket.socket) -> None:
        """``peer`` is connected; it is ours from now on."""
        peer.setblocking(True)
        self._peer = peer
        weakref.finalize(self, peer.close)

    @classmethod
    def connect(cls, address: str) -> Self:
        """The end of whoever comes to a socket that listens at ``address``. Raises ``OSError``."""
        peer = socket.socket(socket.AF_UNIX)
        try:
            peer.connect(address)
        except OSError:
            peer.close()
            raise
        return cls(peer)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def send(self, frame: bytes) -> None:
        """Send a frame; blocks. Raises ``OSError``, where the other end is gone a ``ConnectionError``."""
        length = _LENGTH.pack(len(frame))
        if len(frame) <= _SMALL:
            self._peer.sendall(length + frame)
        else:
            self._peer.sendall(length)
            self._peer.sendall(frame)

    def receive(self, most: int) -> bytes:
        """The next frame, of at most ``most`` bytes; blocks.

        Raises ``EOFError`` where the other end has hung up, ``OSError`` where that was within a frame, or where that is
        longer: nothing can be received after it.
        """
        start = self._peer.recv(_LENGTH.size)
        if not start:
            raise EOFError("the other end has hung up")
        (size,) = _LENGTH.unpack(start + self._exactly(_LENGTH.size - len(start)))
        if size > most:
            self._peer.shutdown(socket.SHUT_RD)
            raise OSError(f"a frame of {size} bytes; at most {most}")
        return self._exactly(size)

    def waits(self, timeout_s: float = 0.0) -> bool:
        """Whether a frame, or the other end's hanging up, is there to be received within ``timeout_s`` seconds."""
        poll = select.poll()
        poll.register(self._peer, select.POLLIN)
        return bool(poll.poll(timeout_s * 1000))

    def close(self) -> None:
        """Hang up; the second time nothing happens."""
        self._peer.close()

    def _exactly(self, count: int) -> bytes:
        whole, left = io.BytesIO(), count  # grows by what has come, not by what a length promises
        while left:
            piece = self._peer.recv(min(left, _PIECE))
            if not piece:
                raise OSError(f"the other end has hung up {left} bytes before the end of a frame")
            left -= whole.write(piece)
        return whole.getvalue()
