"""A topic of a real mosquitto."""

from __future__ import annotations

import subprocess

import pytest

from edge.live.source import SourceLost
from schemas.errors import SettingsError
from schemas.link.address import BrokerAddress
from schemas.link.mqtt_settings import MqttSettings
from tests.link_mosquitto import Mosquitto, program
from tests.live_reading import gather, opened, values
from tests.waiting import until


def publish(broker: Mosquitto, payload: str, *more: str) -> None:
    subprocess.run(
        [program("mosquitto_pub"), "-p", str(broker.port), "-t", "ward/7/ecg", "-m", payload, *more], check=True
    )


def test_each_message_is_a_sample_or_many_and_old_ones_are_not_taken(mosquitto: Mosquitto) -> None:
    publish(mosquitto, "99", "--retain")
    with opened(f"mqtt:ward/7/ecg?rate=250&broker={mosquitto.address}") as source:
        heard: list[float] = []

        def listening() -> bool:
            publish(mosquitto, "0")
            if (chunk := source.read(0.05)) is not None:
                heard.extend(chunk.samples[0])
            return 0.0 in heard

        until(listening, "the subscription")
        while (chunk := source.read(0.2)) is not None:
            heard.extend(chunk.samples[0])
        assert set(heard) == {0.0}
        publish(mosquitto, "1\n2\n3")
        publish(mosquitto, "4")
        assert values(gather(source, 4)) == [1, 2, 3, 4]


def test_the_devices_own_broker_is_taken_where_none_is_named(mosquitto: Mosquitto) -> None:
    def own(client_id: str) -> MqttSettings:
        return MqttSettings(BrokerAddress.parse(mosquitto.address), client_id)

    with opened("mqtt:ward/7/ecg?rate=250", own) as source:

        def listening() -> bool:
            publish(mosquitto, "5")
            return source.read(0.05) is not None

        until(listening, "a sample")


def test_a_topic_that_nobody_can_subscribe_to_and_a_missing_broker_are_told() -> None:
    with pytest.raises(SettingsError, match="no broker is given: add broker="), opened("mqtt:topic?rate=250"):
        pass
    with pytest.raises(SettingsError, match="can't be used"), opened("mqtt:a/#/b?rate=250&broker=mqtt://localhost"):
        pass


def test_a_broker_that_will_never_take_us_is_told(mosquitto: Mosquitto) -> None:
    mosquitto.stop()
    config = mosquitto._config
    config.write_text(config.read_text().replace("allow_anonymous true", "allow_anonymous false"))
    mosquitto.start()
    with opened(f"mqtt:topic?rate=250&broker={mosquitto.address}") as source, pytest.raises(SourceLost):
        until(lambda: source.read(0.1), "the refusal")
