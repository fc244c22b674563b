"""A real device in a flood of mutated messages: it stays as it was, and its training ends as if nothing had come."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from pathlib import Path

from edge.backlog import MOST
from schemas import codec
from schemas.errors import Reject
from schemas.link.filters import matches
from schemas.link.link import Inbound
from schemas.messages import DeviceState, Outcome
from schemas.parts import cut
from schemas.topics import Address, Kind
from tests.edge_scripts import DEVICE, announcement, coordinator, model_blob, pointer, receipt
from tests.hostile.chance import draw
from tests.hostile.flood import is_bad, payload
from tests.test_agent import TOPICS, World

ROUNDS = 4
HEARD = (Kind.COORDINATOR, Kind.RUN, Kind.MODEL, Kind.ROUND, Kind.RECEIPT, Kind.COMMAND)
FOLLOWED = (*HEARD, Kind.MODEL_PART, Kind.PLAN_PART)


def bad(seed: object, count: int) -> Iterator[tuple[Address, bytes]]:
    """Mutated messages for every topic that a device reads, which say nothing that could be taken for a message."""
    rng, found = draw("device", seed), 0
    while found < count:
        kind = rng.choice(FOLLOWED)
        version = rng.choice((0, 1, 2, 3, 4))
        address = Address(kind, number=version, device=DEVICE, digest=pointer(0).digest, part=rng.choice((0, 1, 2)))
        content = payload(rng, kind, address)
        if is_bad(TOPICS.topic(address).removeprefix(TOPICS.prefix), content):
            yield address, content
            found += 1


def trained(state: Path, messages: int) -> tuple[World, list[bytes]]:
    """A device through some rounds, with so many bad messages before, in and between them; the updates it sent."""
    world, updates = World(state), list[bytes]()
    rng = draw("retained", messages)

    def throw(seed: object) -> None:
        for address, content in bad(seed, messages):
            world.desk.link.publish(TOPICS.topic(address), content, retain=rng.random() < 0.2)
        world.turn()

    throw("first")
    world.desk.begin()
    world.turn()
    for number in range(1, ROUNDS + 1):
        throw(number)
        message = world.desk.announce(announcement(number))
        throw(-number)
        world.turn()
        updates.append(world.desk.update)
        world.desk.updates.clear()
        world.desk.say(Kind.RECEIPT, receipt(message), number)
        world.turn()
        throw(number + 0.5)
        world.desk.offer(number)
        world.turn(1.0)
    return world, updates


def test_invariant_13_a_device_in_a_flood_trains_the_same_rounds_to_the_same_bits(tmp_path: Path) -> None:
    """Retained or not, and on the parts it waits for.

    Seen to fail with ``except ValueError`` in ``Agent._inbound``.
    """
    _, expected = trained(tmp_path / "quiet", 0)
    world, updates = trained(tmp_path / "loud", 40)
    assert updates == expected
    assert all(updates)
    assert (world.agent.status.state, world.agent.status.last_round) == (DeviceState.IDLE, ROUNDS)
    assert world.agent.rejected.total() > 200
    assert {Reject.MALFORMED, Reject.TOO_LARGE} <= world.agent.rejected.keys()
    assert len(world.trainer.trainings()) == ROUNDS


def test_invariant_13_each_bad_message_on_a_topic_it_follows_is_one_counted_rejection(tmp_path: Path) -> None:
    """One each, whatever came before. Seen to fail without the count in ``Agent._reject``."""
    world = World(tmp_path)
    world.desk.begin()
    world.turn()
    before = world.agent.status
    filters = [*(TOPICS.filter(kind) for kind in HEARD[:4]), TOPICS.filter(Kind.COMMAND, device=DEVICE)]
    filters += [TOPICS.filter(Kind.RECEIPT, device=DEVICE)]
    expected = 0
    for address, content in bad("each", 400):
        topic = TOPICS.topic(address)
        world.desk.link.publish(topic, content)
        expected += any(matches(one, topic) for one in filters)
        world.turn()
        assert world.agent.rejected.total() == expected, (topic, content[:80])
    assert expected > 200
    assert world.agent.status == before


def test_invariant_13_parts_of_another_blob_on_a_waited_for_topic_are_refused_and_the_model_still_comes(
    tmp_path: Path,
) -> None:
    """Wrong digest, another size, another index, and one of them again and again.

    Seen to fail without the comparison of blobs in ``Assembly.add``: the model never came.
    """
    world = World(tmp_path)
    world.desk.begin()
    world.turn()
    newest, other = pointer(1), pointer(2)
    world.desk.say(Kind.MODEL, newest)
    world.turn()
    lies = [
        cut(model_blob(2), other.blob, 0),
        cut(model_blob(1), newest.blob.model_copy(update={"size": 2999}), 0),
        cut(model_blob(1), newest.blob, 1),
        *[cut(model_blob(2), other.blob, 0)] * 50,
    ]
    topic = TOPICS.topic(Address(Kind.MODEL_PART, number=1, part=0))
    for part in lies:
        world.desk.link.publish(topic, codec.encode_part(part))
    world.turn()
    assert world.agent.rejected.total() == len(lies)
    assert world.agent.status.model_version == 0
    world.desk.offer(1)
    world.turn(1.0)
    assert world.agent.status.model_version == 1


def test_invariant_07_a_replayed_announcement_receipt_or_pointer_starts_nothing(tmp_path: Path) -> None:
    """Of this very run, as they were. Seen to fail without the memory of settled tickets in ``participation``."""
    world = World(tmp_path)
    world.desk.begin()
    world.turn()
    messages = []
    for number in (1, 2, 3):
        messages.append(world.desk.announce(announcement(number)))
        world.turn()
        world.desk.say(Kind.RECEIPT, receipt(messages[-1]), number)
        world.desk.offer(number)
        world.turn(1.0)
    before, jobs = world.agent.status, len(world.trainer.jobs)
    for message in messages:
        for _ in range(20):
            world.desk.announce(message)
            world.desk.say(Kind.RECEIPT, receipt(message), message.round)
            world.desk.say(Kind.RECEIPT, receipt(message, Outcome.INCOMPLETE, missing=(0, 1)), message.round)
            world.desk.say(Kind.MODEL, pointer(message.round - 1))
        world.turn(1.0)
    assert (world.agent.status, len(world.trainer.jobs)) == (before, jobs)


def test_invariant_11_a_flood_leaves_no_memory_behind(tmp_path: Path) -> None:
    """Valid messages too: announcements of ever new rounds and runs. Seen to fail with a list of what was refused."""
    world = World(tmp_path)
    world.desk.begin()
    world.turn()
    flood = list(bad("memory", 500))

    def throw(start: int) -> None:
        for address, content in flood:
            world.agent.handle(Inbound(TOPICS.topic(address), content), world.now)
        for number in range(start, start + 300):
            world.desk.say(Kind.COORDINATOR, coordinator())
            world.desk.announce(announcement(number, run=f"run-{number}", tag=number))
            world.desk.say(Kind.RECEIPT, receipt(announcement(number)), number)
        world.turn()

    throw(1000)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        throw(2000)
        assert tracemalloc.get_traced_memory()[0] - before < 2**20
    finally:
        tracemalloc.stop()


def test_invariant_11_what_a_broker_sends_without_end_waits_in_a_bounded_number_and_what_follows_is_heard(
    tmp_path: Path,
) -> None:
    """At QoS 0 nothing holds a broker back. Seen to fail without ``Backlog``: all 600 waited, and of a real device's
    memory they took 400 MB in 15 s.
    """
    world = World(tmp_path)
    world.desk.begin()
    world.turn()
    topic = TOPICS.topic(Address(Kind.COMMAND, device=DEVICE))
    for _ in range(2):  # once it has dealt with them, as many may come again
        for _ in range(600):
            world.desk.link.publish(topic, bytes(50_000), qos=0)
        world.broker.advance(0.0)
        assert 10 < len(world.posted) <= MOST // 50_000
        world.turn()
        assert not world.posted
    world.desk.link.publish(topic, b'{"command": "pause"}', qos=0)
    world.turn()
    assert world.agent.status.state is DeviceState.PAUSED
