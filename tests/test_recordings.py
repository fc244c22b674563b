from __future__ import annotations

import errno
import math
import os
from array import array
from datetime import datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import wfdb
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.live.source import Lead, Signal
from edge.record.recordings import Recordings, claim
from edge.record.segment_files import number_of, remove, segments
from edge.record.segments import frames
from schemas.errors import DiskFull, StateError
from tests.full_disks import Ballast, small_disk
from tests.locked_folder import NOBODY, locked_folder

RATE = 100.0
TWO = Signal((Lead("MLII", 200.0, 1024), Lead("V5")), RATE)
DAY = datetime.fromisoformat("2026-01-02T03:04:05")


class Shelf:
    """A directory of recordings, the clock its names are given by, and what was reported."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.today = DAY
        self.reports: list[str] = []
        self.store = self.again()

    def again(self) -> Recordings:
        """As the next start has it."""
        self.store = Recordings(self.directory, lambda: self.today, self.reports.append)
        return self.store

    def record(self, seconds: int, ended_s: float = 0.0, first: int = 1) -> str:
        name = self.store.begin(TWO, {"running_s": f"{ended_s - seconds:.1f}"})
        for second in range(seconds):
            self.store.append(block(first + second), sync=True)
        assert self.store.finish({"ended_s": f"{ended_s:.1f}", "quality": "1.000 1.000"}) is not None
        return name

    def fill(self) -> None:
        while True:
            self.store.append(block(1), sync=True)


def block(number: int) -> bytes:
    """A second in which no sample is 0."""
    one = array("h", [number + n for n in range(100)])
    return frames((one, array("h", [-value for value in one])))


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path)


def files(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_a_segment_is_seen_when_it_is_whole_and_not_before(shelf: Shelf) -> None:
    name = shelf.store.begin(TWO, {"after": "start"})
    shelf.store.append(block(1), sync=True)
    assert files(shelf.directory) == [f"{name}.dat", f"{name}.open"]
    assert segments(shelf.directory) == ()
    shelf.store.append(block(2), sync=False)
    segment = shelf.store.finish({"ended": "stopped"})
    assert segment is not None
    assert files(shelf.directory) == [f"{name}.dat", f"{name}.hea"]
    assert segments(shelf.directory) == (segment,)
    assert segment.size == sum(path.stat().st_blocks * 512 for path in shelf.directory.iterdir())
    read = wfdb.rdrecord(str(shelf.directory / name), physical=False)
    assert read.d_signal.tolist() == np.frombuffer(block(1) + block(2), "<i2").reshape(-1, 2).tolist()
    assert [total % 2**16 for total in read.checksum] == read.calc_checksum()
    assert {"after: start", "ended: stopped"} <= set(read.comments)


def test_nobody_else_may_read_them(shelf: Shelf) -> None:
    shelf.record(1)
    assert {path.stat().st_mode & 0o777 for path in shelf.directory.iterdir()} == {0o600}


@pytest.mark.parametrize("torn", range(8))
def test_a_segment_left_open_is_finished_with_every_whole_frame(shelf: Shelf, torn: int) -> None:
    name = shelf.store.begin(TWO, {"running_s": "50.0"})
    for number in range(1, 8):
        shelf.store.append(block(number), sync=True)
    data = shelf.directory / f"{name}.dat"
    with data.open("r+b") as file:
        file.truncate(7 * 400 - torn)
    (segment,) = shelf.again().recover()
    read = wfdb.rdrecord(str(shelf.directory / name), physical=False)
    assert read.sig_len == (2800 - torn) // 4
    assert [total % 2**16 for total in read.checksum] == read.calc_checksum()
    assert "ended: crash" in read.comments
    assert segment.ended_s == pytest.approx(50 + read.sig_len / RATE, abs=0.1)
    assert files(shelf.directory) == [f"{name}.dat", f"{name}.hea"]
    assert not shelf.reports


def test_zeros_that_a_power_cut_left_at_the_end_are_cut_off_and_others_are_not(shelf: Shelf) -> None:
    name = shelf.store.begin(TWO, {})
    shelf.store.append(block(1) + bytes(4) + block(2) + bytes(300), sync=True)
    (segment,) = shelf.again().recover()
    assert segment.glance.samples == 201
    assert (shelf.directory / f"{name}.dat").stat().st_size == 804


def test_a_segment_without_a_sample_leaves_nothing(shelf: Shelf) -> None:
    shelf.store.begin(TWO, {})
    assert shelf.again().recover() == ()
    assert files(shelf.directory) == []


@pytest.mark.parametrize("finished", [True, False])
def test_a_crash_while_a_segment_is_finished_loses_nothing(shelf: Shelf, *, finished: bool) -> None:
    name = shelf.record(3)
    header = shelf.directory / f"{name}.hea"
    opened = header.read_text().replace(f" {RATE:g} 300 ", f" {RATE:g} 0 ")
    (shelf.directory / f"{name}.open").write_text(opened)
    if not finished:
        header.rename(header.with_name(f"{name}.hea.new"))
    (shelf.directory / "ecg_000009_20260102T030405.open.new").touch()
    (segment,) = shelf.again().recover()
    assert not list(shelf.directory.glob("*.new"))
    assert (segment.glance.samples, wfdb.rdrecord(str(header.with_suffix(""))).sig_len) == (300, 300)


def test_a_damaged_header_of_an_open_segment_is_set_aside_and_told(shelf: Shelf) -> None:
    name = shelf.store.begin(TWO, {})
    shelf.store.append(block(1), sync=True)
    (shelf.directory / f"{name}.open").write_bytes(b"\xff\x00")
    assert shelf.again().recover() == ()
    assert "set aside" in shelf.reports[0]
    assert shelf.again().recover() == ()


@settings(deadline=None, max_examples=60)
@given(st.binary(max_size=40), st.integers(0, 400), st.integers(0, 40), st.binary(max_size=300))
def test_whatever_a_failing_card_makes_of_an_open_segment_the_next_start_goes_on(
    noise: bytes, at: int, cut: int, data: bytes
) -> None:
    with TemporaryDirectory() as folder:
        shelf = Shelf(Path(folder))
        name = shelf.store.begin(TWO, {"running_s": "5.0"})
        header = shelf.directory / f"{name}.open"
        good = header.read_bytes()
        header.write_bytes(good[:at] + noise + good[at + cut :])
        (shelf.directory / f"{name}.dat").write_bytes(data)
        shelf.again().recover()
        assert math.isfinite(shelf.store.ran_s)
        assert not header.exists()
        for whole in segments(shelf.directory):
            assert whole.glance.name == name
        again = shelf.again()
        assert again.recover() == ()
        again.begin(TWO, {})


def test_numbers_go_on_and_order_segments_whatever_the_date_says(shelf: Shelf) -> None:
    names = [shelf.record(1)]
    shelf.today = DAY - timedelta(days=9000)
    names.append(shelf.record(1))
    shelf.again()
    shelf.today = DAY + timedelta(days=9000)
    names.append(shelf.record(1))
    assert [segment.glance.name for segment in segments(shelf.directory)] == names
    assert names[1] == "ecg_000002_20010513T030405"
    assert [number_of(Path(name)) for name in names] == [1, 2, 3]


def test_the_oldest_go_until_size_and_age_are_kept(shelf: Shelf) -> None:
    names = [shelf.record(10, ended_s=1000.0 * number) for number in range(1, 6)]
    one = segments(shelf.directory)[0].size
    gone = shelf.store.prune(None, 3500.0, 5000.0)
    assert [segment.glance.name for segment in gone] == names[:1]
    gone = shelf.store.prune(2 * one + 100, None, 5000.0)
    assert [segment.glance.name for segment in gone] == names[1:3]
    assert shelf.store.prune(2 * one + 100, 3500.0, 5000.0) == ()
    assert len(files(shelf.directory)) == 4


def test_the_segment_in_hand_counts_and_stays(shelf: Shelf) -> None:
    shelf.record(10)
    name = shelf.store.begin(TWO, {})
    for number in range(1, 30):
        shelf.store.append(block(number), sync=False)
    assert len(shelf.store.prune(12_000, 0.0, 1e9)) == 1
    assert files(shelf.directory) == [f"{name}.dat", f"{name}.open"]


def test_running_seconds_go_on_over_starts_and_a_wall_clock_changes_no_age(shelf: Shelf) -> None:
    shelf.record(10, ended_s=500.0)
    shelf.today = DAY + timedelta(days=3000)
    assert shelf.again().ran_s == 500.0
    assert shelf.store.prune(None, 100.0, 599.0) == ()
    assert len(shelf.store.prune(None, 100.0, 601.0)) == 1


def test_what_is_not_the_recorders_own_is_never_touched(shelf: Shelf) -> None:
    for name in ("100.hea", "100.dat", "ecg_1.hea", "ecg_000009_20260102T030405.txt"):
        (shelf.directory / name).write_text("100 1 360 650000")
    shelf.record(2, ended_s=2.0)
    shelf.store.prune(0, 0.0, 1e9)
    shelf.again().recover()
    assert files(shelf.directory) == ["100.dat", "100.hea", "ecg_000009_20260102T030405.txt", "ecg_1.hea"]


def test_a_segment_goes_with_its_annotations(shelf: Shelf) -> None:
    name = shelf.record(1)
    (shelf.directory / f"{name}.atr").write_bytes(b"\0\0")
    remove(shelf.directory / f"{name}.hea")
    assert files(shelf.directory) == []


def test_two_recorders_do_not_share_a_directory(tmp_path: Path) -> None:
    busy = pytest.raises(StateError, match=r"another process records to .*: stop it, or choose another with --to")
    with claim(tmp_path / "rec"), busy, claim(tmp_path / "rec"):
        pass
    (tmp_path / "file").touch()
    with pytest.raises(StateError, match=r"can't record to .*: Not a directory"), claim(tmp_path / "file" / "x"):
        pass


def test_a_full_disk_keeps_what_was_written_and_goes_on_when_there_is_room(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "1m") as disk:
        shelf, ballast = Shelf(disk), Ballast(disk)
        name = shelf.store.begin(TWO, {})
        for number in range(1, 6):
            shelf.store.append(block(number), sync=True)
        ballast.fill()
        with pytest.raises(DiskFull, match=r"can't record to .*: No space left on device; nothing is kept until"):
            shelf.fill()
        for _ in range(3):
            with pytest.raises(DiskFull):
                shelf.store.begin(TWO, {})
        assert [path.name for path in disk.glob("ecg_000002*")] == []
        ballast.drop()
        again = shelf.store.begin(TWO, {})
        (segment,) = shelf.store.recover()
        assert segment.glance.name == name
        read = wfdb.rdrecord(str(disk / name), physical=False)
        assert read.sig_len % 100 == 0
        assert read.sig_len >= 500
        assert [total % 2**16 for total in read.checksum] == read.calc_checksum()
        assert "ended: the disk was full" in read.comments
        shelf.store.append(block(1), sync=True)
        assert shelf.store.finish({}) is not None
        assert [each.glance.name for each in segments(disk)] == [name, again]


@pytest.mark.parametrize("operation", ["write", "fdatasync", "fsync"])
def test_a_failing_disk_is_a_full_one(shelf: Shelf, monkeypatch: pytest.MonkeyPatch, operation: str) -> None:
    name = shelf.store.begin(TWO, {})
    shelf.store.append(block(1), sync=True)

    def fail(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as broken:
        broken.setattr(os, operation, fail)
        if operation == "fsync":  # which only finishing asks for by now
            assert shelf.store.finish({}) is None
            assert "Input/output error" in shelf.reports[0]
        else:
            with pytest.raises(DiskFull, match="Input/output error"):
                shelf.store.append(block(2), sync=True)
    (segment,) = shelf.store.recover()
    assert (segment.glance.name, segment.glance.samples) == (name, 100)


def test_a_folder_in_which_root_has_recorded_says_which_file_is_in_the_way_and_as_whom_to_record() -> None:
    """Seen to fail with the folder's name alone, whose permissions were in order."""
    with locked_folder() as folder:
        root = os.geteuid() != os.getuid()
        if root:
            os.seteuid(0)
        folder.chmod(0o777)
        (folder / "lock").touch(0o444)
        if root:
            os.seteuid(NOBODY)
        with (
            pytest.raises(StateError, match=rf"Permission denied \({folder / 'lock'}\); record as the user"),
            claim(folder),
        ):
            pass
