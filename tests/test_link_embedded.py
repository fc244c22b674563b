from __future__ import annotations

import importlib.util
import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from schemas.errors import LinkError
from schemas.link.address import BrokerAddress
from schemas.link.embedded import EmbeddedBroker
from schemas.link.link import Connected, Inbound, Will
from schemas.link.mqtt import MqttLink, MqttSettings
from tests.link_bench import Ear
from tests.link_mosquitto import accepts


def test_it_accepts_once_entered_and_is_gone_once_left() -> None:
    with EmbeddedBroker() as broker:
        assert accepts(broker.port)
        assert BrokerAddress.parse(broker.address) == BrokerAddress("127.0.0.1", broker.port)
    assert not accepts(broker.port)


def test_two_of_them_do_not_disturb_each_other() -> None:
    with EmbeddedBroker() as one, EmbeddedBroker() as other:
        assert one.port != other.port


def test_it_dies_with_its_parent_even_when_that_is_killed() -> None:
    code = (
        "from schemas.link.embedded import EmbeddedBroker\n"
        "import time\n"
        "with EmbeddedBroker() as broker:\n"
        "    print(broker.port, flush=True)\n"
        "    time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        port = int(parent.stdout.readline())
        assert accepts(port)
        parent.send_signal(signal.SIGKILL)
    Ear().until(lambda: not accepts(port), "its end")


def test_a_ctrl_c_for_its_parent_does_not_reach_it() -> None:
    with EmbeddedBroker() as broker:
        assert broker.pid is not None
        assert os.getpgid(broker.pid) != os.getpgid(0)


def test_without_amqtt_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(LinkError, match=r"fedbeat\[virtual\]"):
        EmbeddedBroker().__enter__()


def test_a_child_that_fails_to_start_is_reported_with_its_last_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(LinkError, match="doesn't start"):
        EmbeddedBroker().__enter__()
    monkeypatch.setattr(sys, "executable", "/nonexistent/python")
    with pytest.raises(LinkError, match="can't start"):
        EmbeddedBroker().__enter__()


def test_an_mqtt_5_client_with_a_will_is_turned_to_mqtt_3_1_1_at_once() -> None:
    with EmbeddedBroker() as broker:
        ear = Ear()
        link = MqttLink(MqttSettings(BrokerAddress("127.0.0.1", broker.port), "me-one"), ear, Will("a", b"b" * 1000))
        began = time.monotonic()
        link.open()
        ear.until_connected()
        assert time.monotonic() - began < 2.0
        assert ear.events == [Connected()]
        link.close()


@pytest.mark.parametrize(
    "nonsense",
    [
        b"",
        b"\x10",
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x10\xff\xff\xff\xff\xff",
        b"\x10\x00",
        b"\x10\xff\xff\xff\x7f",
        b"\x30\x03\x00\x01a",
    ],
)
def test_nonsense_on_its_port_harms_nobody(nonsense: bytes) -> None:
    with EmbeddedBroker() as broker:
        with socket.create_connection(("127.0.0.1", broker.port), timeout=5.0) as stranger:
            stranger.sendall(nonsense)
            stranger.shutdown(socket.SHUT_WR)
            assert stranger.recv(10) == b""
        ear = Ear()
        link = MqttLink(MqttSettings(BrokerAddress("127.0.0.1", broker.port), "me-one"), ear)
        link.subscribe("t")
        link.open()
        ear.until_heard(b"well", nudge=lambda: link.publish("t", b"well"))
        assert {message.topic for message in ear.all(Inbound)} == {"t"}
        link.close()
