"""A loopback TCP proxy: a link's network, to cut, to bar, to freeze, to delay and to slow down."""

from __future__ import annotations

import contextlib
import queue
import socket
import struct
import threading
import time
from typing import Literal

_CHUNK = 16_384
_AHEAD = 64  # chunks that may be under way in one direction while they are delayed

Way = Literal["up", "down"]  # from client to broker, and back


class Proxy:
    """Listens on ``port`` and passes on to ``target`` on loopback. ``carried`` counts the bytes passed on each way."""

    def __init__(
        self,
        target: int,
        bytes_a_second: float | None = None,
        *,
        down_bytes_a_second: float | None = None,
        latency_s: float = 0.0,
    ) -> None:
        """``bytes_a_second`` bounds the direction from client to broker; ``latency_s`` is added each way."""
        self.target = target
        self.carried: dict[Way, int] = {"up": 0, "down": 0}
        self._rates: dict[Way, float | None] = {"up": bytes_a_second, "down": down_bytes_a_second}
        self._latency_s = latency_s
        self._left: dict[Way, int | None] = {"up": None, "down": None}  # bytes until the cut that was asked for
        self._barred = False
        self._flowing = threading.Event()
        self._flowing.set()
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._acceptor = threading.Thread(target=self._accept, daemon=True)
        self._acceptor.start()

    @property
    def address(self) -> str:
        """What ``--broker`` would be given."""
        return f"mqtt://127.0.0.1:{self.port}"

    def cut(self, *, bar: bool = False) -> None:
        """Reset every connection, as a pulled cable does in the end; ``bar`` new ones until ``mend``."""
        with self._lock:
            self._barred = bar
            for sock in self._open:
                with contextlib.suppress(OSError):
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    sock.shutdown(socket.SHUT_RDWR)

    def cut_after(self, way: Way, count: int) -> None:
        """``cut`` and bar once ``count`` more bytes have gone that way, and not one more."""
        with self._lock:
            self._left[way] = count

    def mend(self) -> None:
        """Take connections again."""
        self._barred = False

    def freeze(self) -> None:
        """Leave every connection open and carry nothing, as a dead access point does, until ``thaw``."""
        self._flowing.clear()

    def thaw(self) -> None:
        """Go on after ``freeze``, with all that was sent meanwhile and whose ends still want it."""
        self._flowing.set()

    def close(self) -> None:
        """Stop."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._acceptor.join()
        self._listener.close()
        self.thaw()
        self.cut(bar=True)

    @property
    def barred(self) -> bool:
        """Whether connections are refused, after a cut that was asked for perhaps."""
        return self._barred

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if self._barred:
                client.close()
                continue
            threading.Thread(target=self._carry, args=(client,), daemon=True).start()

    def _carry(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.target)) as broker:
            for sock in (client, broker):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for sock, way in ((client, "up"), (broker, "down")):
                if self._rates[way]:  # type: ignore[index]  # mypy widens the literals
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _CHUNK)
            with self._lock:
                self._open |= {client, broker}
            ways: tuple[tuple[socket.socket, socket.socket, Way], ...]
            ways = ((client, broker, "up"), (broker, client, "down"))
            pipes = [threading.Thread(target=self._pipe, args=one, daemon=True) for one in ways]
            for pipe in pipes:
                pipe.start()
            try:
                for pipe in pipes:
                    pipe.join()
            finally:
                with self._lock:
                    self._open -= {client, broker}

    def _pipe(self, source: socket.socket, sink: socket.socket, way: Way) -> None:
        """Carry one direction of one connection to its end, and end the other with it."""
        rate, ahead = self._rates[way], _AHEAD if self._latency_s else 1
        chunks: queue.Queue[tuple[float, bytes]] = queue.Queue(ahead)
        reader = threading.Thread(target=self._read, args=(source, chunks), daemon=True)
        reader.start()
        try:
            while True:
                chunk = self._due(chunks)
                if rate:
                    time.sleep(len(chunk) / rate)  # the slow line itself, not a wait for anything
                self._flowing.wait()
                if not chunk:
                    return
                allowed = self._allowance(way, len(chunk))
                sink.sendall(chunk[:allowed])
                if allowed < len(chunk):
                    self.cut(bar=True)
        except OSError:
            pass
        finally:
            for sock in (source, sink):
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)
            while reader.is_alive():  # it may wait for room
                with contextlib.suppress(queue.Empty):
                    chunks.get(timeout=0.01)

    def _read(self, source: socket.socket, chunks: queue.Queue[tuple[float, bytes]]) -> None:
        chunk = b"?"
        while chunk:
            try:
                chunk = source.recv(_CHUNK)
            except OSError:
                chunk = b""
            chunks.put((time.monotonic() + self._latency_s, chunk))

    def _due(self, chunks: queue.Queue[tuple[float, bytes]]) -> bytes:
        at, chunk = chunks.get()
        time.sleep(max(0.0, at - time.monotonic()))  # the long line itself
        return chunk

    def _allowance(self, way: Way, count: int) -> int:
        """How many of ``count`` bytes may still pass before a cut that was asked for."""
        with self._lock:
            left = self._left[way]
            allowed = count if left is None else min(left, count)
            if left is not None:
                self._left[way] = None if left < count else left - count
            self.carried[way] += allowed
            return allowed
