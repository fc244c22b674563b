"""A broker that takes messages of any size passes them on: what is too large for anybody here costs no memory."""

from __future__ import annotations

import socket
import threading
from pathlib import Path

import psutil

from schemas.link.address import BrokerAddress
from schemas.link.link import Disconnected
from schemas.link.mqtt import MqttLink, MqttSettings
from tests.link_bench import Ear
from tests.running_commands import EDGE, Running

CONNACK = b"\x20\x03\x00\x00\x00"
LARGEST = b"\xff\xff\xff\x7f"  # the remaining length of 256 MB that a packet may have
SIZE = 2**28 - 1
AFTER = b"\x30\x05\x00\x01t\x00x"


def hostile(listener: socket.socket, done: threading.Event) -> None:
    """A broker that sends one message of 256 MB at QoS 1, then a small one, to the first who connects."""
    client, _ = listener.accept()
    with client:
        client.recv(1000)
        head = b"\x00\x01t\x00\x07\x00"
        client.sendall(CONNACK + b"\x32" + LARGEST + head)
        block, left = bytes(2**20), SIZE - len(head)
        while left:
            client.sendall(block[:left])
            left -= min(left, len(block))
        client.sendall(AFTER)
        done.wait(60.0)


def test_of_a_message_that_is_too_large_the_start_comes_and_the_connection_stays() -> None:
    """A retained one would else break each connection, for ever. Seen to fail without ``_packet_read``: all came."""
    ear, done = Ear(), threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=hostile, args=(listener, done), daemon=True)
        thread.start()
        link = MqttLink(
            MqttSettings(BrokerAddress.parse(f"mqtt://127.0.0.1:{listener.getsockname()[1]}"), "dev-1"), ear
        )
        link.open()
        ear.until(lambda: ear.payloads("t")[-1:] == [b"x"], "what came after it")
        sizes = [len(payload) for payload in ear.payloads("t")]
        done.set()
        link.close()
        thread.join()
    assert len(sizes) == 2
    assert 256 * 1024 < sizes[0] < 8 * 2**20


def test_a_device_keeps_its_memory_whatever_a_broker_sends(tmp_path: Path) -> None:
    """Seen to fail without ``_packet_read``: 303 MB, where an idle device has 44."""
    done = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=hostile, args=(listener, done), daemon=True)
        thread.start()
        words = ("--broker", f"mqtt://127.0.0.1:{listener.getsockname()[1]}", "--data", "watch", "--device", "dev-one")
        with Running(*EDGE, "run", *words, "--state", "one", cwd=tmp_path) as device:
            device.wait_for("ignored a message")
            resident = psutil.Process(device.pid).memory_info().rss
        done.set()
        thread.join()
    assert resident < 120e6


def test_messages_at_qos_2_end_the_connection() -> None:
    """Nobody asks for them, and paho keeps what is never released. Seen to fail without ``_QOS_2``: it went on."""
    ear, done = Ear(), threading.Event()

    def broker() -> None:
        with listener.accept()[0] as client:
            client.recv(1000)
            client.sendall(CONNACK + b"\x34\x07\x00\x01t\x00\x01\x00x")
            done.wait(60.0)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=broker)
        thread.start()
        link = MqttLink(
            MqttSettings(BrokerAddress.parse(f"mqtt://127.0.0.1:{listener.getsockname()[1]}"), "dev-1"), ear
        )
        link.open()
        ear.until(lambda: bool(ear.all(Disconnected)), "the end of the connection")
        done.set()
        link.close()
        thread.join()
    assert "broke" in str(ear.all(Disconnected)[0].error)
