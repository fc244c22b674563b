"""The protocol's MUSTs 10 to 12, who is there: the real coordinator and the real agent over their links.

Each docstring ends with how the test was seen to fail.
"""

from __future__ import annotations

import threading
from itertools import pairwise
from pathlib import Path

import pytest

from coordinator import observers as seen
from edge.agent import Agent
from edge.dataspec import DataSpec
from edge.device import Device
from edge.reactor import Reactor
from edge.store import claim
from schemas import codec
from schemas.link.address import BrokerAddress
from schemas.link.link import Inbound, Link, Sink, Will
from schemas.link.mqtt import MqttLink, MqttSettings
from schemas.messages import CoordinatorState, CoordinatorStatus, DeviceState, DeviceStatus
from schemas.topics import Address, Kind
from tests.edge_scripts import DEVICE, InstantTrainer, announcement, coordinator
from tests.link_bench import QUICK, Ear
from tests.link_mosquitto import Mosquitto
from tests.link_proxy import Proxy
from tests.running_coordinator import RunningCoordinator
from tests.test_agent import World
from tests.test_service import TOPICS

PATIENCE_S = 75.0  # 2.5 heartbeats of 30 s, which a device announces unless told otherwise


@pytest.fixture
def world(tmp_path: Path) -> World:
    world = World(tmp_path)
    world.desk.begin()
    world.turn()
    return world


def statuses(ear: Ear) -> list[DeviceStatus]:
    found = [codec.decode(Kind.DEVICE, inbound.payload) for inbound in ear.all(Inbound)]
    return [one for one in found if isinstance(one, DeviceStatus)]


def test_must_10_on_mosquitto_a_device_is_born_beats_and_leaves_a_will_of_its_session(
    mosquitto: Mosquitto, tmp_path: Path
) -> None:
    """Its cable is cut and mended. Seen to fail with session 0 in the will."""
    proxy, ear = Proxy(mosquitto.port), Ear()
    watcher = MqttLink(MqttSettings(BrokerAddress.parse(mosquitto.address), "watcher"), ear)
    watcher.subscribe(TOPICS.filter(Kind.DEVICE))
    watcher.open()
    ear.until_connected()

    def link(client_id: str, sink: Sink, will: Will) -> Link:
        return MqttLink(MqttSettings(BrokerAddress("127.0.0.1", proxy.port), client_id, backoff=QUICK), sink, will)

    def states() -> list[DeviceState]:
        return [status.state for status in statuses(ear)]

    reactor = Reactor()
    with claim(tmp_path / "device") as session:
        device = Device(DEVICE, session, DataSpec(path="x"), tmp_path / "device", heartbeat_s=0.1)
        reactor.add(Agent(device, TOPICS, link, InstantTrainer(), reactor.post))
        thread = threading.Thread(target=reactor.run)
        thread.start()
        ear.until(lambda: len(statuses(ear)) >= 4, "a birth and heartbeats")
        proxy.cut(bar=True)
        ear.until(lambda: states()[-1:] == [DeviceState.OFFLINE], "the will")
        before = len(statuses(ear))
        proxy.mend()
        ear.until(lambda: len(statuses(ear)) > before, "a second birth")
        reactor.stop()
        thread.join()
        ear.until(lambda: states()[-1:] == [DeviceState.STOPPED], "the farewell")
    watcher.close()
    proxy.close()
    assert {status.session for status in statuses(ear)} == {session}
    assert states().count(DeviceState.OFFLINE) == 1
    assert states()[before] is DeviceState.IDLE
    with claim(tmp_path / "device", wall_clock=lambda: 0.0) as again:
        assert again > session


def test_must_10_a_device_with_nothing_to_say_beats_every_heartbeat(world: World) -> None:
    """And at once after a reconnect. Seen to fail with twice the heartbeat in ``participation._show``, and without
    ``shown=None`` in ``_take``.
    """
    world.turn(1.0)  # what was still to be said of the start
    times: list[float] = []
    for second in range(100):
        world.desk.say(Kind.COORDINATOR, coordinator())
        before = len(world.desk.statuses)
        world.turn(1.0)
        times += [float(second)] * (len(world.desk.statuses) - before)
    assert [after - before for before, after in pairwise(times)] == [30.0, 30.0]
    before = len(world.desk.statuses)
    world.broker.cut(DEVICE)
    world.broker.advance(300.0)  # the device's own clock doesn't move
    world.turn()
    assert [one.state for one in world.desk.statuses[before:]] == [DeviceState.OFFLINE, DeviceState.IDLE]
    assert {status.session for status in world.desk.statuses} == {1}


def retained_status(running: RunningCoordinator) -> CoordinatorStatus:
    message = codec.decode(Kind.COORDINATOR, running.broker.retained[TOPICS.topic(Address(Kind.COORDINATOR))])
    assert isinstance(message, CoordinatorStatus)
    return message


def come_back(running: RunningCoordinator) -> None:
    """Let the coordinator in again, and wait until it says so."""
    running.broker.mend("coordinator")
    running.broker.advance(300.0)
    running.until(lambda: retained_status(running).state is CoordinatorState.RUNNING, "its return")


def test_must_10_a_coordinator_leaves_a_will_of_its_session_and_says_that_it_is_back(tmp_path: Path) -> None:
    """Seen to fail with a will of session 0, and without ``beat`` at a connect."""

    sessions: list[int] = []
    for _ in range(2):
        with RunningCoordinator(tmp_path / "state") as running:
            sessions.append(retained_status(running).session)
            running.broker.cut("coordinator", bar=True)
            assert (retained_status(running).state, retained_status(running).session) == (
                CoordinatorState.OFFLINE,
                sessions[-1],
            )
            come_back(running)
            assert retained_status(running).session == sessions[-1]
        assert retained_status(running).state is CoordinatorState.STOPPED
    assert sessions[0] < sessions[1]


def test_must_11_a_coordinator_ignores_a_will_of_another_session_than_the_newest(tmp_path: Path) -> None:
    """Seen to fail without the comparison of sessions in ``Fleet.hear``."""
    with RunningCoordinator(tmp_path / "state") as running:
        running.status("dev-1", DeviceState.IDLE, session=5)
        running.status("dev-1", DeviceState.OFFLINE, session=4)
        running.handled()
        assert running.of(seen.FleetSeen) == [seen.FleetSeen(1, 1, 0)]
        running.status("dev-1", DeviceState.OFFLINE, session=5)
        running.handled()
        assert running.of(seen.FleetSeen)[1:] == [seen.FleetSeen(0, 0, 0)]


@pytest.mark.parametrize(
    ("newest", "stale", "answers"),
    [
        (CoordinatorState.RUNNING, CoordinatorState.OFFLINE, True),
        (CoordinatorState.OFFLINE, CoordinatorState.RUNNING, False),
    ],
)
def test_must_11_a_device_ignores_a_coordinators_status_of_an_earlier_session(
    world: World, newest: CoordinatorState, stale: CoordinatorState, *, answers: bool
) -> None:
    """Seen to fail without the comparison of sessions in ``contact.coordinator_seen``."""
    world.desk.say(Kind.COORDINATOR, coordinator(session=3, state=newest))
    world.desk.say(Kind.COORDINATOR, coordinator(session=2, state=stale))
    world.turn()
    world.desk.announce(announcement(1))
    world.turn()
    assert bool(world.desk.joins) is answers


@pytest.mark.parametrize("state", DeviceState)
def test_must_12_a_device_counts_only_in_a_state_in_which_it_can_take_part(tmp_path: Path, state: DeviceState) -> None:
    """Seen to fail with ``PAUSED`` left out of ``fleet.AWAY``."""
    away = {DeviceState.OFFLINE, DeviceState.STOPPED, DeviceState.PAUSED, DeviceState.TROUBLE}
    with RunningCoordinator(tmp_path / "state", quorum=1, goal=1) as running:
        running.status("dev-1", state)
        running.handled()
        running.skip(2.0)
        assert len(running.of(seen.RoundOpened)) == (state not in away)


def test_must_12_a_device_that_is_not_heard_for_more_than_two_and_a_half_heartbeats_does_not_count(
    tmp_path: Path,
) -> None:
    """Until it is heard again; what the broker had kept is no sign of life. Seen to fail with ``PATIENCE`` 3 and 2."""
    with RunningCoordinator(tmp_path / "state", deadline_s=600.0) as running:
        running.status("dev-1", DeviceState.IDLE)
        running.handled()
        running.skip(PATIENCE_S)
        assert running.of(seen.FleetSeen) == [seen.FleetSeen(1, 1, 0)]
        running.skip(1.0)
        assert running.of(seen.FleetSeen)[1:] == [seen.FleetSeen(0, 0, 0)]
        running.broker.cut("coordinator")
        running.broker.advance(300.0)
        running.until(lambda: running.count(seen.Connected) == 2, "its return")
        running.handled()
        assert len(running.of(seen.FleetSeen)) == 2
        running.status("dev-1", DeviceState.IDLE)
        running.handled()
        assert running.of(seen.FleetSeen)[2:] == [seen.FleetSeen(1, 1, 0)]
