"""A TCP relay that counts, for benchmarks of what a device costs its line.

What went over the device's connections is read from the kernel (``TCP_INFO``): bytes and segments of each direction. A
segment is reckoned with 52 bytes of headers (IPv4 20, TCP 20, timestamps 12), so that the sum is what a metered link
counts, acknowledgements included.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final, NamedTuple

HEADERS: Final = 52
# tcpi_bytes_acked and what follows it, at these offsets of struct tcp_info since Linux 4.19.
_ACKED, _RECEIVED, _SEGMENTS = 120, 128, 136
_SENT = 200
_INFO: Final = 232


class Traffic(NamedTuple):
    """Seen from the device."""

    up: int  # bytes of payload it sent
    down: int
    segments_up: int
    segments_down: int

    @property
    def on_the_wire(self) -> int:
        """Bytes with their headers, both ways."""
        return self.up + self.down + HEADERS * (self.segments_up + self.segments_down)

    def since(self, before: Traffic) -> Traffic:
        """What came after ``before``."""
        return Traffic(*(now - then for now, then in zip(self, before, strict=True)))


@dataclass
class Relay:
    """One device's way to ``target``, a port on loopback."""

    target: int
    port: int = 0
    connections: list[tuple[socket.socket, socket.socket]] = field(default_factory=list)  # the device's end first
    copying: list[threading.Thread] = field(default_factory=list)

    def traffic(self) -> Traffic:
        """All of it until now."""
        totals = (0, 0, 0, 0)
        for near, _ in self.connections:  # a closed one is kept for its counters
            info = near.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _INFO)
            (down,) = struct.unpack_from("Q", info, _SENT)
            (up,) = struct.unpack_from("Q", info, _RECEIVED)
            segments_down, segments_up = struct.unpack_from("II", info, _SEGMENTS)
            totals = tuple(map(sum, zip(totals, (up, down, segments_up, segments_down), strict=True)))  # type: ignore[assignment]
        return Traffic(*totals)

    def serve(self, listener: socket.socket) -> None:
        """Take connections until the listener is closed."""
        while True:
            try:
                near, _ = listener.accept()
            except OSError:
                return
            far = socket.create_connection(("127.0.0.1", self.target))
            for each in (near, far):
                each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.connections.append((near, far))
            for source, sink in ((near, far), (far, near)):
                self.copying.append(threading.Thread(target=_copy, args=(source, sink), daemon=True))
                self.copying[-1].start()

    def close(self) -> None:
        """End all connections."""
        for each in (end for both in self.connections for end in both):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        for thread in self.copying:
            thread.join()
        for each in (end for both in self.connections for end in both):
            each.close()


def _copy(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65_536):
            sink.sendall(data)
    with contextlib.suppress(OSError):
        sink.shutdown(socket.SHUT_WR)


@contextmanager
def relay(target: int) -> Iterator[Relay]:
    """A relay to the loopback port ``target``, for as long as the block lasts."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        counting = Relay(target, listener.getsockname()[1])
        serving = threading.Thread(target=counting.serve, args=(listener,), daemon=True)
        serving.start()
        try:
            yield counting
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            serving.join()
            counting.close()
