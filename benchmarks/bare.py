"""What a broker and paho need for messages alone: no journal, no rules, nothing read or checked.

    python benchmarks/bare.py --kb 5 --clients 1000

``fan_in`` is one message from each client to one subscriber. ``exchange`` is as many messages each way as a round of
Fedbeat has, one after the other as there: a broadcast that opens it; of each client a join, a status and the update;
of the server a receipt for each; broadcasts, the step to the new model among them; and a last status of each.
"""

from __future__ import annotations

import argparse
import os
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Final

from broker import machine, mosquitto
from crowd import Crowd
from paho.mqtt import client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

LIMIT_S: Final = 120.0
TRIES: Final = 5
PROCESSES: Final = 2  # that play the clients
SMALL: Final = bytes(300)  # a join, a status, a receipt, an announcement
BROADCASTS: Final = 8  # after the updates, the step included: announcements, the coordinator's status, the pointer


def fan_in(size: int, clients: int) -> float:
    """Seconds until one subscriber has ``size`` bytes of each client; the median of some tries."""
    return _median(size, clients, 1, last="update")


def exchange(size: int, clients: int) -> float:
    """Seconds of a round's messages, with ``size`` bytes of each client and as many to it; the median of some tries."""
    return _median(size, clients, 2, last="status")


def _median(size: int, clients: int, kind: int, last: str) -> float:
    with mosquitto() as broker:
        host, port = broker.removeprefix("mqtt://").split(":")
        server = _Server(host, int(port), size, clients, last, answers=kind > 1)
        with _played(host, port, size, clients, kind):
            seconds = [server.once() for _ in range(TRIES)]
        server.close()
    return round(statistics.median(seconds), 3)


class _Server:
    """The one whom all send to; its answers are sent from paho's thread."""

    def __init__(self, host: str, port: int, size: int, clients: int, last: str, *, answers: bool) -> None:
        self._step = os.urandom(size)
        self._clients = clients
        self._last = last
        self._answers = answers
        self._came = dict.fromkeys(("join", "status", "update"), 0)
        self._over = threading.Event()
        ready = threading.Event()
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2)
        self._client.max_inflight_messages_set(0)
        self._client.on_message = lambda _client, _data, message: self._hear(message.topic)
        self._client.on_subscribe = lambda *_: ready.set()
        self._client.connect(host, port)
        sock = self._client.socket()
        assert isinstance(sock, socket.socket)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._client.subscribe("up/#", qos=1)
        self._client.loop_start()
        ready.wait(LIMIT_S)

    def once(self) -> float:
        """Seconds from the first message to the last."""
        self._over.clear()
        self._came = dict.fromkeys(self._came, 0)
        began = time.perf_counter()
        self._client.publish("all/open", SMALL, qos=1)
        if not self._over.wait(LIMIT_S):
            raise SystemExit(f"the bare messages did not arrive within {LIMIT_S:g} s: {self._came}")
        return time.perf_counter() - began

    def close(self) -> None:
        """Hang up."""
        self._client.disconnect()
        self._client.loop_stop()

    def _hear(self, topic: str) -> None:
        _, kind, name = topic.split("/")
        self._came[kind] += 1
        if self._answers and kind == "update":
            self._client.publish(f"to/{name}", SMALL, qos=1)
            if self._came[kind] == self._clients:
                for number in range(BROADCASTS - 1):
                    self._client.publish(f"all/{number}", SMALL, qos=1)
                self._client.publish("all/step", self._step, qos=1)
        wanted = 2 * self._clients if self._last == "status" else self._clients
        if kind == self._last and self._came[kind] == wanted:
            self._over.set()


@contextmanager
def _played(host: str, port: str, size: int, clients: int, kind: int) -> Iterator[None]:
    """Processes of clients, all of them connected."""
    count = min(clients, PROCESSES)
    with ExitStack() as stack:
        children = []
        for number in range(count):
            share = clients // count + (number < clients % count)
            about = map(str, (host, port, share, size, number, kind))
            children.append(stack.enter_context(_piped([sys.executable, __file__, "--be-clients", *about])))
        for child in children:
            assert child.stdout is not None
            child.stdout.readline()
        yield
        for child in children:
            assert child.stdin is not None
            child.stdin.close()


def _piped(command: list[str]) -> AbstractContextManager[subprocess.Popen[str]]:
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def be_clients(host: str, port: int, clients: int, size: int, number: int, kind: int) -> None:
    """A process of them, until standard input closes."""
    crowd, payload = Crowd(host, port), os.urandom(size)
    subscribed: list[str] = []

    def add(name: str) -> None:
        def hear(message: mqtt.MQTTMessage) -> None:
            if message.topic == "all/open":
                if kind > 1:
                    client.publish(f"up/join/{name}", SMALL, qos=1)
                    client.publish(f"up/status/{name}", SMALL, qos=1)
                client.publish(f"up/update/{name}", payload, qos=1)
            elif message.topic == "all/step":
                client.publish(f"up/status/{name}", SMALL, qos=1)

        client = crowd.add(name, hear)
        client.on_subscribe = lambda *_: subscribed.append(name)
        client.subscribe([("all/#", 1), (f"to/{name}", 1)])

    for index in range(clients):
        add(f"bare-{number}-{index}")
        crowd.turn(0.0)
    crowd.join()
    while len(subscribed) < clients:
        crowd.turn(1.0)
    print("ready", flush=True)
    ended: list[bool] = []
    crowd.watch(sys.stdin.fileno(), lambda: ended.append(not os.read(sys.stdin.fileno(), 1)))
    while not any(ended):
        crowd.turn(0.1)


def main() -> None:
    """Measure what is asked for; by itself what ``fleet_scale.py`` has beside its own figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kb", type=float, nargs="*", default=[5.0, 100.0], help="of an update")
    parser.add_argument("--clients", type=int, nargs="*", default=[100, 500, 1000])
    parser.add_argument("--be-clients", nargs=6, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.be_clients:
        host, *about = given.be_clients
        be_clients(host, *map(int, about))
        return
    print(f"# {machine()}; medians of {TRIES} tries")
    print("| update | clients | fan-in s | exchange s |")
    print("|---|---|---|---|")
    for kb in given.kb:
        for clients in given.clients:
            size = round(kb * 1000)
            print(f"| {kb:g} kB | {clients} | {fan_in(size, clients)} | {exchange(size, clients)} |", flush=True)


if __name__ == "__main__":
    main()
