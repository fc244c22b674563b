"""A loopback TCP proxy: a link's network, to cut, to bar and to slow down."""

from __future__ import annotations

import contextlib
import selectors
import socket
import struct
import threading
import time

_CHUNK = 16_384


class Proxy:
    """Listens on ``port`` and passes on to ``target`` on loopback; one thread for all its connections."""

    def __init__(self, target: int, bytes_a_second: float | None = None) -> None:
        """``bytes_a_second`` bounds the direction from client to broker."""
        self.target = target
        self._pace_s = 0.0 if bytes_a_second is None else _CHUNK / bytes_a_second
        self._barred = False
        self._flows = threading.Event()
        self._flows.set()
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._acceptor = threading.Thread(target=self._accept, daemon=True)
        self._acceptor.start()

    def cut(self, *, bar: bool = False) -> None:
        """Reset every connection, as a pulled cable does in the end; ``bar`` new ones until ``mend``."""
        with self._lock:
            self._barred = bar
            for sock in self._open:
                with contextlib.suppress(OSError):
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    sock.shutdown(socket.SHUT_RDWR)

    def freeze(self) -> None:
        """Leave every connection open, and let nothing through any more, which no peer can tell from idling."""
        self._flows.clear()

    def thaw(self) -> None:
        """Let through what has waited since ``freeze``, and all that follows."""
        self._flows.set()

    def mend(self) -> None:
        """Take connections again."""
        self._barred = False

    def close(self) -> None:
        """Stop."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._acceptor.join()
        self._listener.close()
        self.cut(bar=True)
        self._flows.set()

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
            if self._pace_s:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _CHUNK)
            with self._lock:
                self._open |= {client, broker}
            try:
                self._shovel(client, broker)
            finally:
                with self._lock:
                    self._open -= {client, broker}

    def _shovel(self, client: socket.socket, broker: socket.socket) -> None:
        other = {client: broker, broker: client}
        with selectors.DefaultSelector() as selector:
            for sock, way_on in other.items():
                selector.register(sock, selectors.EVENT_READ, way_on)
            while True:
                for key, _ in selector.select():
                    assert isinstance(key.fileobj, socket.socket)
                    chunk = key.fileobj.recv(_CHUNK)
                    self._flows.wait()
                    if not chunk:
                        return
                    if key.fileobj is client and self._pace_s:
                        time.sleep(self._pace_s * len(chunk) / _CHUNK)  # the slow line itself, not a wait for anything
                    key.data.sendall(chunk)
