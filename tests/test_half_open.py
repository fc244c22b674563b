"""Peers behind a connection that stays open and carries nothing: either side notices within 2.5 keepalives."""

from __future__ import annotations

import threading
import time
from pathlib import Path

from coordinator import observers as seen
from edge.agent import Agent
from edge.dataspec import DataSpec
from edge.device import Device
from edge.reactor import Reactor
from schemas import codec
from schemas.link.address import BrokerAddress
from schemas.link.link import Disconnected, Event, Inbound, Link, Sink, Will
from schemas.link.mqtt import MqttLink, MqttSettings
from schemas.messages import CoordinatorState, CoordinatorStatus, DeviceState, DeviceStatus
from schemas.topics import Kind
from tests.edge_scripts import DEVICE, InstantTrainer
from tests.link_bench import QUICK, Ear
from tests.link_mosquitto import Mosquitto
from tests.link_proxy import Proxy
from tests.running_coordinator import RunningCoordinator
from tests.test_service import TOPICS

KEEPALIVE_S = 3
NOTICED_S = 2.5 * KEEPALIVE_S


def through(proxy: Proxy, client_id: str, sink: Sink, will: Will | None) -> MqttLink:
    address = BrokerAddress("127.0.0.1", proxy.port)
    return MqttLink(MqttSettings(address, client_id, keepalive_s=KEEPALIVE_S, backoff=QUICK), sink, will, gated=False)


def listener(mosquitto: Mosquitto, kind: Kind) -> tuple[MqttLink, Ear]:
    ear = Ear()
    link = MqttLink(MqttSettings(BrokerAddress.parse(mosquitto.address), "listener"), ear)
    link.subscribe(TOPICS.filter(kind))
    link.open()
    ear.until_connected()
    return link, ear


def states(ear: Ear, kind: Kind) -> list[CoordinatorState | DeviceState]:
    found = [codec.decode(kind, inbound.payload) for inbound in ear.all(Inbound)]
    return [one.state for one in found if isinstance(one, CoordinatorStatus | DeviceStatus)]


def test_a_frozen_coordinator_link_is_noticed_by_both_ends(mosquitto: Mosquitto, tmp_path: Path) -> None:
    """Its last will is published, and it knows itself. Seen to fail with a keepalive of 30 s."""
    proxy = Proxy(mosquitto.port)
    link, ear = listener(mosquitto, Kind.COORDINATOR)
    with RunningCoordinator(
        tmp_path / "state", make_link=lambda sink, will: through(proxy, "coordinator", sink, will)
    ) as running:
        ear.until(lambda: states(ear, Kind.COORDINATOR)[-1:] == [CoordinatorState.RUNNING], "its status")
        proxy.freeze()
        deadline = time.monotonic() + NOTICED_S
        running.until(lambda: running.count(seen.Disconnected) > 0 or time.monotonic() > deadline, "that it notices")
        ear.until(
            lambda: states(ear, Kind.COORDINATOR)[-1] is CoordinatorState.OFFLINE or time.monotonic() > deadline, "will"
        )
        assert running.count(seen.Disconnected) > 0
        assert states(ear, Kind.COORDINATOR)[-1] is CoordinatorState.OFFLINE
        proxy.thaw()
        ear.until(lambda: states(ear, Kind.COORDINATOR)[-1] is CoordinatorState.RUNNING, "its return")
    link.close()
    proxy.close()


def test_a_frozen_device_link_is_noticed_by_both_ends(mosquitto: Mosquitto, tmp_path: Path) -> None:
    """Seen to fail with a keepalive of 30 s."""
    proxy = Proxy(mosquitto.port)
    link, ear = listener(mosquitto, Kind.DEVICE)
    lost: list[Disconnected] = []

    def connect(client_id: str, sink: Sink, will: Will) -> Link:
        def pass_on(event: Event) -> None:
            lost.extend([event] if isinstance(event, Disconnected) else [])
            sink(event)

        return through(proxy, client_id, pass_on, will)

    reactor = Reactor()
    device = Device(DEVICE, 1, DataSpec(path="x"), tmp_path / "device", heartbeat_s=600.0)
    reactor.add(Agent(device, TOPICS, connect, InstantTrainer(), reactor.post))
    thread = threading.Thread(target=reactor.run)
    thread.start()
    ear.until(lambda: states(ear, Kind.DEVICE)[-1:] == [DeviceState.IDLE], "its birth")
    proxy.freeze()
    deadline = time.monotonic() + NOTICED_S
    ear.until(
        lambda: (bool(lost) and states(ear, Kind.DEVICE)[-1] is DeviceState.OFFLINE) or time.monotonic() > deadline,
        "that it is noticed",
    )
    assert lost
    assert states(ear, Kind.DEVICE)[-1] is DeviceState.OFFLINE
    proxy.thaw()
    ear.until(lambda: states(ear, Kind.DEVICE)[-1] is DeviceState.IDLE, "its return")
    reactor.stop()
    thread.join()
    link.close()
    proxy.close()
