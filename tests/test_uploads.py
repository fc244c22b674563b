"""Updates of one device on their way: onto the disk, to the broker in parts, and what a disk does to that."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from edge.core import effects as fx
from edge.core import events as ev
from edge.core.events import Parcel, Ticket
from edge.device_log import DeviceLog
from edge.meter import Meter
from edge.outbox import Outbox
from edge.store import Store
from edge.uploads import Uploads
from schemas import codec
from schemas.errors import StateError
from schemas.messages import MAX_PARTS, TAG, Outcome, Update
from schemas.topics import Address, Kind
from tests.edge_scripts import DEVICE, announcement

ABOUT = announcement(3)
TICKET = Ticket.of(ABOUT)
PART = 1024
PLAN = "a" * 64


class Bench:
    """A device's uploads; what it publishes has its place in ``sent`` for a token."""

    def __init__(self, state: Path) -> None:
        self.sent: list[tuple[Address, bytes]] = []
        self.meter = Meter(counts=True)
        self.outbox = Outbox(state / "outbox", print)
        log = DeviceLog(DEVICE, lambda: 0.0)
        self.uploads = Uploads(DEVICE, self.outbox, Store(state, print), self.publish, self.meter, log)

    def publish(self, address: Address, payload: bytes) -> int:
        self.sent.append((address, payload))
        return len(self.sent)

    def keep(self, size: int = 10_000, part_size: int = PART, residual: bytes = b"") -> ev.Event:
        """Put an update with a payload of so many bytes on disk."""
        about = {"round": TICKET.round, "task": "train", "nonce": TICKET.nonce, "device": DEVICE, "examples": 100}
        update = Update.model_validate({**about, "model_version": 2, "model_tag": "0" * TAG, "payload": bytes(size)})
        return self.uploads.keep(fx.StoreUpdate(TICKET, update, part_size, PLAN, residual), 0.0)

    def kept(self) -> Parcel:
        stored = self.keep()
        assert isinstance(stored, ev.UpdateStored)
        return stored.parcel


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


@pytest.mark.parametrize("limit", [1500, 2048, 100_000])
def test_no_part_is_larger_than_the_broker_takes_or_than_the_run_wants(bench: Bench, limit: int) -> None:
    """Seen to fail with no room left for what is around a part's payload."""
    bench.uploads.limit = limit
    stored = bench.keep(part_size=3000)
    assert isinstance(stored, ev.UpdateStored)
    bench.uploads.send(stored.parcel, None, 0.0)
    assert max(len(payload) for _, payload in bench.sent) <= limit
    assert max(len(codec.decode_part(payload).payload) for _, payload in bench.sent) <= 3000


def test_the_parts_that_are_asked_for_are_sent_and_no_others(bench: Bench) -> None:
    parcel = bench.kept()
    assert bench.uploads.send(parcel, (7, 2), 0.0) == ()
    assert [address for address, _ in bench.sent] == [
        Address(Kind.UPDATE_PART, number=3, device=DEVICE, part=index) for index in (7, 2)
    ]
    assert [codec.decode_part(payload).index for _, payload in bench.sent] == [7, 2]


def test_what_an_update_leaves_out_is_kept_for_the_next_one(bench: Bench) -> None:
    """Seen to fail without it: what ``topk`` leaves out would be lost for good."""
    bench.keep(residual=b"left out")
    bench.outbox.settle(TICKET, Outcome.ACCEPTED.value)
    following = Ticket.of(announcement(4))
    assert bench.outbox.residual(following, PLAN) == b"left out"
    assert bench.outbox.residual(following, "b" * 64) == b""


def test_an_update_of_too_many_parts_is_not_stored_and_that_is_said(bench: Bench) -> None:
    """Of a broker that takes next to nothing. Seen to fail with the error let through, which ended the device."""
    bench.uploads.limit = 1
    failed = bench.keep(MAX_PARTS + 1)
    assert isinstance(failed, ev.StoreFailed)
    assert "use a larger part size" in failed.reason


def test_only_what_is_most_of_an_update_tells_the_links_speed_by_all_its_bytes(bench: Bench) -> None:
    """What is sent once more may wait behind what is under way. Seen to fail with the last part's bytes alone."""
    parcel = bench.kept()
    bench.uploads.send(parcel, (0, 1), 0.0)
    assert bench.meter.acknowledged(len(bench.sent), 5.0) == ()
    before = len(bench.sent)
    bench.uploads.send(parcel, None, 10.0)
    (uploaded,) = bench.meter.acknowledged(len(bench.sent), 15.0)
    assert isinstance(uploaded, ev.Uploaded)
    assert (uploaded.size, uploaded.seconds) == (sum(len(payload) for _, payload in bench.sent[before:]), 5.0)


def test_an_update_that_has_rotted_on_disk_is_lost_and_nothing_of_it_is_sent(tmp_path: Path) -> None:
    """Seen to fail where that was told to nobody: the device would have tried for ever."""
    bench = Bench(tmp_path)
    parcel = bench.kept()
    again = Bench(tmp_path)  # after a start, when the bytes are read from the disk
    (path,) = (tmp_path / "outbox").glob("*.update")
    path.write_bytes(path.read_bytes()[:-1])
    assert again.uploads.send(parcel, None, 0.0) == (ev.UpdateLost(TICKET),)
    assert again.sent == []


def test_an_update_that_the_disk_does_not_give_just_now_is_not_lost(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Seen to fail where it counted as lost, and where nobody was told."""
    parcel = bench.kept()

    def refused(_ticket: Ticket) -> bytes:
        raise StateError("can't read it: Input/output error; see to the disk")

    with monkeypatch.context() as failing, caplog.at_level(logging.WARNING):
        failing.setattr(bench.outbox, "blob", refused)
        assert bench.uploads.send(parcel, None, 0.0) == ()
    assert "see to the disk" in caplog.text
    bench.uploads.send(parcel, None, 1.0)
    assert len(bench.sent) == parcel.ref.parts
