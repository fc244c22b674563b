"""Who has been heard of and what was turned away stays in the journal, and no flood of names fills it."""

from __future__ import annotations

import contextlib
from pathlib import Path

import psutil
import pytest

from coordinator import database, roster
from coordinator.journal import Journal
from schemas.errors import StateError
from schemas.messages import MAX_DEVICES, DeviceState, DeviceStatus
from tests.test_journal import AT, announced, journal, nonce, path, summary, version

__all__ = ["journal", "path"]


def test_devices_and_rejections_are_remembered(journal: Journal, path: Path) -> None:
    status = DeviceStatus(device="dev-b", session=1, state=DeviceState.IDLE, examples=5)
    journal.roster.add(status, AT)
    journal.roster.add(DeviceStatus(device="dev-a", session=1, state=DeviceState.OFFLINE), AT)
    newest = status.model_copy(update={"session": 2})
    journal.roster.add(newest, AT)
    assert [each.device for each in journal.roster.devices()] == ["dev-a", "dev-b"]
    assert journal.roster.devices()[1] == newest
    journal.roster.add_rejections("run-1", 1, {"malformed": 2, "not-finite": 1})
    journal.open_round(announced(1))
    journal.commit_round(nonce(1), summary(1, rejected={"malformed": 3}), version(1), AT)
    assert journal.roster.rejections("run-1") == {"malformed": 5, "not-finite": 1}
    journal.close()
    with Journal(path) as again:
        assert again.roster.devices()[1] == newest
        assert again.roster.rejections("run-1") == {"malformed": 5, "not-finite": 1}


def test_names_whose_batch_was_undone_push_nobody_out(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk was full, say. Seen to fail without the first of the counts in ``_make_room``: some were forgotten."""
    monkeypatch.setattr(roster, "MAX_DEVICES", 20)
    known = [DeviceStatus(device=f"dev-{n:02d}", session=1, state=DeviceState.IDLE) for n in range(20)]
    for each in known[:10]:
        journal.roster.add(each, AT)
    with contextlib.suppress(StateError), journal.batch():
        for each in known[10:]:
            journal.roster.add(each, AT)
        raise StateError("the disk is full")
    assert len(journal.roster.devices()) == 10
    for each in known[10:]:
        journal.roster.add(each, AT)
    assert journal.roster.devices() == tuple(known)


def test_no_more_devices_are_remembered_than_may_be_known(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whose last word is the newest stays, whoever came first. Seen to fail with one more, and with the oldest kept."""
    monkeypatch.setattr(roster, "MAX_DEVICES", 20)
    add = journal.roster.add
    for n in range(20):
        add(DeviceStatus(device=f"dev-{n:02d}", session=1, state=DeviceState.IDLE), f"{n:03d}")
    add(DeviceStatus(device="dev-00", session=1, state=DeviceState.IDLE), "100")
    for n in range(20, 60):
        add(DeviceStatus(device=f"dev-{n:02d}", session=1, state=DeviceState.IDLE), f"{n:03d}")
        names = [status.device for status in journal.roster.devices()]
        assert len(names) <= 20
        assert {"dev-00", f"dev-{n:02d}"} <= set(names)
        assert names[1:] == [f"dev-{each:02d}" for each in range(n - len(names) + 2, n + 1)]


def test_invariant_11_a_hundred_thousand_forged_names_leave_file_and_memory_bounded(
    journal: Journal, path: Path
) -> None:
    """The devices heard last stay. Seen to fail without ``_make_room``."""
    process = psutil.Process()
    sizes, memory = [], []
    for first in range(0, 100_000, 1000):
        with journal.batch():
            for n in range(first, first + 1000):
                name = f"forged-{n:06d}"
                journal.roster.add(DeviceStatus(device=name, session=1, state=DeviceState.IDLE), f"{n:06d}")
        if first % 20_000 == 0:
            journal.checkpoint()
            sizes.append(path.stat().st_size)
            memory.append(process.memory_info().rss)
    names = [status.device for status in journal.roster.devices()]
    assert len(names) <= MAX_DEVICES
    assert names[-1] == "forged-099999"
    assert names[0] > "forged-089"
    assert max(sizes) < 1.5 * sizes[1]
    assert path.with_name(path.name + "-wal").stat().st_size <= 1.1 * database.WAL_LIMIT
    assert max(memory) - memory[1] < 32 * 2**20
