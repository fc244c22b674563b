"""The protocol's MUSTs 1 to 9, messages, parts and tensors: the real coordinator and the real agent over their links.

Each docstring ends with how the test was seen to fail.
"""

from __future__ import annotations

import json
import random
import re
import threading
import tracemalloc
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from coordinator import observers as seen
from edge.agent import Agent
from edge.core.jobs import Train
from edge.dataspec import DataSpec
from edge.device import Device
from edge.reactor import Reactor
from schemas import codec, compression
from schemas.errors import Reject
from schemas.link.link import Event, Link, Sent, Sink, Will
from schemas.messages import BlobRef, DeviceState, DeviceStatus, Join, ModelPointer, Outcome, Part, RoundAnnouncement
from schemas.parts import cut, describe
from schemas.topics import RULES, Address, Kind
from tests.edge_scripts import DEVICE, InstantTrainer, announcement, pointer, run
from tests.running_coordinator import RunningCoordinator, Said, Tap
from tests.scripted_device import ScriptedDevice, delta_of
from tests.test_agent import World
from tests.test_service import PLAN, TOPICS, check_model

DOCUMENT = Path(__file__).parents[1] / "docs" / "protocol.md"
MIB = 2**20


@dataclass
class TappedWorld(World):
    """A device whose publications and subscriptions are written down."""

    log: list[Said] = field(default_factory=list)

    def link(self, client_id: str, sink: Sink, will: Will) -> Link:
        self.tap = Tap(self.log, self.broker, client_id, sink, will)
        return self.tap


@pytest.fixture
def world(tmp_path: Path) -> TappedWorld:
    world = TappedWorld(tmp_path)
    world.desk.begin()
    world.turn()
    return world


@pytest.fixture
def three(tmp_path: Path) -> Iterator[tuple[RunningCoordinator, list[ScriptedDevice], RoundAnnouncement]]:
    """A coordinator in its only round, and three devices that joined and have said nothing since."""
    running = RunningCoordinator(tmp_path / "state", rounds=1, evaluate=False)
    devices = [running.device(f"dev-{number}") for number in range(3)]
    with running:
        yield running, devices, running.opened()


def documented() -> dict[Kind, tuple[str, bool, str]]:
    """Publisher, retain flag and form of each topic in the document's table."""
    rows = re.findall(r"^\| `([^`]+)` \| (\w+) \| (\w+)[^|]* \| (\w+) \|", DOCUMENT.read_text("utf-8"), re.MULTILINE)
    below = {Kind(re.sub(r"<(\w+)>", _placeholder, name)): rest for name, *rest in rows}
    return {kind: (publisher, retain == "yes", form.lower()) for kind, (publisher, retain, form) in below.items()}


def _placeholder(match: re.Match[str]) -> str:
    return f"{{{ {'n': 'number', 'version': 'number'}.get(match[1], match[1]) }}}"


def accepted(running: RunningCoordinator, devices: list[ScriptedDevice], asked: RoundAnnouncement) -> None:
    """The devices send their updates, all of which count, and the run ends with the model they make."""
    for device in devices:
        device.send(device.update(asked, 10))
    result = running.result()
    assert result.summaries[-1].devices == tuple(device.name for device in devices)
    check_model(result, devices, running.directory)


# -- topics and messages -----------------------------------------------------------------------------------------------


def test_must_01_every_message_has_the_tables_qos_and_retain_flag_and_comes_from_the_tables_publisher(
    tmp_path: Path,
) -> None:
    """A whole federation, agent included. Seen to fail with ``retain=False`` in ``Agent._publish``."""
    table = documented()
    assert table == {kind: (rule.publisher, rule.retain, rule.form) for kind, rule in RULES.items()}
    assert {rule.qos for rule in RULES.values()} == {1}

    def payload(job: Train) -> bytes:
        return compression.encode(job.codec, delta_of(DEVICE, 1, PLAN.manifest()), np.random.default_rng(job.seed))

    running = RunningCoordinator(tmp_path / "state", rounds=2, quorum=1, goal=1)
    reactor, trainer = Reactor(), InstantTrainer(held_out=3, payload=payload)
    device = Device(DEVICE, 1, DataSpec(path="x"), tmp_path / "device")
    reactor.add(Agent(device, TOPICS, running.link, trainer, reactor.post))
    agent = threading.Thread(target=reactor.run)
    with running:
        agent.start()
        assert running.result().version == 2
        reactor.stop()
        agent.join()
    for said in running.log:
        address = TOPICS.parse(said.topic)
        assert address is not None, said
        assert address.kind is Kind.JOIN or address.device != "nobody"
        if said.client != "anybody":
            assert (said.qos, said.retain) == (1, table[address.kind][1]), said.topic
            assert said.client == (address.device if table[address.kind][0] == "device" else "coordinator")
    assert {said.kind for said in running.log} == set(Kind) - {Kind.DELTA_PART, Kind.COMMAND, Kind.FINDINGS}


def test_must_01_an_update_at_qos_0_is_refused_and_counts_once_it_comes_at_qos_1(tmp_path: Path) -> None:
    """Seen to fail with the QoS left alone, which has no bound on what waits for us."""
    running = RunningCoordinator(tmp_path / "state", rounds=1, evaluate=False)
    devices = [running.device(f"dev-{number}") for number in range(3)]
    with running:
        asked = running.opened()
        topic = TOPICS.topic(Address(Kind.UPDATE_PART, number=1, device="dev-0", part=0))
        blob = codec.encode_update(devices[0].update(asked, 10))
        devices[0].link.publish(topic, codec.encode_part(cut(blob, describe(blob, len(blob)), 0)), qos=0)
        running.handled()
        (refused,) = running.of(seen.MessageRejected)
        assert (refused.reason, refused.device) == ("unexpected", "dev-0")
        assert not devices[0].receipts
        accepted(running, devices, asked)


def changed(message: Any, **fields: object) -> bytes:
    """A message's JSON with other fields; ``None`` leaves one out."""
    document = {**json.loads(codec.encode(message)), **fields}
    return json.dumps({name: value for name, value in document.items() if value is not None}).encode()


STATUS = DeviceStatus(device="dev-9", session=1, state=DeviceState.IDLE, examples=5)
BAD_STATUSES = {"state": None, "session": "7", "held_out": -1, "examples": 1.5, "heartbeat_s": float("nan")}
BAD_ANNOUNCEMENTS = {"nonce": None, "round": "1", "cohort": 2, "phase": "dancing", "remaining_s": float("inf")}


def test_must_02_a_coordinator_ignores_unknown_fields_and_refuses_bad_ones(tmp_path: Path) -> None:
    """A device counts as there only by a valid status. Seen to fail with ``strict=False`` in ``codec.decode``."""
    with RunningCoordinator(tmp_path / "state") as running:
        for number, (name, value) in enumerate(BAD_STATUSES.items(), start=1):
            running.say("devices/dev-9", changed(STATUS, **{name: value}))
            running.handled()
            assert len(running.of(seen.MessageRejected)) == number, name
        assert not running.of(seen.FleetSeen)
        running.say("devices/dev-9", changed(STATUS, colour="blue"))
        running.until(lambda: running.of(seen.FleetSeen) == [seen.FleetSeen(1, 1, 0)], "the device")


def test_must_02_a_device_ignores_unknown_fields_and_refuses_bad_ones(world: TappedWorld) -> None:
    """It trains only for a valid announcement. Seen to fail without the bounds of ``RoundAnnouncement.cohort``."""
    topic = TOPICS.topic(Address(Kind.ROUND))
    for number, (name, value) in enumerate(BAD_ANNOUNCEMENTS.items(), start=1):
        world.desk.link.publish(topic, changed(announcement(1), **{name: value}), retain=True)
        world.turn()
        assert (world.agent.rejected.total(), world.trainer.trainings()) == (number, []), name
    world.desk.link.publish(topic, changed(announcement(1), colour="blue"), retain=True)
    world.turn()
    assert len(world.trainer.trainings()) == 1


ANYWHERE = (
    "devices/dev-9",
    "rounds/1/join/dev-0",
    "rounds/1/join/DEV",
    "rounds/1/update/dev-0/0",
    "rounds/1/update/dev-0/1",
    "rounds/77/update/dev-9/0",
    "rounds/1/update/dev-0/seven",
)


def test_must_03_invariant_13_any_bytes_on_any_topic_are_one_counted_rejection_at_a_coordinator(
    three: tuple[RunningCoordinator, list[ScriptedDevice], RoundAnnouncement],
) -> None:
    """The round goes on as if nothing had come. Seen to fail with ``except ValueError`` in ``Inbox.receive``."""
    running, devices, asked = three

    @settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
    @given(
        st.sampled_from(ANYWHERE), st.binary(min_size=1, max_size=80) | st.sampled_from([b"{}", b"null", b"[" * 9000])
    )
    def throw(below: str, payload: bytes) -> None:
        before = running.count(seen.MessageRejected)
        running.say(below, payload)
        running.until(lambda: running.count(seen.MessageRejected) == before + 1, f"{payload!r} on {below}")

    throw()
    rejections = running.of(seen.MessageRejected)
    assert all(one.reason in set(Reject) and one.topic for one in rejections)
    assert (running.of(seen.DeviceDeclined), running.of(seen.FleetSeen)) == ([], [seen.FleetSeen(3, 3, 0)])
    accepted(running, devices, asked)


def test_must_04_a_coordinator_refuses_what_names_another_device_than_its_topic(
    three: tuple[RunningCoordinator, list[ScriptedDevice], RoundAnnouncement],
) -> None:
    """Neither suffers. Seen to fail without the comparison in ``Inbox._check_identity``, and in ``inbox._status``."""
    running, devices, asked = three
    join = Join(run="run-1", round=1, task="train", nonce=asked.nonce, device="dev-1", accepts=False, reason="no")
    running.say("rounds/1/join/dev-0", codec.encode(join))
    running.say("devices/dev-0", changed(STATUS, device="dev-1", state="stopped"))
    blob = codec.encode_update(devices[1].update(asked, 10))
    running.say("rounds/1/update/dev-7/0", codec.encode_part(cut(blob, describe(blob, 10_000), 0)))
    running.handled()
    assert [one.reason for one in running.of(seen.MessageRejected)] == [Reject.WRONG_SENDER] * 3
    assert all(not device.receipts for device in devices)
    accepted(running, devices, asked)


# -- blobs and parts ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_must_05_parts_in_any_order_and_repeated_make_the_update(
    three: tuple[RunningCoordinator, list[ScriptedDevice], RoundAnnouncement], seed: int
) -> None:
    """Seen to fail with parts joined one behind another as they come, in ``Assembly.add``."""
    running, devices, asked = three
    draw = random.Random(seed)  # noqa: S311 - an order, no secret
    parts = describe(codec.encode_update(devices[0].update(asked, 10)), 1024).parts
    order = [*range(parts), *range(parts - 1), 0]
    draw.shuffle(order)
    devices[0].send(devices[0].update(asked, 10), tuple(order))
    running.until(lambda: devices[0].outcomes(1)[:1] == [Outcome.ACCEPTED], "a receipt")
    accepted(running, devices, asked)


def test_must_05_an_update_with_one_wrong_bit_is_not_used(
    three: tuple[RunningCoordinator, list[ScriptedDevice], RoundAnnouncement],
) -> None:
    """Seen to fail without the comparison of digests in ``Assembly.blob``."""
    running, devices, asked = three
    blob = codec.encode_update(devices[0].update(asked, 10))
    ref = describe(blob, 1024)
    for index in range(ref.parts):
        payload = cut(blob, ref, index).payload
        if index == 3:  # in the middle of the numbers
            payload = bytes([payload[0] ^ 1]) + payload[1:]
        part = Part(blob=ref, index=index, payload=payload)
        running.say(f"rounds/1/update/dev-0/{index}", codec.encode_part(part))
    running.until(lambda: devices[0].outcomes(1) == [Outcome.REJECTED], "a receipt")
    assert Reject.WRONG_DIGEST in devices[0].receipts[0].reason
    accepted(running, devices[1:], asked)


def peak_of(action: Callable[[], None]) -> int:
    """The most bytes of Python's memory that ``action`` added at any time."""
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        action()
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()


def test_must_06_invariant_11_a_coordinator_refuses_a_part_of_an_absurd_blob_and_sets_nothing_aside(
    three: tuple[RunningCoordinator, list[ScriptedDevice], RoundAnnouncement],
) -> None:
    """Seen to fail without the limit in ``Assembly``."""
    running, devices, asked = three
    absurd = BlobRef(digest="a" * 64, size=2**33, parts=2**16)
    part = codec.encode_part(Part(blob=absurd, index=1, payload=bytes(2**17)))

    def send() -> None:
        running.say("rounds/1/update/dev-0/1", part)
        running.handled()

    assert peak_of(send) < 4 * MIB
    assert [one.reason for one in running.of(seen.MessageRejected)] == [Reject.TOO_LARGE]
    accepted(running, devices[1:], asked)


@pytest.mark.parametrize("what", ["plan", "model"])
def test_must_06_a_device_refuses_an_absurd_blob_before_it_asks_for_a_part(world: TappedWorld, what: str) -> None:
    """And says so in its status. Seen to fail without the limit in ``Assembly``."""
    absurd = BlobRef(digest="a" * 64, size=2**33, parts=2**16)
    before = world.tap.most_open
    if what == "plan":
        world.desk.say(Kind.RUN, run("run-two", plan=absurd))
    else:
        world.desk.say(Kind.MODEL, pointer(1).model_copy(update={"blob": absurd}))
    assert peak_of(world.turn) < MIB
    assert world.agent.status.state is DeviceState.TROUBLE
    assert "at most" in world.agent.status.detail
    assert (world.tap.open_parts, world.tap.most_open) == (set(), before)


def test_must_07_a_pointer_follows_the_brokers_word_on_its_last_part_and_old_parts_go_after_that(
    tmp_path: Path,
) -> None:
    """Acknowledgements are withheld and let through one by one.

    Seen to fail without ``not self._in_flight`` in ``Publisher._send_parts``, and with ``remove`` clearing at once.
    """
    running, held = RunningCoordinator(tmp_path / "state", rounds=2, evaluate=False), list[Event]()
    for number in range(3):
        running.device(f"dev-{number}", start=False)
    devices = [running.device(f"dev-{number}") for number in range(3)]

    def withhold(event: Event) -> Event | None:
        # Not the answers to its subscriptions, without which it publishes no part at all.
        if isinstance(event, Sent) and any(said.kind is Kind.PLAN_PART for said in tuple(running.log)):
            held.append(event)
            return None
        return event

    def pointers() -> list[int]:
        found = [codec.decode(Kind.MODEL, said.payload) for said in tuple(running.log) if said.kind is Kind.MODEL]
        return [one.version for one in found if isinstance(one, ModelPointer)]

    def let_through() -> None:
        """All but the newest of what waits, until no more comes; then that one too."""
        while len(held) > 1:
            running.sink(held.pop(0))
            running.handled()

    running.sieve = withhold
    with running:
        running.until(lambda: any(said.kind is Kind.PLAN_PART for said in tuple(running.log)), "the plan")
        running.handled()
        assert not any(said.kind is Kind.RUN for said in running.log)
        while not any(said.kind is Kind.RUN for said in tuple(running.log)):
            running.sink(held.pop(0))
            running.handled()
        let_through()
        parts = [said for said in running.log if said.kind is Kind.MODEL_PART]
        assert len(parts) > 4  # several, all with the broker
        assert pointers() == []
        running.sink(held.pop())
        running.handled()
        assert pointers() == [0]
        running.sieve = lambda event: event
        deque(map(running.sink, held), maxlen=0)
        for attempt in (1, 2):
            asked = running.opened(attempt)
            for device in devices:
                device.send(device.update(asked, 10))
        running.result()
    assert pointers() == [0, 1, 2]
    kinds = [(said.kind, said.topic, bool(said.payload)) for said in running.log]
    cleared = [at for at, (kind, topic, full) in enumerate(kinds) if kind is Kind.MODEL_PART and not full]
    assert cleared
    assert {kinds[at][1].split("/")[-2] for at in cleared} == {"0"}
    assert min(cleared) > max(at for at, (kind, _, _) in enumerate(kinds) if kind is Kind.MODEL)


def test_must_08_a_device_is_never_subscribed_to_more_than_a_few_parts(world: TappedWorld) -> None:
    """And to none once it has the blob. Seen to fail with a window of 1000 in ``edge.download``."""
    newest = world.desk.offer(1, size=100_000)
    world.turn()
    assert world.agent.status.model_version == 1
    assert newest.blob.parts == 98
    assert world.tap.most_open <= 16
    assert world.tap.open_parts == set()


# -- tensors -----------------------------------------------------------------------------------------------------------


def raw(number: int, packing: int, size: int, body: bytes) -> bytes:
    """A payload with this header."""
    return compression.HEADER.pack(compression.MARK, number, packing, size) + body


def bomb(size: int, *, honest: bool) -> bytes:
    """``size`` zero bytes, packed in a frame that says how many they are, where it is ``honest``."""
    packer = zstandard.ZstdCompressor(write_content_size=honest).compressobj(size if honest else -1)
    return packer.compress(bytes(size)) + packer.flush()


def hostile(manifest_size: int) -> dict[str, bytes]:
    """Payloads that claim or hold what no delta of this size does."""
    body = 4 * manifest_size
    known = {name: compression.TABLE[name].ID for name in compression.NAMES}
    bombs = {f"{name}: a bomb": raw(number, 1, body, bomb(7 * MIB, honest=False)) for name, number in known.items()}
    claims = {
        f"{name}: an open bomb": raw(number, 1, 7 * MIB, bomb(7 * MIB, honest=True)) for name, number in known.items()
    }
    return {
        **bombs,
        **claims,
        "NaN": raw(known["float32"], 0, body, b"\xff" * body),
        "infinite scales": raw(known["int8"], 0, manifest_size + 8, b"\xff\xf0\x7f" * ((manifest_size + 8) // 3)),
        "too short": raw(known["float32"], 0, body - 4, bytes(body - 4)),
        "too long": raw(known["float32"], 0, body + 4, bytes(body + 4)),
        "an unknown codec": raw(200, 0, body, bytes(body)),
        "nothing of ours": b"\x00" * 100,
    }


@pytest.mark.parametrize("name", compression.NAMES)
def test_must_09_a_payload_and_the_manifest_are_all_a_decoder_needs(name: str) -> None:
    """Seen to fail with the codec's ID left out of the header, zero, in ``compression.encode``."""
    delta = delta_of("dev-0", 1, PLAN.manifest())
    decoded = compression.decode(compression.encode(name, delta, np.random.default_rng(1)), PLAN.manifest())
    most = 1 if compression.TABLE[name].FEEDBACK else 0.8  # of one bit a value, 0.76
    assert decoded.subtract(delta).norm() < most * delta.norm()


@pytest.mark.parametrize("case", hostile(1500))
def test_must_09_a_payload_out_of_bounds_is_rejected_with_a_receipt_and_costs_no_memory(
    three: tuple[RunningCoordinator, list[ScriptedDevice], RoundAnnouncement], case: str
) -> None:
    """Seen to fail without the check of finite values in ``compression.decode``, and without that of sizes there."""
    running, devices, asked = three
    update = devices[0].update(asked, 10).model_copy(update={"payload": hostile(1500)[case]})

    def send() -> None:
        devices[0].send(update)
        running.until(lambda: devices[0].outcomes(1) == [Outcome.REJECTED], "a receipt")

    assert peak_of(send) < MIB
    accepted(running, devices[1:], asked)
