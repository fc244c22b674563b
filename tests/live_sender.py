"""A sensor on a socket of its own: numbered samples, each at its time, to whoever connects, again and again."""

from __future__ import annotations

import socket
import threading
import time
from typing import Final, Self

RATE: Final = 500  # Hz
WRAP: Final = 20_000  # numbers begin anew, within 16 bits


class Sender:
    """Sends ``number % WRAP`` for each sample; ``sent`` notes how many of the newest connection's had gone when."""

    def __init__(self) -> None:
        self.server = socket.create_server(("127.0.0.1", 0))
        self.connections = 0
        self.sent: list[tuple[float, int]] = []
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self.server.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self.server.close()

    @property
    def setting(self) -> str:
        """What ``--source`` is given."""
        return f"tcp:127.0.0.1:{self.server.getsockname()[1]}?rate={RATE}&scale=0.001"

    def sent_before(self, at: float) -> int:
        """Samples of the newest connection that had gone at this monotonic second."""
        return max((count for when, count in self.sent if when <= at), default=0)

    def _serve(self) -> None:
        while not self._end.is_set():
            try:
                peer, _ = self.server.accept()
            except OSError:
                return
            with peer:
                self.sent = []
                self.connections += 1
                self._feed(peer)

    def _feed(self, peer: socket.socket) -> None:
        began, count = time.monotonic(), 0
        while not self._end.wait(0.02):
            due = int((time.monotonic() - began) * RATE)
            lines = "".join(f"{number % WRAP}\n" for number in range(count, due))
            try:
                peer.sendall(lines.encode())
            except OSError:
                return
            count = due
            self.sent.append((time.monotonic(), count))
