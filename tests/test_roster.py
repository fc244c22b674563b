"""Who has been heard of and what was turned away stays in the journal, and no flood of names fills it."""

from __future__ import annotations

from pathlib import Path

import psutil

from coordinator import database
from coordinator.journal import Journal
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
