"""Floods of parts that never make an update: what is kept of them is bounded, and honest devices get through.

The real inbox and its spool; no broker, so that a flood costs no more than its decoding.
"""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from coordinator.events import Rejected, UpdateStalled
from coordinator.inbox import BLOCK, ENTRY_COST, STALL_S, STALLS, Delivery, Inbox
from coordinator.round_state import State
from coordinator.spool import Spool
from schemas import codec
from schemas.errors import Reject
from schemas.messages import BlobRef, Part
from tests.hostile.chance import draw
from tests.test_inbox import MANIFEST, TOPICS, at, collecting, parts, put, send, update, update_topic

MIB = 2**20
ROOM = 4 * MIB
FLOOD = 8000


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Inbox]:
    with Spool(tmp_path) as spool:
        yield Inbox(TOPICS, "run-1", MANIFEST, classes=2, room=ROOM, store=spool.slot)


def grown(action: Callable[[], None]) -> int:
    """The bytes of Python's memory that ``action`` leaves behind."""
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        action()
        return tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()


def piece(number: int, size: int = 2, count: int = 2, index: int = 1) -> bytes:
    """One part of a blob of its own, of which no other part ever comes."""
    stride = -(-size // count)
    blob = BlobRef(digest=f"{number:064x}", size=size, parts=count)
    payload = bytes(min(stride, size - index * stride))
    return codec.encode_part(Part(blob=blob, index=index, payload=payload))


def test_invariant_11_unfinished_blobs_of_thousands_of_names_take_no_more_than_their_room(box: Inbox) -> None:
    """Two bytes each, and three kB of memory. Seen to fail with ``_cost`` the blob's size alone: 20 MB, and no end."""
    state = collecting()

    def pour() -> None:
        for number in range(FLOOD):
            assert box.receive(update_topic(f"eve-{number}", 1), piece(number), state) is None

    assert grown(pour) < 6 * MIB
    assert box.buffered <= ROOM
    assert box.buffered > ROOM - 2 * (BLOCK + ENTRY_COST)  # it is full
    (arrival,) = send(box, at(state, STALL_S), update(state))  # those that have stalled give way
    assert isinstance(arrival, Delivery)


def test_invariant_11_while_the_room_is_full_an_honest_device_is_called_back_and_gets_through(box: Inbox) -> None:
    """Seen to fail without ``_turned_away``: nobody told it when there was room."""
    state, sent = collecting(), update(collecting())
    for number in range(FLOOD // 16):
        box.receive(update_topic(f"eve-{number}", 1), piece(number), state)
    assert send(box, state, sent) == []
    later = at(state, STALL_S * 5)
    called = [event.device for event in box.poll(later) if isinstance(event, UpdateStalled)]
    assert "dev-1" in called
    (arrival,) = send(box, later, sent)
    assert isinstance(arrival, Delivery)


def test_invariant_11_one_name_with_thousands_of_blobs_has_two_of_them_kept(box: Inbox) -> None:
    """Interleaved with an honest update of another device. Seen to fail without ``PER_DEVICE``."""
    state = collecting()
    honest = iter(parts(codec.encode_update(update(state)), 100))

    def pour() -> None:
        for number in range(FLOOD):
            box.receive(update_topic("dev-2", 1), piece(number, 60_000), state)
            if number % 800 == 0 and (part := next(honest, None)) is not None:
                put(box, state, [part])

    assert grown(pour) < 2 * MIB
    assert box.buffered < 3 * (60_000 + BLOCK + ENTRY_COST)
    (arrival,) = put(box, state, list(honest))
    assert isinstance(arrival, Delivery)


def test_invariant_11_one_part_repeated_for_ever_is_kept_once_and_is_no_sign_of_life(box: Inbox) -> None:
    """It doesn't put off the day when its update is given up. Seen to fail with ``fed_at`` set by every part."""
    state = collecting()
    first, *_ = parts(codec.encode_update(update(state)), 300)
    put(box, state, [first])
    full = box.buffered

    def pour() -> None:
        for _ in range(FLOOD // 4):
            put(box, at(state, STALL_S / 2), [first])

    assert grown(pour) < MIB
    assert box.buffered == full
    assert [type(event) for event in box.poll(at(state, STALL_S))] == [UpdateStalled]
    for second in range(60):
        put(box, at(state, second), [first])
        list(box.poll(at(state, second)))
    assert box.buffered in {0, full}  # given up, and begun anew by the next repetition


@pytest.mark.parametrize(
    ("size", "count", "why"),
    [
        (2**33, 2**16, Reject.TOO_LARGE),  # larger than any update of this model
        (60_000, 60_000, Reject.TOO_LARGE),  # a byte a part
        (1000, 900, Reject.MALFORMED),  # two bytes a part make 500 of them
        (1000, 3, None),
    ],
)
def test_invariant_11_a_part_of_a_blob_that_no_update_can_be_is_refused_at_once(
    box: Inbox, size: int, count: int, why: Reject | None
) -> None:
    """Seen to fail without the bound on the cost in ``Inbox._entry``: the second held 7 MB of the room."""
    arrival = box.receive(update_topic("eve-1", 1), piece(7, size, count), collecting())
    assert (arrival.reason if isinstance(arrival, Rejected) else None) is why
    assert (box.buffered == 0) == (why is not None)


@pytest.mark.parametrize("spoofed", [False, True], ids=["on their own topics", "on the devices' topics"])
def test_invariant_13_a_storm_of_others_parts_loses_no_honest_update(tmp_path: Path, *, spoofed: bool) -> None:
    """Forty devices' parts in any order among copies of them and mutated ones.

    Liars who write on their own topics alone, as a broker's access list has them, lose nobody a part. Where they can
    write on the devices' topics, the updates come at the devices' next try. Seen to fail with ``_refused`` by digest
    alone: a copy of a first part on another's topic stopped the rest of it.
    """
    rng, state = draw("storm"), collecting(devices=40)
    with Spool(tmp_path) as spool:
        box = Inbox(TOPICS, "run-1", MANIFEST, classes=2, store=spool.slot)
        honest: list[tuple[str, bytes]] = []
        for number in range(40):
            name = f"dev-{number}"
            pieces = parts(codec.encode_update(update(state, device=name)), 300)
            honest += [(update_topic(name, part.index), codec.encode_part(part)) for part in pieces]
        said = list(honest)
        for topic, payload in honest:
            broken = bytearray(payload)
            broken[rng.randrange(40)] ^= 1 << rng.randrange(8)  # in its digest, size or count
            elsewhere = rng.choice(honest)[0] if spoofed else update_topic(f"eve-{rng.randrange(5)}", rng.randrange(6))
            said += [(elsewhere, payload), (topic if spoofed else elsewhere, bytes(broken))]
        rng.shuffle(said)
        delivered = deliveries(box, state, said)
        assert spoofed or len(delivered) == 40
        later = at(state, STALL_S * (STALLS + 1))
        list(box.poll(later))  # gives up what was begun with a lie, before the devices send again after 30 s
        assert delivered | deliveries(box, later, honest) == {f"dev-{number}" for number in range(40)}


def deliveries(box: Inbox, state: State, said: list[tuple[str, bytes]]) -> set[str]:
    """The devices whose whole and valid updates came of what was said."""
    arrivals = [box.receive(topic, payload, state) for topic, payload in said]
    whole = [one for one in arrivals if isinstance(one, Delivery) and one.content is not None]
    return {one.event.header.device for one in whole}
