"""A program that stood still leaves its connection before it writes another word over it."""

from __future__ import annotations

import pytest

from schemas.link import mqtt_connection
from schemas.link.address import BrokerAddress
from schemas.link.link import Connected, Disconnected, Inbound, Will
from schemas.link.mqtt import MqttLink, MqttSettings
from schemas.link.standstill import Standstill
from tests.link_bench import QUICK, Ear
from tests.link_mosquitto import Mosquitto


def test_a_standstill_is_a_longer_time_between_two_looks_than_may_be() -> None:
    """And over once it has been told. Seen to fail with what lasted before kept."""
    times = iter([0.0, 2.0, 4.5, 6.5])
    standstill = Standstill(2.0, lambda: next(times))
    found = [(standstill.over(), standstill.lasted_s) for _ in range(3)]
    assert found == [(False, 0.0), (True, 2.5), (False, 0.0)]


@pytest.mark.parametrize(
    ("looks", "said"), [([9.5], [b"before", b"after"]), ([0.0, 9.5], [b"before", b"will", b"after"])]
)
def test_nothing_is_written_over_a_connection_that_its_program_has_slept_through(
    mosquitto: Mosquitto, monkeypatch: pytest.MonkeyPatch, looks: list[float], said: list[bytes]
) -> None:
    """Nor its last will, where it can say goodbye: it slept before it took up what is stale, not while it wrote that.

    Seen to fail without ``over`` in the connection's loop, and where the socket sent what was left as it closed.
    """
    slept: list[float] = []  # as the next looks find it, the last one first

    class Told(Standstill):
        def over(self) -> bool:
            self.lasted_s = slept.pop() if slept else 0.0
            return self.lasted_s > 0.0

    address = BrokerAddress.parse(mosquitto.address)
    hearer, heard = MqttLink(MqttSettings(address, "hearer"), ear := Ear()), ear
    hearer.subscribe("t/#")
    hearer.open()
    heard.until_connected()
    monkeypatch.setattr(mqtt_connection, "Standstill", Told)  # of the connections to come: not of the hearer's
    ear = Ear()
    link = MqttLink(MqttSettings(address, "sleeper", backoff=QUICK), ear, Will("t/x", b"will"), gated=True)
    link.open()
    ear.until_connected()
    link.release(1)
    ear.until_sent(link.publish("t/x", b"before", retain=True))
    slept.extend(reversed(looks))
    link.publish("t/x", b"stale", retain=True)
    ear.until_connected(2)
    (broke,) = ear.all(Disconnected)
    assert "stood still for 9.5 s" in str(broke.error)
    link.release(ear.all(Connected)[-1].connection)
    ear.until_sent(link.publish("t/x", b"after", retain=True))
    heard.until_heard(*said)
    assert [message.payload for message in heard.all(Inbound)] == said
    link.close()
    hearer.close()
