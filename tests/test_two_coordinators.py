"""Two coordinators on one federation, as processes of their own on mosquitto: one serves, the other ends and says why.

The protocol's MUSTs 27 to 29. Each docstring ends with how the test was seen to fail.
"""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from coordinator import observers as seen
from schemas import codec
from schemas.link.address import BrokerAddress
from schemas.link.link import Inbound
from schemas.link.mqtt import MqttLink, MqttSettings
from schemas.messages import CoordinatorState, CoordinatorStatus, DeviceState, DeviceStatus, RunSettings
from schemas.topics import Address, Kind
from tests.link_bench import Ear
from tests.link_mosquitto import ROOT, Mosquitto, program
from tests.running_commands import COORDINATOR, Running, coordinator_status
from tests.running_coordinator import RunningCoordinator
from tests.test_service import TOPICS, run_settings
from tests.waiting import until

BEAT_S = 0.5
BEATS = ("--heartbeat", str(BEAT_S), "--idle-heartbeat", str(BEAT_S))
START = (*COORDINATOR, "start", "--plan", "watch", "--deadline", "600", "--json", *BEATS)
OUTCOMES = {"another coordinator", "a newer coordinator"}


def start(home: Path, broker: str, state: str, *more: str) -> Running:
    return Running(*START, "--broker", broker, "--state", state, *more, cwd=home)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    directory = tmp_path / "home"
    directory.mkdir()
    return directory


@pytest.fixture
def named(tmp_path: Path) -> Iterator[Mosquitto]:
    """mosquitto with our own configuration: a connection is known by its user name, and that is `coordinator`."""
    passwords = tmp_path / "passwd"
    subprocess.run([program("mosquitto_passwd"), "-b", "-c", str(passwords), "coordinator", "secret"], check=True)
    passwords.chmod(0o644)
    config = (ROOT / "mosquitto" / "mosquitto.conf").read_text(encoding="utf-8")
    config = config.replace("/etc/mosquitto/passwd", str(passwords))
    config = config.replace("/etc/mosquitto/acl", str(ROOT / "mosquitto" / "acl"))
    directory = tmp_path / "named"
    directory.mkdir()
    with Mosquitto(directory, config) as broker:
        yield broker


def serving(broker: str, ear: Ear) -> MqttLink:
    """Somebody who listens to the status, for tests to wait for what it says."""
    link = MqttLink(MqttSettings(BrokerAddress.parse(broker), "listener"), ear)
    link.subscribe(TOPICS.filter(Kind.COORDINATOR))
    link.open()
    ear.until_connected()
    return link


def statuses(ear: Ear) -> list[CoordinatorStatus]:
    found = [codec.decode(Kind.COORDINATOR, inbound.payload) for inbound in ear.all(Inbound) if inbound.payload]
    return [one for one in found if isinstance(one, CoordinatorStatus)]


def test_must_29_a_second_coordinator_is_refused_and_the_first_goes_on_unharmed(
    home: Path, mosquitto: Mosquitto
) -> None:
    """It has but asked, and the answer comes at once, however seldom the first says its status.

    Seen to fail without ``look`` in ``start``, and without a question in ``office``: it waited for 75 s then.
    """
    ear = Ear()
    listener = serving(mosquitto.address, ear)
    with start(home, mosquitto.address, "first", "--heartbeat", "3000") as first:
        first.wait_for('"connected"')
        ear.until(lambda: bool(statuses(ear)), "its status")
        ours = statuses(ear)[0]
        second = start(home, mosquitto.address, "second").end()
        second.says(6, f"another coordinator (run {ours.run}, session {ours.session}, since ", "choose another --fed")
        first.send(signal.SIGTERM)
        done = first.end()
    listener.close()
    assert done.code == 0
    assert '"disconnected"' not in done.out
    assert '"message_rejected"' not in done.out
    assert {status.instance for status in statuses(ear)} == {ours.instance}
    assert {status.session for status in statuses(ear)} == {ours.session}


def test_must_29_where_names_are_users_a_second_coordinator_is_refused_and_the_first_comes_back(
    home: Path, named: Mosquitto
) -> None:
    """Its connection ends the first one's, which comes back and says so: that is the sign of life.

    Seen to fail without ``said_anew`` in ``leadership``: the first one gives up then. And without ``listen_no_more`` in
    ``office.connected``: the second one's subscriptions stay in the session, and the first hears all that it publishes.
    """
    address = named.address.replace("mqtt://", "mqtt://coordinator:secret@")
    with start(home, address, "first") as first:
        first.wait_for('"connected"')
        start(home, address, "second").end().says(6, "another coordinator (run ")
        first.wait_for('"disconnected"')
        first.wait_for('"connected"')
        first.send(signal.SIGTERM)
        done = first.end()
    assert done.code == 0
    assert '"message_rejected"' not in done.out


@pytest.mark.parametrize("names", ["own", "users"])
def test_must_30_of_two_that_start_at_once_exactly_one_stays(
    home: Path, request: pytest.FixtureRequest, names: str
) -> None:
    """Seen to fail without ``GiveUp`` in ``leadership._sees`` where there is no ``look`` in ``start`` either."""
    broker: Mosquitto = request.getfixturevalue("mosquitto" if names == "own" else "named")
    address = broker.address if names == "own" else broker.address.replace("mqtt://", "mqtt://coordinator:secret@")
    with start(home, address, "first") as first, start(home, address, "second") as second:
        both = [first, second]
        until(lambda: any(one._child.poll() is not None for one in both), "one of them to end")
        gone = next(one for one in both if one._child.poll() is not None)
        done = gone.end()
        assert any(words in done.says(6, "coordinator (run ") for words in OUTCOMES)
        (stays,) = [one for one in both if one is not gone]
        stays.wait_for('"connected"')
        stays.send(signal.SIGTERM)
        assert stays.end().code == 0


def test_must_29_a_killed_coordinator_is_followed_by_another_one_or_by_itself(home: Path, mosquitto: Mosquitto) -> None:
    """The other waits for a sign of life where the broker knows of no end, and takes a higher session.

    Seen to fail without ``renew_session`` in ``service``, and with a comparison of runs instead of instances.
    """
    with start(home, mosquitto.address, "first") as first:
        first.wait_for('"connected"')
        until(lambda: coordinator_status(mosquitto.port).state is CoordinatorState.RUNNING, "its status")
        ours = coordinator_status(mosquitto.port)
        first.send(signal.SIGKILL)
        first.end()
    high = ours.model_copy(update={"session": ours.session + 10**6})  # of a machine whose clock was ahead
    writer = MqttLink(MqttSettings(BrokerAddress.parse(mosquitto.address), "writer"), ear := Ear())
    writer.open()
    ear.until_sent(writer.publish(TOPICS.topic(Address(Kind.COORDINATOR)), codec.encode(high), retain=True))
    writer.close()
    with start(home, mosquitto.address, "second") as second:
        doubted = json.loads(second.wait_for('"rival_doubted"'))
        assert (doubted["run"], doubted["wait_s"]) == (ours.run, 2.5 * BEAT_S)
        second.wait_for('"rival_replaced"')
        second.wait_for('"connected"')
        until(lambda: coordinator_status(mosquitto.port).instance != ours.instance, "its status")
        assert coordinator_status(mosquitto.port).session > high.session
        second.send(signal.SIGKILL)
        second.end()
    with start(home, mosquitto.address, "second") as again:
        again.wait_for('"connected"')
        again.send(signal.SIGTERM)
        done = again.end()
    assert done.code == 0
    assert '"rival_doubted"' not in done.out


@pytest.mark.parametrize("state", [CoordinatorState.OFFLINE, CoordinatorState.STOPPED])
def test_must_30_one_that_serves_goes_on_above_a_higher_one_that_has_ended(
    home: Path, mosquitto: Mosquitto, state: CoordinatorState
) -> None:
    """Its will or its farewell may come late, and devices follow its session. Seen to fail with an end for good."""
    with start(home, mosquitto.address, "first") as first:
        first.wait_for('"connected"')
        until(lambda: coordinator_status(mosquitto.port).state is CoordinatorState.RUNNING, "its status")
        ours = coordinator_status(mosquitto.port)
        late = ours.model_copy(update={"session": ours.session + 10, "instance": "f" * 16, "state": state})
        writer = MqttLink(MqttSettings(BrokerAddress.parse(mosquitto.address), "writer"), ear := Ear())
        writer.open()
        ear.until_sent(writer.publish(TOPICS.topic(Address(Kind.COORDINATOR)), codec.encode(late), retain=True))
        writer.close()
        until(lambda: coordinator_status(mosquitto.port).session > late.session, "its higher session")
        until(lambda: coordinator_status(mosquitto.port).state is CoordinatorState.RUNNING, "its service")
        now = coordinator_status(mosquitto.port)
        assert (now.run, now.instance) == (ours.run, ours.instance)
        first.send(signal.SIGTERM)
        assert first.end().code == 0


def test_must_30_one_that_stood_still_while_another_took_over_wakes_without_a_word(
    home: Path, mosquitto: Mosquitto
) -> None:
    """For less than its keepalive, so that its connection stands: what it then finds due is another one's to say.

    Seen to fail without ``standstill_s`` in ``start``: its status stood in the other's place until that answered.
    """
    ear = Ear()
    listener = serving(mosquitto.address, ear)
    with start(home, mosquitto.address, "first") as first:
        first.wait_for('"connected"')
        until(lambda: coordinator_status(mosquitto.port).state is CoordinatorState.RUNNING, "its status")
        ours = coordinator_status(mosquitto.port)
        first.send(signal.SIGSTOP)
        with start(home, mosquitto.address, "second") as second:
            second.wait_for('"rival_replaced"')
            second.wait_for('"connected"')
            ear.until(lambda: statuses(ear)[-1].instance != ours.instance, "the other's status")
            before = len(statuses(ear))
            first.send(signal.SIGCONT)
            first.end().says(6, f"a newer coordinator (run {statuses(ear)[-1].run}, session ")
            second.send(signal.SIGTERM)
            assert second.end().code == 0
    ear.until(lambda: statuses(ear)[-1].state is CoordinatorState.STOPPED, "the other's end")
    listener.close()
    wills = CoordinatorState.OFFLINE  # which are the broker's to say, where the stop came in the middle of a word
    assert ours.instance not in {status.instance for status in statuses(ear)[before:] if status.state is not wills}


def foreign(running: RunningCoordinator, **changes: object) -> CoordinatorStatus:
    """Another instance's status, put where ours stands."""
    ours = retained(running)
    other = ours.model_copy(update={"instance": "f" * 16, "run": "run-other", **changes})
    running.say(Address(Kind.COORDINATOR), codec.encode(other), retain=True)
    return other


def retained(running: RunningCoordinator) -> CoordinatorStatus:
    message = codec.decode(Kind.COORDINATOR, running.broker.retained[TOPICS.topic(Address(Kind.COORDINATOR))])
    assert isinstance(message, CoordinatorStatus)
    return message


def test_must_30_it_goes_on_above_a_higher_session_that_nobody_shows_any_more(tmp_path: Path) -> None:
    """Its own status may reach the broker after the other's will, and hide it. Seen to fail without a note of it."""
    with RunningCoordinator(tmp_path / "state") as running:
        other = foreign(running, session=retained(running).session + 70, state=CoordinatorState.OFFLINE)
        with pytest.raises(Exception, match="a newer coordinator"):
            running.result()
    with RunningCoordinator(tmp_path / "state") as again:
        assert retained(again).session > other.session


def test_must_30_a_higher_session_ends_a_coordinator_at_once_and_without_a_word(tmp_path: Path) -> None:
    """Seen to fail with a farewell for ``Superseded`` too."""
    with RunningCoordinator(tmp_path / "state") as running:
        newer = foreign(running, session=retained(running).session + 1)
        with pytest.raises(Exception, match="a newer coordinator"):
            running.result()
        assert retained(running) == newer


@pytest.mark.parametrize("state", [CoordinatorState.RUNNING, CoordinatorState.OFFLINE])
def test_must_30_a_lower_sessions_word_or_will_is_answered(tmp_path: Path, state: CoordinatorState) -> None:
    """Seen to fail without ``Say`` in ``leadership._sees``."""
    with RunningCoordinator(tmp_path / "state") as running:
        ours = retained(running)
        foreign(running, session=ours.session - 1, state=state)
        running.until(lambda: retained(running).instance == ours.instance, "its answer")
        assert retained(running).session == ours.session
        running.say(Address(Kind.COORDINATOR), b"rubbish", retain=True)
        running.until(lambda: running.count(seen.MessageRejected) == 1, "a counted rejection")
        running.until(lambda: running.broker.retained[TOPICS.topic(Address(Kind.COORDINATOR))] != b"rubbish", "ours")


def test_must_30_the_whole_tree_is_repaired_where_a_lower_one_wrote_too(tmp_path: Path) -> None:
    """Both led for an instant. Seen to fail with the status alone repeated: devices saw one run's settings and the
    other's rounds, and took up neither.
    """
    with RunningCoordinator(tmp_path / "state", deadline_s=600.0) as running:
        running.handled()
        ours = retained(running)
        theirs = codec.encode(run_settings(run="run-other"))

        def run() -> str:
            settings = codec.decode(Kind.RUN, running.broker.retained[TOPICS.topic(Address(Kind.RUN))])
            assert isinstance(settings, RunSettings)
            return settings.run

        running.say(Address(Kind.RUN), theirs, retain=True)
        foreign(running, session=ours.session - 1)
        running.handled()
        assert (retained(running).instance, run()) == (ours.instance, ours.run)
        running.say(Address(Kind.RUN), theirs, retain=True)  # before it has heard of us
        running.skip(ours.heartbeat_s)
        assert run() == ours.run


def test_must_31_a_coordinator_says_its_status_every_heartbeat(tmp_path: Path) -> None:
    """Seen to fail without ``beat`` in ``Reactor.turn``."""
    with RunningCoordinator(tmp_path / "state", deadline_s=600.0) as running:
        running.handled()
        heard = [len(beats(running))]
        for _ in range(4):
            running.skip(15.0)
            heard.append(len(beats(running)))
        assert retained(running).heartbeat_s == 30.0
    assert [after - before for before, after in pairwise(heard)] == [0, 1, 0, 1]


def test_must_31_a_coordinator_beats_seldom_while_it_waits_for_devices_and_at_once_faster_for_a_round(
    tmp_path: Path,
) -> None:
    """Seen to fail without ``idle`` in ``Reactor.turn``."""
    with RunningCoordinator(tmp_path / "state", quorum=1, deadline_s=6000.0, idle_heartbeat_s=300.0) as running:
        running.skip(30.0)
        assert retained(running).heartbeat_s == 300.0
        heard = len(beats(running))
        running.skip(299.0)
        assert len(beats(running)) == heard
        running.skip(1.0)
        assert len(beats(running)) == heard + 1
        running.status("dev-1", DeviceState.IDLE)
        running.skip(1.0)
        running.opened()
        assert retained(running).heartbeat_s == 30.0
        running.skip(30.0)
        assert retained(running).heartbeat_s == 30.0


def test_must_12_a_device_that_hung_while_nothing_was_at_stake_holds_a_round_up_for_short_heartbeats_only(
    tmp_path: Path,
) -> None:
    """It had promised to be heard every 300 s. Seen to fail without ``rouse`` in ``Attendance.paced``."""
    with RunningCoordinator(tmp_path / "state", quorum=2, deadline_s=6000.0, idle_heartbeat_s=300.0) as running:
        hangs = DeviceStatus(device="hangs", session=1, state=DeviceState.IDLE, examples=10, heartbeat_s=300.0)
        running.say(Address(Kind.DEVICE, device="hangs"), codec.encode(hangs))
        running.skip(30.0)
        assert retained(running).heartbeat_s == 300.0
        running.status("dev-1", DeviceState.IDLE)
        running.skip(1.0)
        assert running.opened().selected == 2
        running.skip(74.0)
        running.status("dev-1", DeviceState.IDLE)
        running.handled()
        assert running.of(seen.FleetSeen)[-1].ready == 2
        running.skip(2.0)
        assert running.of(seen.FleetSeen)[-1].ready == 1


def test_must_12_names_that_never_answer_hold_up_one_deadline_whatever_they_promise(tmp_path: Path) -> None:
    """Anybody may say that he is there for a year. Seen to fail without ``expired`` in ``Reactor._step``: each round
    waited for them until its deadline.
    """
    with RunningCoordinator(tmp_path / "state", quorum=1, goal=6, deadline_s=600.0) as running:
        running.status("dev-1", DeviceState.IDLE)
        for number in range(5):
            fake = DeviceStatus(device=f"fake-{number}", session=1, state=DeviceState.IDLE, examples=1, heartbeat_s=3e7)
            running.say(Address(Kind.DEVICE, device=fake.device), codec.encode(fake))
        running.skip(30.0)
        assert running.opened().selected == 6
        for seconds in (600.0, 74.0):  # the deadline; dev-1 says how it is in the attempt that follows
            running.skip(seconds)
            running.status("dev-1", DeviceState.IDLE)
            running.handled()
        assert running.of(seen.FleetSeen)[-1].ready == 6
        running.skip(2.0)
        assert running.of(seen.FleetSeen)[-1].ready == 1


def beats(running: RunningCoordinator) -> list[Inbound]:
    return [one for one in tuple(running.heard) if one.topic == TOPICS.topic(Address(Kind.COORDINATOR))]
