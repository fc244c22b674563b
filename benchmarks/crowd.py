"""Many MQTT sessions on one thread, so that what plays a thousand devices isn't what is measured.

paho's own loop takes a thread a session, and ``select`` ends at 1024 file descriptors; here one selector serves all.
"""

from __future__ import annotations

import selectors
import socket
import time
from collections.abc import Callable

from paho.mqtt import client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

MISC_S = 10.0  # between two looks at keepalive; it is 60 s
CONNECT_S = 120.0

Heard = Callable[[mqtt.MQTTMessage], None]


class Crowd:
    """Sessions with the broker at ``host`` and ``port``. All methods are for one thread."""

    def __init__(self, host: str, port: int) -> None:
        self._host = host
        self._port = port
        self._selector = selectors.DefaultSelector()
        self._clients: list[mqtt.Client] = []
        self._writing: dict[mqtt.Client, None] = {}  # that have something to send
        self._up = 0
        self._looked_at = time.monotonic()

    def add(self, name: str, heard: Heard) -> mqtt.Client:
        """A session of its own, on its way; ``heard`` takes what it is sent."""
        client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id=name)
        client.on_connect = self._connected
        client.on_message = lambda _client, _data, message: heard(message)
        client.on_socket_register_write = self._wants_to_write
        client.on_socket_unregister_write = _nothing
        client.max_inflight_messages_set(0)
        client.connect(self._host, self._port)
        sock = client.socket()
        assert isinstance(sock, socket.socket)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._selector.register(sock, selectors.EVENT_READ, client)
        self._clients.append(client)
        return client

    def join(self) -> None:
        """Return once the broker has all sessions."""
        until = time.monotonic() + CONNECT_S
        while self._up < len(self._clients):
            if time.monotonic() > until:
                raise SystemExit(f"{len(self._clients) - self._up} sessions are not there after {CONNECT_S:g} s")
            self.turn(1.0)

    def watch(self, file: int, ready: Callable[[], None]) -> None:
        """Call ``ready`` in ``turn`` whenever there is something to read from ``file``."""
        self._selector.register(file, selectors.EVENT_READ, ready)

    def turn(self, limit_s: float) -> None:
        """Move what can be moved; wait for it at most so long."""
        self._write()
        for key, ready in self._selector.select(limit_s):
            if not isinstance(key.data, mqtt.Client):
                key.data()
                continue
            if ready & selectors.EVENT_WRITE:
                self._selector.modify(key.fileobj, selectors.EVENT_READ, key.data)
                self._writing[key.data] = None
            if ready & selectors.EVENT_READ:
                key.data.loop_read()
        self._write()
        if time.monotonic() - self._looked_at >= MISC_S:
            self._looked_at = time.monotonic()
            for client in self._clients:
                client.loop_misc()

    def _write(self) -> None:
        clients, self._writing = self._writing, {}
        for client in clients:
            client.loop_write()
            sock = client.socket()
            if sock is None:
                raise SystemExit("the broker ended a session: see its log")
            if client.want_write():  # the socket is full
                self._writing.pop(client, None)
                self._selector.modify(sock, selectors.EVENT_READ | selectors.EVENT_WRITE, client)

    def _connected(self, *_: object) -> None:
        self._up += 1

    def _wants_to_write(self, client: mqtt.Client, *_: object) -> None:
        self._writing[client] = None


def _nothing(*_: object) -> None:
    """There is no register of who writes to take it from."""
