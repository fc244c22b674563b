"""The shipped mosquitto configuration: held against the topic tree, and against a real mosquitto."""

from __future__ import annotations

import re
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from schemas.errors import BrokerRefused
from schemas.link.address import BrokerAddress
from schemas.link.link import Connected, Disconnected, Inbound, Refused, Sent
from schemas.link.mqtt import MqttLink, MqttSettings
from schemas.messages import RunSettings
from schemas.topics import RULES, Address, Kind, Topics
from tests.link_bench import QUICK, Ear
from tests.link_certificates import make_certificates
from tests.link_mosquitto import ROOT, Mosquitto, free_port, program

CONF = (ROOT / "mosquitto" / "mosquitto.conf").read_text(encoding="utf-8")
ACL = ROOT / "mosquitto" / "acl"
TOPICS = Topics("home")
USERS = ("coordinator", "watch", "dev-one", "dev-two")


def address(kind: Kind, device: str = "dev-one") -> Address:
    """A topic of each kind; fields its pattern doesn't name are left out of it anyway."""
    return Address(kind, number=3, device=device, digest="ab" * 32, part=0)


# The files alone


def acl_lines() -> dict[str, set[str]]:
    """The lines of each user of the acl, those of all users under ``%u``."""
    lines: dict[str, set[str]] = {"%u": set()}
    user = ""
    for line in ACL.read_text(encoding="utf-8").splitlines():
        word, _, rest = line.partition(" ")
        if word == "user":
            user = rest
        elif word == "topic":
            lines.setdefault(user, set()).add(rest)
        elif word == "pattern":
            lines["%u"].add(rest)
        else:
            assert not line or word == "#"
    return lines


def expected(kind: Kind, *, access: str, device: str) -> str:
    """The acl's line for a kind of topic."""
    return f"{access} fl/v1/+/{kind.value.format(number='+', digest='+', part='+', device=device)}"


def test_the_acl_has_exactly_the_lines_the_topic_tree_asks_for() -> None:
    coordinators = {kind for kind, rule in RULES.items() if rule.publisher == "coordinator"}
    assert acl_lines() == {
        "coordinator": {expected(kind, access="write", device="+") for kind in coordinators}
        | {"read fl/v1/+/#", "read $SYS/#"},
        "watch": {"read fl/v1/+/#"},
        "%u": {expected(kind, access="read", device="%u") for kind in coordinators}
        | {expected(kind, access="write", device="%u") for kind in RULES if kind not in coordinators},
    }


def test_the_limits_fit_the_part_size_and_are_those_the_tests_run_with() -> None:
    tests = (ROOT / "mosquitto" / "test.conf").read_text(encoding="utf-8")
    for option in ("max_packet_size", "max_inflight_messages", "max_queued_messages", "max_queued_bytes"):
        [value] = re.findall(rf"^{option} (\d+)$", CONF, re.MULTILINE)
        assert re.findall(rf"^{option} (\d+)$", tests, re.MULTILINE) == [value]
    [packet] = re.findall(r"^max_packet_size (\d+)$", CONF, re.MULTILINE)
    part_size = RunSettings.model_fields["part_size"].default
    assert int(packet) > 2 * part_size


# The files in a real mosquitto


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mosquitto]:
    directory = tmp_path_factory.mktemp("mosquitto")
    with Mosquitto(directory, with_passwords(CONF, directory)) as started:
        yield started


def with_passwords(conf: str, directory: Path) -> str:
    """The configuration with our acl, and a password file in ``directory``: each user's password is the name."""
    passwords = directory / "passwd"
    for user in USERS:
        new = [] if passwords.exists() else ["-c"]
        subprocess.run([program("mosquitto_passwd"), *new, "-b", str(passwords), user, user], check=True)
    return conf.replace("/etc/mosquitto/passwd", str(passwords)).replace("/etc/mosquitto/acl", str(ACL))


class Fleet:
    """Everybody at the broker, each in the own name."""

    def __init__(self, port: int) -> None:
        self.ears: dict[str, Ear] = {}
        self.links: dict[str, MqttLink] = {}
        for user in USERS:
            login = BrokerAddress("127.0.0.1", port).with_login(user, user)
            self.ears[user] = Ear()
            self.links[user] = MqttLink(MqttSettings(login, user, backoff=QUICK), self.ears[user])
            self.links[user].subscribe(TOPICS.prefix + "#", "$SYS/broker/version")
            self.links[user].open()
        for user, ear in self.ears.items():
            ear.until_connected()
            self.publish(user, "elsewhere", b"travels behind the subscriptions")  # refused, and answered
        self._marks = 0

    def settle(self) -> None:
        """Wait until all that was published has been delivered where it may: each hears a marker after it.

        A device can write what only its owner, the coordinator and the onlooker read, so the coordinator answers.
        """
        self._marks += 1
        for user, link in self.links.items():
            topic = "coordinator" if user == "coordinator" else f"devices/{user}"
            link.publish(TOPICS.prefix + topic, b"%d" % self._marks)
        mark = b"%d" % self._marks
        for user in USERS[2:]:
            self._until_heard("coordinator", f"devices/{user}", mark)
        self.links["coordinator"].publish(TOPICS.prefix + "run", mark)
        for user in USERS:
            self._until_heard(user, "run", mark)

    def _until_heard(self, user: str, below: str, mark: bytes) -> None:
        ear = self.ears[user]
        ear.until(lambda: mark in ear.payloads(TOPICS.prefix + below), f"{user} to hear {mark!r} on {below}")

    def publish(self, user: str, topic: str, payload: bytes) -> bool:
        """Publish, and say whether the broker let it through."""
        ear = self.ears[user]
        token = self.links[user].publish(topic, payload)

        def tokens(kind: type[Sent | Refused]) -> set[int | None]:
            return {event.token for event in ear.events if isinstance(event, kind)}

        ear.until(lambda: token in tokens(Sent) | tokens(Refused), "an answer")
        return token in tokens(Sent)

    def readers(self, topic: str, payload: bytes) -> set[str]:
        """Who got it."""
        return {user for user, ear in self.ears.items() if payload in ear.payloads(topic)}

    def close(self) -> None:
        """Disconnect everybody."""
        for link in self.links.values():
            link.close()


@pytest.fixture(scope="module")
def fleet(broker: Mosquitto) -> Iterator[Fleet]:
    connected = Fleet(broker.port)
    yield connected
    connected.close()


@pytest.mark.parametrize("kind", Kind, ids=lambda kind: kind.name)
def test_its_publisher_gets_through_to_who_may_read_and_nobody_else_can_write(fleet: Fleet, kind: Kind) -> None:
    topic = TOPICS.topic(address(kind))
    owner = "coordinator" if RULES[kind].publisher == "coordinator" else "dev-one"
    for user in USERS:
        assert fleet.publish(user, topic, f"{kind} by {user}".encode()) is (user == owner)
    fleet.settle()
    onlookers = {"coordinator", "watch"}
    if RULES[kind].publisher == "coordinator":
        allowed = onlookers | ({"dev-one"} if "{device}" in kind.value else {"dev-one", "dev-two"})
    else:
        allowed = onlookers  # no device reads another's answers, nor its own
    for user in USERS:
        assert fleet.readers(topic, f"{kind} by {user}".encode()) == (allowed if user == owner else set())


@pytest.mark.parametrize(
    "below",
    ["devices/dev-one/extra", "rounds/3/join/dev-one/extra", "rounds/3/update/dev-one", "devices", "anything"],
)
def test_below_and_beside_its_own_topics_a_device_can_write_nothing(fleet: Fleet, below: str) -> None:
    assert not fleet.publish("dev-one", TOPICS.prefix + below, b"x")
    assert not fleet.publish("watch", TOPICS.prefix + below, b"x")


def test_only_the_coordinator_reads_what_the_broker_says_of_itself(fleet: Fleet) -> None:
    fleet.ears["coordinator"].until(lambda: bool(fleet.ears["coordinator"].payloads("$SYS/broker/version")), "$SYS")
    fleet.settle()
    assert {user for user, ear in fleet.ears.items() if ear.payloads("$SYS/broker/version")} == {"coordinator"}


def test_the_broker_says_how_much_it_takes(fleet: Fleet) -> None:
    [connected] = fleet.ears["dev-one"].all(Connected)
    assert connected.limit is not None
    assert 2 * RunSettings.model_fields["part_size"].default < connected.limit < 2**20


@pytest.fixture
def dial(broker: Mosquitto) -> Iterator[Callable[[str, str, str], Ear]]:
    """Connect as a user, with a password and a client id."""
    links = []

    def connect(user: str, password: str, client_id: str) -> Ear:
        ear = Ear()
        login = BrokerAddress("127.0.0.1", broker.port).with_login(user, password)
        links.append(MqttLink(MqttSettings(login, client_id, backoff=QUICK), ear))
        links[-1].open()
        return ear

    yield connect
    for link in links:
        link.close()


@pytest.mark.parametrize(("user", "password"), [("", ""), ("dev-one", "wrong"), ("nobody", "nobody")])
def test_without_the_right_password_nobody_gets_in(
    dial: Callable[[str, str, str], Ear], user: str, password: str
) -> None:
    ear = dial(user, password, "dev-one")
    ear.until(lambda: bool(ear.events), "an answer")
    [refused] = ear.all(Disconnected)
    assert refused.fatal
    assert isinstance(refused.error, BrokerRefused)
    assert "password" in str(refused.error)
    assert refused.retry_in_s is None


def test_nobody_can_take_anothers_connection_by_its_client_id(
    fleet: Fleet, dial: Callable[[str, str, str], Ear]
) -> None:
    thief = dial("dev-two", "dev-two", "dev-one")
    thief.until_connected()
    fleet.ears["dev-two"].until(
        lambda: bool(fleet.ears["dev-two"].all(Disconnected)), "the end of its other connection"
    )
    fleet.publish("dev-one", TOPICS.topic(address(Kind.DEVICE)), b"still here")
    assert fleet.ears["dev-one"].all(Disconnected) == []


def test_on_every_listener_a_connection_is_known_by_its_user_name() -> None:
    listeners = re.split(r"^#?listener ", CONF, flags=re.MULTILINE)[1:]
    assert len(listeners) == 3
    for listener in listeners:
        assert re.search(r"^#?use_username_as_clientid true$", listener, re.MULTILINE)


def test_retained_messages_and_sessions_outlive_a_restart(tmp_path: Path) -> None:
    topic = TOPICS.topic(address(Kind.MODEL))
    ear = Ear()
    with Mosquitto(tmp_path, with_passwords(CONF, tmp_path)) as broker:
        login = BrokerAddress("127.0.0.1", broker.port).with_login("coordinator", "coordinator")
        link = MqttLink(MqttSettings(login, "coordinator", session_expiry_s=600, backoff=QUICK), ear)
        link.open()
        ear.until_sent(link.publish(topic, b"kept", retain=True))
        broker.restart()
        ear.until_connected(2)
        assert ear.all(Connected)[-1].session_present
        link.subscribe(topic)
        ear.until_heard(b"kept")
        assert [message.retained for message in ear.all(Inbound)] == [True]
        link.close()


def test_the_switches_for_tls_and_websockets_work_when_switched_on(tmp_path: Path) -> None:
    tls, web = free_port(), free_port()
    conf = re.sub(r"^#(?=[a-z])", "", CONF, flags=re.MULTILINE)
    conf = conf.replace("listener 8883", f"listener {tls} 127.0.0.1").replace(
        "listener 9001", f"listener {web} 127.0.0.1"
    )
    make_certificates(tmp_path)
    conf = with_passwords(conf.replace("/etc/mosquitto/certs", str(tmp_path)), tmp_path)
    settings = MqttSettings(
        BrokerAddress("localhost", tls, tls=True),
        "any-id",
        ca=tmp_path / "ca.crt",
        cert=tmp_path / "dev-one.crt",
        key=tmp_path / "dev-one.key",
    )
    ear = Ear()
    with Mosquitto(tmp_path, conf) as broker:
        link = MqttLink(settings, ear)
        link.open()
        ear.until_connected()
        ear.until_sent(link.publish(TOPICS.topic(address(Kind.DEVICE)), b"by certificate"))
        link.close()
        assert "as dev-one (p5" in broker.log
        with socket.create_connection(("127.0.0.1", web), timeout=5.0) as browser:
            browser.sendall(
                b"GET /mqtt HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
                b"Sec-WebSocket-Protocol: mqtt\r\n\r\n"
            )
            assert browser.recv(100).startswith(b"HTTP/1.1 101")
