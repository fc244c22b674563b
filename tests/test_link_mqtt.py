"""What of the MQTT link only a real broker, a bad line or a broken peer can show."""

from __future__ import annotations

import contextlib
import resource
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from schemas.errors import BrokerRefused, BrokerUnreachable, PayloadTooLarge, SettingsError
from schemas.link import mqtt_connection
from schemas.link.address import BrokerAddress
from schemas.link.backoff import Backoff
from schemas.link.buffered import BufferedSocket
from schemas.link.link import Connected, Disconnected, Event, Inbound, Refused, Sent, Will
from schemas.link.mqtt import MqttLink, MqttSettings
from schemas.link.mqtt_connection import Connection
from schemas.link.outbound import Publication
from tests.link_bench import QUICK, Ear
from tests.link_certificates import make_certificates
from tests.link_mosquitto import ROOT, Mosquitto, free_port
from tests.link_proxy import Proxy

# paho leaves the socket of a failed handshake to the garbage collector, which closes it, with this warning.
failed_handshake = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


def settings(port: int, client_id: str = "me-one", **more: object) -> MqttSettings:
    values: dict[str, object] = {"address": BrokerAddress("127.0.0.1", port), "backoff": QUICK, **more}
    return MqttSettings(client_id=client_id, **values)  # type: ignore[arg-type]  # the test's own names


@pytest.fixture
def dial() -> Iterator[Callable[..., tuple[MqttLink, Ear]]]:
    """Open links that are closed after the test."""
    links: list[MqttLink] = []

    def open_one(chosen: MqttSettings, will: Will | None = None) -> tuple[MqttLink, Ear]:
        ear = Ear()
        links.append(MqttLink(chosen, ear, will))
        links[-1].open()
        return links[-1], ear

    yield open_one
    for link in links:
        link.close(timeout_s=0.5)


Dial = Callable[..., tuple[MqttLink, Ear]]


def first_failure(ear: Ear) -> Disconnected:
    ear.until(lambda: bool(ear.all(Disconnected)), "a failure")
    return ear.all(Disconnected)[0]


@pytest.mark.parametrize(("mqtt5", "level"), [(None, "p5"), (False, "p2")])
@pytest.mark.parametrize(("session_expiry_s", "clean"), [(60, "c0"), (0, "c1")])
def test_mqtt_5_is_spoken_where_the_broker_has_it_and_a_session_is_kept_where_it_is_asked_for(
    mosquitto: Mosquitto, dial: Dial, *, mqtt5: bool | None, level: str, session_expiry_s: int, clean: str
) -> None:
    _, ear = dial(settings(mosquitto.port, mqtt5=mqtt5, session_expiry_s=session_expiry_s))
    ear.until_connected()
    ear.until(lambda: f"({level}, {clean}, k30)" in mosquitto.log, "mosquitto's log")


def test_a_second_client_of_our_name_is_thought_of_where_the_connection_breaks(
    mosquitto: Mosquitto, dial: Dial
) -> None:
    """Two devices from one card image. Seen to fail without the hint: the log said `broke` and no more, for ever."""
    _, ear = dial(settings(mosquitto.port))
    ear.until_connected()
    dial(settings(mosquitto.port))
    assert "another client has our name: give every device its own" in str(first_failure(ear).error)


def test_a_broker_that_is_not_there_is_tried_until_it_is(tmp_path: Path, dial: Dial) -> None:
    broker = Mosquitto(tmp_path)
    _, ear = dial(settings(broker.port))
    failure = first_failure(ear)
    assert isinstance(failure.error, BrokerUnreachable)
    assert "check that it runs there" in str(failure.error)
    assert failure.retry_in_s is not None
    assert not failure.fatal
    with broker:
        ear.until_connected()


def test_waits_grow_with_failures_and_come_from_the_given_draw() -> None:
    class Half:
        def random(self) -> float:
            return 0.5

    ear = Ear()
    link = MqttLink(settings(free_port(), backoff=Backoff(first_s=0.02, longest_s=0.1)), ear, draw=Half())
    link.open()
    ear.until(lambda: len(ear.all(Disconnected)) >= 5, "five failures")
    link.close()
    assert [event.retry_in_s for event in ear.all(Disconnected)][:5] == [0.01, 0.02, 0.04, 0.05, 0.05]


def test_a_name_that_does_not_exist_is_unreachable(dial: Dial) -> None:
    _, ear = dial(settings(1883, address=BrokerAddress("nobody.invalid", 1883)))
    failure = first_failure(ear)
    assert isinstance(failure.error, BrokerUnreachable)
    assert "looked up" in str(failure.error)


def test_closing_while_waiting_to_try_again_takes_no_time() -> None:
    ear = Ear()
    link = MqttLink(settings(free_port(), backoff=Backoff(first_s=600.0, longest_s=600.0)), ear)
    link.open()
    first_failure(ear)
    began = time.monotonic()
    link.close(timeout_s=30.0)
    assert time.monotonic() - began < 2.0
    assert ear.events[-1] == Disconnected()


def test_closing_gives_up_at_its_time_limit_where_the_broker_has_gone_silent(mosquitto: Mosquitto) -> None:
    ear = Ear()
    link = MqttLink(settings(mosquitto.port), ear)
    link.open()
    ear.until_connected()
    mosquitto.freeze()
    link.publish("t", b"never acknowledged")
    began = time.monotonic()
    link.close(timeout_s=0.3)
    assert 0.3 <= time.monotonic() - began < 2.0
    assert ear.events[-1] == Disconnected()


def test_a_frozen_broker_is_noticed_by_its_silence(mosquitto: Mosquitto, dial: Dial) -> None:
    _, ear = dial(settings(mosquitto.port, keepalive_s=1))
    ear.until_connected()
    mosquitto.freeze()
    assert isinstance(first_failure(ear).error, BrokerUnreachable)
    mosquitto.thaw()
    ear.until_connected(2)


def test_what_does_not_speak_mqtt_is_unreachable_and_said_so(dial: Dial) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        _, ear = dial(settings(silent.getsockname()[1], connect_timeout_s=0.2))
        failure = first_failure(ear)
    assert isinstance(failure.error, BrokerUnreachable)
    assert "doesn't answer MQTT" in str(failure.error)


CONNACK = b"\x20\x03\x00\x00\x00"


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (b"\xff" * 20, "doesn't answer MQTT"),
        (b"\x20\x03\x00\x88\x00", "unavailable"),
        (CONNACK + b"\xe0\x02\x8e\x00", "another client connects with our client id"),
        (CONNACK + b"\xe0\x02\x95\x00", "as large as one of ours"),
        (CONNACK + b"\x30\x02\xff\xff", "broke"),  # PUBLISH of a topic cut short
        (CONNACK + b"\x90\x01\x00", "broke"),  # SUBACK of half a packet id
        (CONNACK + b"\x30\x06\x00\x01t\x02\xff\x00", "broke"),  # PUBLISH with a property there is none of
        (CONNACK + b"\x40\x02\xff\xff" + b"\x90\x04\xff\xff\x00\x87", "broke"),  # answers to what nobody asked
        (CONNACK, "broke"),
    ],
)
def test_whatever_a_broken_broker_answers_the_link_tries_again(
    mosquitto: Mosquitto, dial: Dial, answer: bytes, text: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as liar:
        line = Proxy(liar.getsockname()[1])

        def lie() -> None:
            for _ in range(2 if answer[0] == 0xFF else 1):  # what is no answer to MQTT 5 is asked in 3.1.1
                with liar.accept()[0] as client:
                    client.recv(1000)
                    client.sendall(answer)

        thread = threading.Thread(target=lie)
        thread.start()
        _, ear = dial(settings(line.port))
        failure = first_failure(ear)
        line.target = mosquitto.port
    assert text in str(failure.error)
    assert not failure.fatal
    ear.until_connected(2 if CONNACK in answer else 1)
    line.close()
    thread.join()


@pytest.mark.parametrize(
    "refusal",
    [b"\x20\x02\x00\x01", b"\x20\x03\x00\x84\x00", b""],
    ids=["in the words of 3.1.1", "in those of MQTT 5", "without a word"],
)
def test_a_broker_that_takes_no_mqtt_5_is_spoken_to_in_3_1_1_at_once(dial: Dial, refusal: bytes) -> None:
    """Seen to fail where a refusal is for good, whatever it is for: such a broker was given up."""
    levels: list[int] = []

    def serve() -> None:
        for answer in (refusal, b"\x20\x02\x00\x00"):
            with broker.accept()[0] as client:
                levels.append(client.recv(1000)[8])
                client.sendall(answer)
                if len(levels) == 2:
                    client.recv(1000)  # until the test is over

    with socket.create_server(("127.0.0.1", 0)) as broker:
        thread = threading.Thread(target=serve)
        thread.start()
        link, ear = dial(settings(broker.getsockname()[1]))
        ear.until_connected()
        assert (levels, ear.all(Disconnected)) == ([5, 4], [])
        link.close(timeout_s=0.5)
        thread.join()


@contextlib.contextmanager
def answering(answer: Callable[[bytes], bytes]) -> Iterator[int]:
    """The port of a broker that takes one client, and gives ``answer`` to all it says."""

    def serve() -> None:
        with broker.accept()[0] as client:
            while said := client.recv(1000):
                client.sendall(CONNACK if said[0] == 0x10 else answer(said))

    with socket.create_server(("127.0.0.1", 0)) as broker:
        thread = threading.Thread(target=serve)
        thread.start()
        yield broker.getsockname()[1]
        thread.join()


def refused(answer: Callable[[bytes], bytes], ask: Callable[[MqttLink], int]) -> tuple[int, Refused]:
    """What ``ask`` gave, and how a broker that answers so has it refused."""
    with answering(answer) as port:
        link = MqttLink(settings(port), ear := Ear())
        asked = ask(link)
        link.open()
        ear.until(lambda: bool(ear.all(Refused)), "the refusal")
        link.close(timeout_s=0.5)
    (told,) = ear.all(Refused)
    return asked, told


def test_a_subscription_that_the_broker_refuses_is_told() -> None:
    """Seen to fail without it: whoever listened heard nothing, for ever, and no word of why."""
    _, told = refused(
        lambda said: b"\x90\x04" + said[2:4] + b"\x00\x87" if said[0] == 0x82 else b"",
        lambda link: link.subscribe("t/secret"),
    )
    assert (told.token, type(told.error)) == (None, BrokerRefused)
    assert "t/secret" in str(told.error)


def test_a_publication_that_the_broker_refuses_is_told() -> None:
    token, told = refused(
        lambda said: b"\x40\x03" + said[5:7] + b"\x87" if said[0] == 0x32 else b"",
        lambda link: link.publish("t", b"x"),
    )
    assert (told.token, type(told.error)) == (token, BrokerRefused)
    assert "check its acl" in str(told.error)


def test_a_payload_above_a_broker_s_message_size_limit_is_refused_and_nothing_else(tmp_path: Path, dial: Dial) -> None:
    """mosquitto tells no client of that limit. Seen to fail: the connection broke, and again each time that the link
    sent the same, for ever, and all that was said of it was that another client might have our name.
    """
    config = (ROOT / "mosquitto" / "test.conf").read_text(encoding="utf-8") + "\nmessage_size_limit 1000\n"
    with Mosquitto(tmp_path, config) as broker:
        link, ear = dial(settings(broker.port))
        ear.until_connected()
        large, small = link.publish("t", b"x" * 1001), link.publish("t", b"x" * 1000)
        ear.until_sent(small)
        link.close(timeout_s=0.5)
    (refused,) = ear.all(Refused)
    assert (refused.token, type(refused.error)) == (large, PayloadTooLarge)
    assert ear.all(Disconnected) == [Disconnected()]


@pytest.mark.parametrize("filters", [1, 64, 65, 128])
def test_a_subscription_is_answered_once_however_many_packets_it_takes(
    mosquitto: Mosquitto, dial: Dial, filters: int
) -> None:
    link, ear = dial(settings(mosquitto.port))
    ear.until_connected()
    token = link.subscribe(*(f"t/{number}" for number in range(filters)))
    ear.until_sent(token, link.publish("elsewhere", b"travels behind it"))
    assert [sent.token for sent in ear.all(Sent)].count(token) == 1


def test_a_line_that_breaks_long_after_the_greeting_is_not_put_down_to_another_client(
    mosquitto: Mosquitto, dial: Dial, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mqtt_connection, "_SOON_S", 0.0)
    line = Proxy(mosquitto.port)
    _, ear = dial(settings(line.port))
    ear.until_connected()
    line.cut()
    assert str(first_failure(ear).error).endswith("broke")
    line.close()


def test_a_sink_that_raises_ends_the_connection_and_not_the_link(mosquitto: Mosquitto) -> None:
    ear = Ear()

    def sink(event: Event) -> None:
        ear(event)
        if isinstance(event, Inbound) and len(ear.all(Inbound)) == 1:
            raise RuntimeError("a mistake")

    link = MqttLink(settings(mosquitto.port), sink)
    link.subscribe("t")
    link.open()
    ear.until_connected()
    link.publish("t", b"first")
    assert "a mistake" in str(first_failure(ear).error)
    ear.until_connected(2)
    link.publish("t", b"second")
    ear.until_heard(b"second")
    link.close()


def test_an_oversize_payload_queued_before_the_limit_was_known_is_refused_and_nothing_else(
    mosquitto: Mosquitto,
) -> None:
    ear = Ear()
    link = MqttLink(settings(mosquitto.port), ear)
    large, small = link.publish("t", b"x" * 2_000_000), link.publish("t", b"x")
    link.open()
    ear.until_sent(small)
    [refused] = ear.all(Refused)
    assert refused.token == large
    assert isinstance(refused.error, PayloadTooLarge)
    assert len(ear.all(Connected)) == 1
    link.close()


def test_on_a_slow_line_a_small_message_waits_for_a_part_and_not_for_the_model(
    mosquitto: Mosquitto, dial: Dial
) -> None:
    reader, heard = dial(settings(mosquitto.port, "reader"))
    reader.subscribe("t/#")
    heard.until_connected()
    line = Proxy(mosquitto.port, bytes_a_second=4_000_000)
    writer, ear = dial(settings(line.port, "writer"))
    ear.until_connected()
    tokens = [writer.publish(f"t/{index}", b"x" * 120_000, bulk=True) for index in range(30)]
    heard.until(lambda: len(heard.all(Inbound)) >= 5, "the first parts")
    before = len(heard.all(Inbound))
    writer.publish("t/urgent", b"urgent")
    heard.until_heard(b"urgent")
    overtaken = 30 - [message.topic for message in heard.all(Inbound)].index("t/urgent")
    assert overtaken >= 30 - before - 6  # what the sockets and the proxy hold, not the window of 8 and the queue
    ear.until_sent(*tokens)
    line.close()


def test_450_parts_there_and_back_cost_little_time_and_memory(mosquitto: Mosquitto, dial: Dial) -> None:
    link, ear = dial(settings(mosquitto.port))
    link.subscribe("t/#")
    ear.until_connected()
    part = bytes(120_000)
    before, began = resource.getrusage(resource.RUSAGE_SELF), time.monotonic()
    tokens = [link.publish(f"t/{index}", part, bulk=True) for index in range(450)]
    ear.until(lambda: len(ear.all(Inbound)) >= 450, "all of them")
    ear.until_sent(*tokens)
    took, after = time.monotonic() - began, resource.getrusage(resource.RUSAGE_SELF)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert cpu_s < 108 * 0.010, "10 ms CPU a megabyte; it takes 2 on an idle machine"
    assert took < 4.5, "one lost wake-up costs the tick of five seconds"


def test_bulk_never_waits_while_it_may_go(mosquitto: Mosquitto, dial: Dial, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever sleeps with room in the window and in the socket sleeps until the next tick, five seconds later."""
    link, ear = dial(settings(mosquitto.port))
    link.subscribe("t")
    ear.until_connected()
    idle = []
    send = Connection._send

    def watched(connection: Connection, sock: BufferedSocket) -> None:
        send(connection, sock)
        outbound = connection._mailbox._outbound
        room = outbound._bulk_in_flight < outbound._window
        blocked = connection._client.want_write() or sock.writing
        idle.append(bool(room and outbound._waiting[True] and not blocked))

    tokens = [link.publish("t", bytes(120_000), bulk=True) for _ in range(600)]
    monkeypatch.setattr(Connection, "_send", watched)
    ear.until_sent(*tokens)
    assert not any(idle)


def test_no_more_is_read_than_a_window_ahead_of_the_acknowledgements(mosquitto: Mosquitto) -> None:
    ear = Ear(ack=False)
    link = MqttLink(settings(mosquitto.port, inbound_window=4), ear)
    link.subscribe("t")
    link.open()
    ear.until_connected()
    link.publish("t", b"here")  # behind the subscription, on the same connection: now the broker has it
    ear.until_heard(b"here")
    ear.all(Inbound)[0].ack()
    writer_ear = Ear()
    writer = MqttLink(settings(mosquitto.port, "writer"), writer_ear)
    writer.open()
    writer_ear.until_sent(*[writer.publish("t", b"%d" % index) for index in range(10)])
    for done in range(10):
        ear.until_heard(b"%d" % done)
        assert len(ear.all(Inbound)) <= 1 + done + 4
        ear.all(Inbound)[1 + done].ack()
    assert ear.payloads() == [b"here", *(b"%d" % index for index in range(10))]
    writer.close()
    link.close()


def test_whoever_stops_to_acknowledge_keeps_the_connection(mosquitto: Mosquitto) -> None:
    """As a coordinator does whose disk is full. Seen to fail without ``stalled``."""
    ear = Ear(ack=False)
    link = MqttLink(settings(mosquitto.port, inbound_window=4, keepalive_s=2), ear)
    link.subscribe("t")
    link.open()
    ear.until_connected()
    writer_ear = Ear()
    writer = MqttLink(settings(mosquitto.port, "writer"), writer_ear)
    writer.open()
    ear.until(lambda: bool(ear.payloads()), "the broker to know of the subscription", lambda: writer.publish("t", b"?"))
    writer_ear.until_sent(*[writer.publish("t", b"%d" % index) for index in range(10)])
    three_keepalives = time.monotonic() + 6.0
    ear.until(lambda: time.monotonic() > three_keepalives, "a keepalive to run out")
    assert not ear.all(Disconnected)
    ear.until_sent(link.publish("elsewhere", b"still here"))
    for inbound in ear.all(Inbound):
        inbound.ack()
    ear.until(lambda: len(ear.all(Inbound)) > 4, "the next ones")
    writer.close()
    link.close()


def test_what_a_crashed_broker_never_acknowledged_is_sent_again(mosquitto: Mosquitto, dial: Dial) -> None:
    link, ear = dial(settings(mosquitto.port))
    link.subscribe("t")
    ear.until_connected()
    mosquitto.freeze()
    tokens = [link.publish("t", b"%d" % index, bulk=index % 2 == 0) for index in range(6)]
    line_is_full = time.monotonic() + 0.1
    ear.until(lambda: time.monotonic() > line_is_full, "the link's thread to write them")
    mosquitto.kill()
    mosquitto.start()
    ear.until_sent(*tokens)
    ear.until_heard(*[b"%d" % index for index in range(6)])


# TLS


def test_a_line_that_breaks_as_something_is_sent_is_no_mistake_of_ours(
    mosquitto: Mosquitto, dial: Dial, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Seen to fail where what the socket raises went on to whoever looks for bugs: a traceback in the log."""
    link, ear = dial(settings(mosquitto.port))
    ear.until_connected()
    flush, broken = BufferedSocket.flush, [True]

    def reset(sock: BufferedSocket) -> None:
        if sock.writing and broken:
            broken.clear()
            raise ConnectionResetError(104, "Connection reset by peer")
        flush(sock)

    monkeypatch.setattr(BufferedSocket, "flush", reset)
    link.subscribe("here")
    link.publish("here", b"something")
    ear.until_heard(b"something")
    assert len(ear.all(Connected)) == 2
    assert "broke" in str(first_failure(ear).error)
    assert "mistake" not in caplog.text


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("certificates")
    make_certificates(directory)
    make_certificates(directory, "stranger", ())
    return directory


@pytest.fixture
def secure(tmp_path: Path, certificates: Path) -> Iterator[int]:
    """A mosquitto that wants certificates; its port."""
    port = free_port()
    config = (
        f"listener 1883 127.0.0.1\nlistener {port} 127.0.0.1\nallow_anonymous true\ncafile {certificates}/ca.crt\n"
        f"certfile {certificates}/server.crt\nkeyfile {certificates}/server.key\nrequire_certificate true\n"
    )
    with Mosquitto(tmp_path, config):
        yield port


def test_with_the_right_certificates_tls_connects_and_carries_parts(
    secure: int, certificates: Path, dial: Dial
) -> None:
    link, ear = dial(tls(secure, certificates, "ca"))
    link.subscribe("t")
    ear.until_connected()
    parts = [bytes([index]) * 120_000 for index in range(40)]
    tokens = [link.publish("t", part, bulk=True) for part in parts]
    ear.until_sent(*tokens)
    ear.until_heard(*parts)


def test_messages_that_share_a_tls_record_are_all_read_at_once(certificates: Path, dial: Dial) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates / "server.crt", certificates / "server.key")
    done = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def broker() -> None:
            with context.wrap_socket(listener.accept()[0], server_side=True) as client:
                client.recv(1000)
                client.sendall(CONNACK + b"\x30\x05\x00\x01t\x00x" * 5)
                done.wait(20.0)

        thread = threading.Thread(target=broker)
        thread.start()
        _, ear = dial(tls(listener.getsockname()[1], certificates, "ca"))
        ear.until(lambda: ear.payloads("t") == [b"x"] * 5, "all five")
        done.set()
        thread.join()


@failed_handshake
def test_a_broker_whose_certificate_is_not_to_be_trusted_is_refused_for_good(
    secure: int, certificates: Path, dial: Dial
) -> None:
    _, ear = dial(tls(secure, certificates, "stranger"))
    failure = first_failure(ear)
    assert failure.fatal
    assert isinstance(failure.error, BrokerRefused)
    assert "ca setting" in str(failure.error)


@failed_handshake
def test_a_certificate_for_another_name_is_refused_for_good(secure: int, certificates: Path, dial: Dial) -> None:
    _, ear = dial(tls(secure, certificates, "ca", host="127.0.0.1"))
    failure = first_failure(ear)
    assert failure.fatal
    assert "127.0.0.1" in str(failure.error)


def test_a_broker_that_misses_our_certificate_is_not_said_to_want_tls(
    secure: int, certificates: Path, dial: Dial
) -> None:
    """Seen to fail with the advice to see whether it wants TLS, of a broker that is spoken to in TLS."""
    _, ear = dial(replace(tls(secure, certificates, "ca"), cert=None, key=None))
    said = str(first_failure(ear).error)
    assert "certificate" in said
    assert "wants TLS" not in said


@failed_handshake
def test_tls_where_the_broker_has_none_is_refused_for_good(
    mosquitto: Mosquitto, certificates: Path, dial: Dial
) -> None:
    _, ear = dial(tls(mosquitto.port, certificates, "ca"))
    assert first_failure(ear).error is not None


def tls(port: int, certificates: Path, authority: str, host: str = "localhost") -> MqttSettings:
    return MqttSettings(
        BrokerAddress(host, port, tls=True),
        "me-one",
        ca=certificates / f"{authority}.crt",
        cert=certificates / "dev-one.crt",
        key=certificates / "dev-one.key",
        backoff=QUICK,
    )


@pytest.mark.parametrize(
    ("address", "files", "advice"),
    [
        ("mqtt://h", {"ca": "ca.crt"}, "write mqtts://"),
        ("mqtt://h", {"cert": "dev-one.crt"}, "write mqtts://"),
        ("mqtt://h", {"key": "dev-one.key"}, "write mqtts://"),
        ("mqtts://h", {"key": "dev-one.key"}, "add cert"),
        ("mqtts://h", {"ca": "missing.crt"}, "can't read"),
        ("mqtts://h", {"ca": "dev-one.key"}, "can't read"),
        ("mqtts://h", {"ca": "missing.crt"}, "missing.crt: No such file"),
        ("mqtts://h", {"cert": "missing.crt"}, "can't use"),
        ("mqtts://h", {"cert": "dev-one.crt"}, "with a key in the same file, as no key is given"),
        ("mqtts://h", {"cert": "dev-one.crt", "key": "server.key"}, "can't use"),
    ],
)
def test_unusable_certificates_are_refused_before_connecting(
    certificates: Path, address: str, files: dict[str, str], advice: str
) -> None:
    paths = {name: certificates / file for name, file in files.items()}
    chosen = MqttSettings(
        BrokerAddress.parse(address), "me-one", ca=paths.get("ca"), cert=paths.get("cert"), key=paths.get("key")
    )
    with pytest.raises(SettingsError, match=advice):
        MqttLink(chosen, Ear())


def test_acknowledgements_of_a_connection_that_is_gone_do_nothing(mosquitto: Mosquitto) -> None:
    ear = Ear(ack=False)
    link = MqttLink(settings(mosquitto.port, session_expiry_s=60), ear)
    link.subscribe("t")
    link.open()
    ear.until_connected()
    link.publish("t", b"x")
    ear.until_heard(b"x")
    [message] = ear.all(Inbound)
    link.close()
    message.ack()
    assert ear.events[-1] == Disconnected()
    assert isinstance(ear.all(Sent)[0], Sent)


def test_nothing_goes_any_more_after_a_close_that_has_no_time(mosquitto: Mosquitto, dial: Dial) -> None:
    """One that another coordinator has replaced. Seen to fail with ``done`` looked at behind what waits."""
    listener, ear = dial(settings(mosquitto.port, "reader"))
    ear.until_connected()
    ear.until_sent(listener.subscribe("t/#"))
    link, _ = dial(settings(mosquitto.port, "writer"))
    link.publish("t/before", b"before")
    ear.until_heard(b"before")
    with link._mailbox._lock:  # its thread is busy, and hears of these and of the end at once
        for token in range(1000, 1003):
            link._mailbox._outbound.put(Publication(token, "t/after", b"after"))
    link.close(timeout_s=0.0)
    listener.publish("t/end", b"end")
    ear.until_heard(b"end")
    assert ear.payloads("t/after") == []
