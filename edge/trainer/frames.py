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
_SMALL: Final = 16_384  # bytes of a frame that is copied to leave together with others
_AT_ONCE: Final = 65_536  # bytes received at a time where many small frames may be waiting
_PIECE: Final = 2**20  # bytes received at a time of a large one
_NOTHING: Final = memoryview(b"")


class Frames:
    """One end. A thread may send while another one receives, but no two may do the same."""

    def __init__(self, peer: socket.socket) -> None:
        """``peer`` is connected; it is ours from now on."""
        peer.setblocking(True)
        self._peer = peer
        self._ahead = _NOTHING  # received, of frames that nobody has asked for yet
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

    def send(self, *frames: bytes) -> None:
        """Send frames, small ones together; blocks.

        Raises ``OSError``, where the other end is gone a ``ConnectionError``.
        """
        together: list[bytes] = []
        for frame in frames:
            together.append(_LENGTH.pack(len(frame)))
            if len(frame) <= _SMALL:
                together.append(frame)
                continue
            self._peer.sendall(b"".join(together))
            self._peer.sendall(frame)
            together.clear()
        if together:
            self._peer.sendall(b"".join(together))

    def receive(self, most: int) -> bytes:
        """The next frame, of at most ``most`` bytes; blocks.

        Raises ``EOFError`` where the other end has hung up, ``OSError`` where that was within a frame, or where that is
        longer: nothing can be received after it.
        """
        if not self._ahead:
            self._ahead = memoryview(self._peer.recv(_AT_ONCE))
        if not self._ahead:
            raise EOFError("the other end has hung up")
        (size,) = _LENGTH.unpack(self._exactly(_LENGTH.size))
        if size > most:
            self._peer.shutdown(socket.SHUT_RD)
            raise OSError(f"a frame of {size} bytes; at most {most}")
        return self._exactly(size)

    def waits(self, timeout_s: float = 0.0) -> bool:
        """Whether a frame, or the other end's hanging up, is there to be received within ``timeout_s`` seconds."""
        if self._ahead:
            return True
        poll = select.poll()
        poll.register(self._peer, select.POLLIN)
        return bool(poll.poll(timeout_s * 1000))

    def close(self) -> None:
        """Hang up; the second time nothing happens."""
        self._peer.close()

    def _exactly(self, count: int) -> bytes:
        if count <= len(self._ahead):
            return self._take(count)
        whole = io.BytesIO()  # grows by what has come, not by what a length promises
        left = count - whole.write(self._take(len(self._ahead)))
        while left:
            if left < _AT_ONCE:
                self._ahead = memoryview(self._peer.recv(_AT_ONCE))
                piece = self._take(min(left, len(self._ahead)))
            else:
                piece = self._peer.recv(min(left, _PIECE))
            if not piece:
                raise OSError(f"the other end has hung up {left} bytes before the end of a frame")
            left -= whole.write(piece)
        return whole.getvalue()

    def _take(self, count: int) -> bytes:
        """The first of what has been received."""
        taken, rest = self._ahead[:count], self._ahead[count:]
        self._ahead = rest or _NOTHING
        return bytes(taken)
