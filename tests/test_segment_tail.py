"""A recorder's files followed while they grow."""

from __future__ import annotations

import errno
from array import array
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest

from edge.findings.segment_tail import SegmentTail
from edge.live.source import Lead, Signal
from edge.record.recordings import Recordings
from edge.record.segments import frames

SIGNAL = Signal((Lead("V5", 200.0, 10), Lead("MLII", 200.0, 10)), 100.0)


class Recorder:
    """Writes numbered samples; the second lead has the number itself, in steps."""

    def __init__(self, directory: Path, day: int = 28) -> None:
        self.store = Recordings(directory, lambda: datetime(2026, 11, day), print)  # noqa: DTZ001 - as a recorder's
        self.count = 0

    def begin(self, after: str, gap_s: str, running_s: float) -> None:
        self.store.begin(SIGNAL, {"after": after, "gap_s": gap_s, "running_s": f"{running_s:.1f}"})

    def write(self, count: int) -> None:
        numbers = array("h", range(self.count, self.count + count))
        self.store.append(frames((array("h", bytes(2 * count)), numbers)), sync=False)
        self.count += count


def numbers(tail: SegmentTail) -> tuple[list[int], list[bool], float]:
    found: list[int] = []
    gaps, at = [], 0.0
    while (piece := tail.read()) is not None:
        found += np.rint(piece.samples * 200 + 10).astype(int).tolist()
        gaps.append(piece.gap)
        at = piece.at
    return found, gaps, round(at, 6)


def test_it_reads_what_comes_and_goes_on_into_the_next_segments(tmp_path: Path) -> None:
    """Seen to fail where a segment that is made whole is left before its last samples, and where a gap isn't told."""
    recorder = Recorder(tmp_path)
    recorder.begin("start", "0.000", 50)
    recorder.write(300)
    tail = SegmentTail(tmp_path)
    assert numbers(tail) == ([], [], 0.0)
    recorder.write(100)
    assert numbers(tail) == (list(range(300, 400)), [True], 54)
    recorder.write(50)
    recorder.store.finish({"ended": "length"})
    recorder.begin("length", "0.000", 54.5)
    recorder.write(7)
    assert numbers(tail) == (list(range(400, 457)), [False, False], 54.57)
    recorder.store.finish({"ended": "samples lost"})
    recorder.begin("samples lost", "3.000", 60)
    recorder.write(20)
    recorder.store.finish({"ended": "silence"})
    recorder.begin("silence", "9.000", 70)
    recorder.write(5)
    assert numbers(tail) == (list(range(457, 482)), [True, True], 70.05)


def test_segments_there_before_are_not_read_and_damaged_or_removed_ones_are_passed_over(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path)
    recorder.begin("start", "0.000", 0)
    recorder.write(100)
    recorder.store.finish({})
    tail = SegmentTail(tmp_path)
    assert numbers(tail)[0] == []
    (tmp_path / "ecg_000002_20261128T000000.open").write_text("noise")
    assert numbers(tail)[0] == []
    (tmp_path / "ecg_000002_20261128T000000.open").unlink()
    recorder = Recorder(tmp_path)
    for number in range(3):
        recorder.store._number = 9 + number
        recorder.begin("start", "0.000", 100 + 10 * number)
        recorder.write(10)
        recorder.store.finish({})
    for path in tmp_path.glob("ecg_000011*"):
        path.unlink()
    assert numbers(tail)[0] == [*range(10), *range(20, 30)]


def test_what_is_missing_is_a_gap_in_the_lead(tmp_path: Path) -> None:
    tail = SegmentTail(tmp_path)
    recorder = Recorder(tmp_path)
    recorder.begin("start", "0.000", 0)
    recorder.store.append(frames((array("h", [0, 0]), array("h", [-32768, 210]))), sync=False)
    piece = tail.read()
    assert piece is not None
    assert np.isnan(piece.samples[0])
    assert piece.samples[1] == pytest.approx(1.0)


def test_a_segment_that_a_full_disk_left_open_is_over_where_there_is_a_later_one(tmp_path: Path) -> None:
    """Seen to fail where only a header with a length ends one: the rest of the day would wait for it."""
    tail, recorder = SegmentTail(tmp_path), Recorder(tmp_path)
    recorder.begin("start", "0.000", 0)
    recorder.write(100)
    assert numbers(tail)[0] == list(range(100))
    recorder.write(20)
    recorder.store._leave(OSError(errno.ENOSPC, "no space left"), "length")  # as where there is no room for a header
    assert numbers(tail)[0] == list(range(100, 120))
    recorder.begin("length", "0.000", 1.2)
    recorder.write(30)
    assert list(tmp_path.glob("ecg_000001*.open"))
    assert numbers(tail) == (list(range(120, 150)), [False], 1.5)


def test_numbers_that_begin_anew_in_a_cleared_directory_are_followed(tmp_path: Path) -> None:
    """Seen to fail where only higher numbers are looked for, and with a segment that was there before read again."""
    tail = SegmentTail(tmp_path)
    for day, number in ((1, 8), (2, 0), (3, 0)):
        for path in tmp_path.iterdir():
            path.unlink()
        recorder = Recorder(tmp_path, day)
        recorder.store._number = number
        for after, expected in (("start", True), ("length", False)):
            recorder.begin(after, "0.000", 0)
            recorder.write(10)
            recorder.store.finish({})
            assert numbers(tail)[:2] == (list(range(recorder.count - 10, recorder.count)), [expected])


def test_a_newest_segment_that_is_removed_has_none_before_it_read_again(tmp_path: Path) -> None:
    """Seen to fail where a lower number alone means that the directory was cleared."""
    tail, recorder = SegmentTail(tmp_path), Recorder(tmp_path)
    for _ in range(3):
        recorder.begin("start", "0.000", 0)
        recorder.write(10)
        recorder.store.finish({})
    assert numbers(tail)[0] == list(range(30))
    for path in tmp_path.glob("ecg_000003*"):
        path.unlink()
    assert numbers(tail)[0] == []


def test_what_follows_a_damaged_segment_lies_behind_a_gap(tmp_path: Path) -> None:
    """Seen to fail where the number of the damaged one counts as read."""
    tail, recorder = SegmentTail(tmp_path), Recorder(tmp_path)
    recorder.begin("start", "0.000", 0)
    recorder.write(10)
    recorder.store.finish({})
    (tmp_path / "ecg_000002_20261128T000000.hea").write_text("noise")
    recorder.store._number = 2
    assert numbers(tail)[1] == [True]
    recorder.begin("length", "0.000", 20)
    recorder.write(10)
    assert numbers(tail)[1:] == ([True], 20.1)


def test_a_start_of_the_recorder_is_told_from_a_gap(tmp_path: Path) -> None:
    tail, recorder = SegmentTail(tmp_path), Recorder(tmp_path)
    for after in ("start", "silence", "start"):
        recorder.begin(after, "9.000", 0)
        recorder.write(10)
        piece = tail.read()
        assert piece is not None
        assert (piece.gap, piece.anew) == (True, after == "start")
        recorder.store.finish({})
