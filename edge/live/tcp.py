"""Lines of numbers from a TCP connection that we open: a Wi-Fi microcontroller, or any program with a socket."""

from __future__ import annotations

import socket
from functools import partial
from typing import Final

from edge.live.lines import OPTIONS, Lines, lines_of
from edge.live.setting import Kind, Opener, Options, Surroundings
from edge.live.source import Clock, LiveSource, SourceLost
from edge.live.stream import Stream

_FORM: Final = f"tcp:HOST:PORT?{OPTIONS}"
_CONNECT_S: Final = 10.0
_MOST_PORT: Final = 65_535
# A peer that lost its power says nothing: it is asked after 10 s of silence, and given up 15 s later.
_ALIVE: Final = ((socket.TCP_KEEPIDLE, 10), (socket.TCP_KEEPINTVL, 5), (socket.TCP_KEEPCNT, 3))


def _read(options: Options, surroundings: Surroundings) -> Opener:
    lines = lines_of(options)
    options.done()
    host, _, port = options.place.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) <= _MOST_PORT:
        raise options.wrong(f"{options.place} is no HOST:PORT")
    return partial(_open, (host.strip("[]"), int(port)), options.place, lines, surroundings.clock)


def _open(address: tuple[str, int], place: str, lines: Lines, clock: Clock) -> LiveSource:
    try:
        connection = socket.create_connection(address, _CONNECT_S)
    except UnicodeError:
        raise SourceLost(f"{place} names no host: write HOST:PORT") from None
    except OSError as error:
        raise SourceLost(f"nothing answers at {place}: {error.strerror or error}") from None
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in _ALIVE:
        connection.setsockopt(socket.IPPROTO_TCP, option, value)
    connection.setblocking(False)
    name = f"the connection to {place}"
    return Stream(name, connection.fileno(), connection.close, lines, clock)


KIND = Kind(_FORM, "lines of numbers from a TCP server, one line a sample", "tcp:esp32.local:3333?rate=250", _read)
