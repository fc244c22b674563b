from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest

from coordinator import leftovers
from coordinator.publisher import WINDOW, Blob, Publisher
from schemas import codec
from schemas.link.link import Qos
from schemas.parts import Bytes, cut, describe
from schemas.topics import Address, Kind, Topics

TOPICS = Topics("home")
POINTER, ROUND = Address(Kind.MODEL), Address(Kind.ROUND)
HEARD = -1  # the answer behind all that the broker has of old models


class Wire:
    """The publishing half of a link, which takes everything and acknowledges when told to."""

    def __init__(self) -> None:
        self.sent: list[str] = []
        self.payloads: dict[str, bytes] = {}
        self.listened: list[str] = []  # for models, and then no more

    def publish(self, topic: str, payload: bytes, *, qos: Qos = 1, retain: bool = False, bulk: bool = False) -> int:
        assert qos == 1
        assert bulk == (("/model/" in topic or "/plan/" in topic) and bool(payload))
        assert retain
        self.sent.append(topic.removeprefix(TOPICS.prefix))
        self.payloads[self.sent[-1]] = payload
        return len(self.sent)

    def open(self) -> None: ...
    def subscribe(self, *filters: str, qos: Qos = 1) -> int:
        self.listened += [f"+{one.removeprefix(TOPICS.prefix)}" for one in filters]
        assert qos == 0
        return -len(filters)

    def release(self, connection: int) -> None: ...
    def unsubscribe(self, *filters: str) -> None:
        self.listened += [f"-{one.removeprefix(TOPICS.prefix)}" for one in filters]

    def close(self, farewell: object = None, timeout_s: float = 5.0) -> None: ...


class Shelved:
    """Bytes that lie somewhere else, and may change there."""

    def __init__(self, blob: bytearray) -> None:
        self._blob = blob

    def __getitem__(self, where: slice, /) -> bytes:
        return bytes(self._blob[where])


@pytest.fixture
def wire() -> Wire:
    return Wire()


@pytest.fixture
def publisher(wire: Wire) -> Publisher:
    publisher = Publisher(TOPICS, wire)
    publisher.connected()
    publisher.sent(HEARD)
    return publisher


def plan(parts: int = 3) -> Blob:
    data = b"p" * parts
    return Blob(Kind.PLAN_PART, describe(data, 1), data)


def model(version: int, parts: int = 3) -> Blob:
    data = bytes([version]) * parts
    return Blob(Kind.MODEL_PART, describe(data, 1), data, version)


def test_a_pointer_waits_until_the_broker_has_every_part(wire: Wire, publisher: Publisher) -> None:
    publisher.put_blob(model(1))
    publisher.put(POINTER, lambda: b"{}")
    assert wire.sent == ["model/1/0", "model/1/1", "model/1/2"]
    publisher.sent(2)
    publisher.sent(1)
    assert not publisher.idle
    publisher.sent(3)
    assert wire.sent[3:] == ["model"]
    assert publisher.idle


def test_a_few_parts_are_with_the_broker_at_a_time(wire: Wire, publisher: Publisher) -> None:
    publisher.put_blob(model(1, parts=100))
    for token in range(1, 101):
        assert len(wire.sent) == min(WINDOW + token - 1, 100)
        publisher.sent(token)
    assert publisher.idle
    assert codec.decode_part(wire.payloads["model/1/99"]).index == 99


def test_a_document_that_changes_while_it_waits_is_sent_once_as_it_is_then(wire: Wire, publisher: Publisher) -> None:
    publisher.put_blob(model(1, parts=1))
    remaining = [60]
    for _ in range(3):
        publisher.put(ROUND, lambda: str(remaining[0]).encode())
    remaining[0] = 7
    publisher.sent(1)
    assert wire.sent == ["model/1/0", "rounds/current"]
    assert wire.payloads["rounds/current"] == b"7"


def test_a_newer_model_takes_the_place_of_one_still_on_its_way(wire: Wire, publisher: Publisher) -> None:
    publisher.put_blob(model(1, parts=20))
    publisher.put(POINTER, lambda: b"1")
    publisher.put_blob(model(2, parts=1))
    publisher.put(POINTER, lambda: b"2")
    for token in range(1, len(wire.sent) + 1):
        publisher.sent(token)
    assert wire.sent[WINDOW:] == ["model/2/0", "model"]
    assert wire.payloads["model"] == b"2"


def test_all_of_the_tree_is_published_again_after_a_connect_in_its_order(wire: Wire, publisher: Publisher) -> None:
    publisher.put_blob(model(1, parts=2))
    publisher.put(POINTER, lambda: b"{}")
    publisher.put(ROUND, lambda: b"{}")
    publisher.sent(1)
    publisher.disconnected()
    publisher.sent(2)
    wire.sent.clear()
    publisher.connected()
    assert wire.sent == ["model/1/0", "model/1/1"]
    publisher.sent(1)
    publisher.sent(2)
    assert wire.sent == ["model/1/0", "model/1/1", "model", "rounds/current"]


def test_all_of_it_goes_out_again_over_the_connection_there_is(wire: Wire, publisher: Publisher) -> None:
    """As where another coordinator has written there. Seen to fail with what still waited alone."""
    publisher.put(POINTER, lambda: b"{}")
    publisher.put(ROUND, lambda: b"{}")
    publisher.repeat()
    assert wire.sent == ["model", "rounds/current"] * 2


def test_nothing_is_sent_while_the_broker_is_away(wire: Wire) -> None:
    publisher = Publisher(TOPICS, wire)
    publisher.put(POINTER, lambda: b"{}")
    assert wire.sent == []
    assert not publisher.idle


def test_what_is_removed_is_cleared_behind_the_rest_and_not_published_again(wire: Wire, publisher: Publisher) -> None:
    old = Address(Kind.SUMMARY, number=1)
    publisher.put(old, lambda: b"{}")
    publisher.remove(old)
    assert wire.sent == ["rounds/1", "rounds/1"]
    assert wire.payloads["rounds/1"] == b""
    publisher.sent(2)
    wire.sent.clear()
    publisher.connected()
    assert wire.sent == []


def test_what_the_broker_may_not_have_cleared_yet_is_cleared_again_after_a_connect(
    wire: Wire, publisher: Publisher
) -> None:
    """A gated link drops what was on its way. Seen to fail where nothing is known of it any more once it is sent: the
    broker kept the parts of an old model for as long as the run went on.
    """
    old = Address(Kind.MODEL_PART, number=1, part=0)
    publisher.remove(old)
    for _ in range(2):
        publisher.disconnected()
        publisher.connected()
    assert wire.sent == ["model/1/0"] * 3
    publisher.sent(1)  # the word on one that was lost means nothing
    assert publisher.holds(old)
    publisher.sent(3)
    assert not publisher.holds(old)
    publisher.connected()
    assert wire.sent[3:] == []


def test_what_is_put_where_something_is_being_cleared_stays(wire: Wire, publisher: Publisher) -> None:
    """Seen to fail with the broker's word on the clearing taken for one on whatever stands there."""
    publisher.remove(ROUND)
    publisher.put(ROUND, lambda: b"{}")
    publisher.sent(1)
    publisher.connected()
    assert wire.sent == ["rounds/current"] * 3
    assert wire.payloads["rounds/current"] == b"{}"


def test_what_is_cleared_twice_waits_for_its_turn_though_the_broker_has_the_first(
    wire: Wire, publisher: Publisher
) -> None:
    """Seen to fail with what waits forgotten at that word: its turn came, and nothing was known of it."""
    old = Address(Kind.SUMMARY, number=1)
    publisher.remove(old)
    publisher.put_blob(model(1, parts=1))
    publisher.remove(old)
    publisher.sent(1)
    publisher.sent(2)
    assert wire.sent == ["rounds/1", "model/1/0", "rounds/1"]
    assert publisher.idle


def test_of_two_blobs_each_goes_out_from_its_first_part(wire: Wire, publisher: Publisher) -> None:
    """Seen to fail with the place in the first one kept for the second: parts of it never went out."""
    first, second = plan(parts=2), model(0, parts=3)
    publisher.put_blob(first)
    publisher.put_blob(second)
    for token in range(1, 6):
        publisher.sent(token)
    digest = first.ref.digest
    assert wire.sent == [f"plan/{digest}/0", f"plan/{digest}/1", "model/0/0", "model/0/1", "model/0/2"]
    assert [codec.decode_part(payload).index for payload in wire.payloads.values()] == [0, 1, 0, 1, 2]


def test_once_the_broker_is_away_nothing_is_sent_whatever_comes_of_what_was_sent_before(
    wire: Wire, publisher: Publisher
) -> None:
    """Seen to fail with a late word of the broker's: a pointer and a round went out without a connection."""
    publisher.put_blob(model(1, parts=1))
    publisher.put(POINTER, lambda: b"{}")
    publisher.disconnected()
    publisher.sent(1)
    publisher.put(ROUND, lambda: b"{}")
    assert wire.sent == ["model/1/0"]


def test_nothing_to_send_is_no_sign_that_the_broker_has_it(wire: Wire) -> None:
    """It may have lost all of it meanwhile, or have old models: some brokers send those right after their answer.

    Seen to fail without the look at the connection, and where the first answer is waited for alone.
    """
    publisher = Publisher(TOPICS, wire)
    told = [publisher.idle]
    answers = partial(publisher.sent, -3), partial(publisher.sent, HEARD)
    for change in (publisher.connected, *answers, publisher.disconnected):
        change()
        told.append(publisher.idle)
    assert told == [False, False, False, True, False]


def test_a_blob_is_sent_from_where_it_was_shelved_and_shelved_once(wire: Wire) -> None:
    """Seen to fail with the bytes kept in memory instead."""
    shelved: list[bytearray] = []

    def shelve(blob: bytes) -> Bytes:
        shelved.append(bytearray(blob))
        return Shelved(shelved[-1])

    publisher = Publisher(TOPICS, wire, shelve)
    publisher.put_blob(model(1, parts=1))
    shelved[0][:] = b"s"
    for _ in range(2):
        publisher.connected()
    assert codec.decode_part(wire.payloads["model/1/0"]).payload == b"s"
    publisher.put_blob(replace(model(2, parts=1), data=Shelved(bytearray(b"z"))))  # lies where it can be read again
    assert len(shelved) == 1


def test_it_knows_what_of_the_tree_is_its_own(publisher: Publisher) -> None:
    """What it doesn't hold is swept away as an earlier run's. Seen to fail with parts beyond the last, or those of
    another version, taken for its own.
    """
    first, second = plan(parts=2), model(3, parts=2)
    for blob in (first, second):
        publisher.put_blob(blob)
    publisher.put(POINTER, lambda: b"{}")
    held = [POINTER, *[blob.address(index) for blob in (first, second) for index in range(2)]]
    foreign = [
        ROUND,
        *[blob.address(2) for blob in (first, second)],
        Address(Kind.MODEL_PART, number=2, part=0),
        Address(Kind.PLAN_PART, digest="0" * 64, part=0),
        Address(Kind.DELTA_PART, number=3, part=0),
    ]
    assert [publisher.holds(address) for address in held + foreign] == [True] * len(held) + [False] * len(foreign)


def test_a_device_s_status_is_told_from_all_else_by_its_topic(publisher: Publisher) -> None:
    assert publisher.is_presence(TOPICS.topic(Address(Kind.DEVICE, device="dev-a")))
    assert not publisher.is_presence(TOPICS.topic(Address(Kind.COMMAND, device="dev-a")))
    assert not publisher.is_presence("elsewhere")


def tell(publisher: Publisher, blob: Blob, *, retained: bool = True) -> None:
    """Have it hear a blob's first part."""
    part = codec.encode_part(cut(blob.data, blob.ref, 0))
    assert publisher.heard(TOPICS.topic(blob.address(0)), part, 0.0, retained=retained) is None


def test_old_models_are_listened_for_once_the_tree_is_out_and_until_the_next_model(wire: Wire) -> None:
    """By their first parts alone; each model of ours would come back else. Seen to fail where they are listened for at
    the connect, with all parts, and for as long as the run goes on.
    """
    publisher = Publisher(TOPICS, wire)
    publisher.put_blob(model(7, parts=1))
    publisher.put(ROUND, lambda: b"{}")
    publisher.connected()
    assert (wire.sent, wire.listened) == (["model/7/0"], [])
    publisher.sent(1)
    assert wire.sent == ["model/7/0", "rounds/current"]
    assert wire.listened == ["+coordinator", "+model/+/delta/0", "+model/+/0", "+coordinator"]
    publisher.put_blob(model(8, parts=1))
    publisher.put_blob(model(9, parts=1))
    assert wire.listened[4:] == ["-model/+/delta/0", "-model/+/0"]
    publisher.disconnected()
    publisher.connected()
    publisher.sent(len(wire.sent))
    assert wire.listened[6:] == ["+coordinator", "+model/+/delta/0", "+model/+/0", "+coordinator"]


def test_must_07_of_the_models_it_hears_of_it_clears_those_before_the_last_two(
    wire: Wire, publisher: Publisher
) -> None:
    """Nor a later one, nor what somebody says just now. Seen to fail for each of them."""
    publisher.put_blob(model(7, parts=1))
    publisher.sent(1)
    for version in (5, 6, 7, 8):
        tell(publisher, model(version, parts=2))
    tell(publisher, replace(model(4, parts=2), kind=Kind.DELTA_PART))
    tell(publisher, model(3), retained=False)
    assert publisher.heard(TOPICS.topic(Address(Kind.MODEL_PART, number=2, part=0)), b"?", 0.0, retained=True)
    for token in range(2, 9):
        publisher.sent(token)
    assert wire.sent[1:] == ["model/5/1", "model/5/0", "model/4/delta/1", "model/4/delta/0", "model/2/0"]
    assert not any(wire.payloads[topic] for topic in wire.sent[1:])


def test_old_models_are_cleared_a_few_parts_at_a_time_and_the_first_last(wire: Wire, publisher: Publisher) -> None:
    """So that the queue stays short, and a kill leaves a first part to be heard of. Seen to fail with all at once, and
    in the order in which they are published.
    """
    publisher.put_blob(model(7, parts=25))
    for token in range(1, 26):
        publisher.sent(token)
    tell(publisher, model(5, parts=50))
    token, waiting = 26, []
    while token <= len(wire.sent):
        waiting.append(publisher.position)
        assert len(wire.sent) - token < WINDOW
        publisher.sent(token)
        token += 1
    assert wire.sent[25:] == [f"model/5/{part}" for part in reversed(range(50))]
    assert publisher.idle
    assert len(set(waiting)) == 50, "each is a sign that the broker takes something"


def test_of_old_models_without_number_some_stay_until_it_listens_again(
    wire: Wire, publisher: Publisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A part names how many there are, and anybody may have written it. Seen to fail without either bound."""
    monkeypatch.setattr(leftovers, "MOST", 20)
    publisher.put_blob(model(90, parts=2))
    for token in (1, 2):
        publisher.sent(token)
    tell(publisher, model(0, parts=100))
    for version in range(1, 30):
        tell(publisher, model(version, parts=3))
    for token in range(3, 103):
        publisher.sent(token)
    assert wire.sent[2:6] == ["model/0/3", "model/0/2", "model/0/1", "model/0/0"], "twice as many as the newest has"
    assert len(wire.sent[6:]) == 20
    assert wire.sent[-2:] == ["model/7/2", "model/7/1"], "and not its first, to be heard again"


def test_what_a_life_that_was_killed_listened_for_is_not_sent_to_the_next(wire: Wire, publisher: Publisher) -> None:
    """A broker keeps the session. Seen to fail with an earlier run's alone: the first part of each model came back."""
    publisher.listen_no_more()
    subscribed = {one.removeprefix("+") for one in wire.listened if one.startswith("+model/")}
    assert subscribed
    assert subscribed <= {one.removeprefix("-") for one in wire.listened if one.startswith("-")}
