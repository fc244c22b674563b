"""What a broker and paho need for messages alone: no journal, no rules, nothing read or checked.

    python benchmarks/bare.py --kb 5 --clients 1000

``fan_in`` is one message from each client to one subscriber. ``exchange`` is as many messages each way as a round of
Fedbeat has, one after the other as there: a broadcast that opens it; of each client the update, and of the server a
receipt; a broadcast that names the step to the new model, which each client subscribes to, gets and leaves; and of each
client a join, which begins the next round. Statuses come every ten seconds there, so there are none here.
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

from broker import end_together, machine, mosquitto
from crowd import Crowd
from paho.mqtt import client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

LIMIT_S: Final = 120.0
TRIES: Final = 5
PROCESSES: Final = 2  # that play the clients
SMALL: Final = bytes(300)  # a join, a receipt, a pointer, an announcement


def fan_in(size: int, clients: int) -> float:
    """Seconds until one subscriber has ``size`` bytes of each client; the median of some tries."""
    return _median(size, clients, last="update")


def exchange(size: int, clients: int) -> float:
    """Seconds of a round's messages, with ``size`` bytes of each client and as many to it; the median of some tries."""
    return _median(size, clients, last="join")


def _median(size: int, clients: int, last: str) -> float:
    with mosquitto() as broker:
        host, port = broker.removeprefix("mqtt://").split(":")
        server = _Server(host, int(port), size, clients, last)
        with _played(host, port, size, clients):
            seconds = [server.once() for _ in range(TRIES)]
        server.close()
    return round(statistics.median(seconds), 3)


class _Server:
    """The one whom all send to; its answers are sent from paho's thread."""

    def __init__(self, host: str, port: int, size: int, clients: int, last: str) -> None:
        self._step, self._round = os.urandom(size), 0
        self._clients = clients
        self._last = last
        self._came = dict.fromkeys(("join", "update"), 0)
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
        if kind == "update" and self._last == "join":
            self._client.publish(f"to/{name}", SMALL, qos=1)
            if self._came[kind] == self._clients:
                self._round += 1
                self._client.publish(f"step/{self._round}", self._step, qos=1, retain=True)
                self._client.publish(f"all/pointer/{self._round}", SMALL, qos=1)
        if kind == self._last and self._came[kind] == self._clients:
            self._over.set()


@contextmanager
def _played(host: str, port: str, size: int, clients: int) -> Iterator[None]:
    """Processes of clients, all of them connected."""
    count = min(clients, PROCESSES)
    with ExitStack() as stack:
        children = []
        for number in range(count):
            share = clients // count + (number < clients % count)
            about = map(str, (host, port, share, size, number))
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


def be_clients(host: str, port: int, clients: int, size: int, number: int) -> None:
    """A process of them, until standard input closes."""
    crowd, payload = Crowd(host, port), os.urandom(size)
    subscribed: list[str] = []

    def add(name: str) -> None:
        def hear(message: mqtt.MQTTMessage) -> None:
            match message.topic.split("/"):
                case "all", "open":
                    client.publish(f"up/update/{name}", payload, qos=1)
                case "all", "pointer", number:
                    client.subscribe(f"step/{number}", qos=1)
                case "step", number:
                    client.unsubscribe(f"step/{number}")
                    client.publish(f"up/join/{name}", SMALL, qos=1)

        client = crowd.add(name, hear)
        client.on_subscribe = lambda *_: subscribed.append(name)  # counted until all have their first
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
    parser.add_argument("--be-clients", nargs=5, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.be_clients:
        host, *about = given.be_clients
        be_clients(host, *map(int, about))
        return
    end_together()
    print(f"# {machine()}; medians of {TRIES} tries")
    print("| update | clients | fan-in s | exchange s |")
    print("|---|---|---|---|")
    for kb in given.kb:
        for clients in given.clients:
            size = round(kb * 1000)
            print(f"| {kb:g} kB | {clients} | {fan_in(size, clients)} | {exchange(size, clients)} |", flush=True)


if __name__ == "__main__":
    main()
