"""The shell of recording: sources that come and go, disks that fill up, clocks that jump."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

import pytest
import wfdb

from edge.live import open_source
from edge.live.setting import Surroundings
from edge.live.source import Chunk, EndOfSignal, Lead, LiveSource, Signal, SourceLost
from edge.record.recorder import Recorder, Retention, Told
from edge.record.recordings import Recordings
from edge.record.segment_files import segments
from edge.record.segments import Rules
from schemas.errors import FedbeatError, SettingsError
from tests.full_disks import Ballast, small_disk
from tests.live_sender import WRAP, Sender
from tests.running_commands import EDGE, LIMIT_S, ROOT, Running
from tests.test_clock_jumps import library
from tests.waiting import until

ECG = Signal((Lead("ecg"),), 100.0)


class Script:
    """A source that gives these chunks' seconds, one each time it is asked, and then ends or is lost."""

    signal = ECG

    def __init__(self, seconds: list[float], *, lost: bool = False) -> None:
        self._seconds = seconds
        self._lost = lost
        self.closed = False

    def read(self, _: float) -> Chunk | None:
        if not self._seconds:
            if self._lost:
                raise SourceLost("it was unplugged")
            raise EndOfSignal
        at = self._seconds.pop(0)
        return Chunk(at, ([1.0] * 100,))

    def close(self) -> None:
        self.closed = True


def recorder(
    directory: Path,
    opened: list[LiveSource | FedbeatError],
    told: list[Told],
    retention: Retention | None = None,
    segment_s: float = 3.0,
    sync_s: float = 1.0,
) -> Recorder:
    def opens() -> LiveSource:
        first = opened.pop(0)
        if isinstance(first, FedbeatError):
            raise first
        return first

    store = Recordings(directory, datetime.now, lambda text: told.append(Told("trouble", text)))
    rules = Rules(segment_s, sync_s)
    return Recorder("tcp:x?password=y", opens, store, rules, retention or Retention(), time.monotonic, told.append)


def test_what_ends_is_finished_and_told(tmp_path: Path) -> None:
    told: list[Told] = []
    source = Script([1.0, 2.0, 3.0, 4.0, 5.0])
    recorder(tmp_path, [source], told).run()
    assert [each.event for each in told] == ["source", "segment", "segment", "end"]
    assert [segment.glance.notes["ended"] for segment in segments(tmp_path)] == ["length", "end"]
    assert [segment.glance.notes["source"] for segment in segments(tmp_path)] == ["tcp:x"] * 2
    assert source.closed
    about = json.loads(told[1].as_json())
    assert (about["event"], about["seconds"], about["notes"]["quality"]) == ("segment", 3.0, "0.000")


def test_a_source_that_is_lost_is_opened_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge.record.recorder._AGAIN_S", (0.0, 0.0))
    told: list[Told] = []
    again = SourceLost("it isn't there yet")
    opened: list[LiveSource | FedbeatError] = [Script([1.0, 2.0], lost=True), again, again, Script([60.0, 61.0])]
    recorder(tmp_path, opened, told).run()
    assert [each.event for each in told] == ["source", "segment", "lost", "lost", "lost", "source", "segment", "end"]
    notes = segments(tmp_path)[1].glance.notes
    assert (notes["after"], notes["gap_s"]) == ("source lost", "57.000")


def test_a_source_that_comes_back_as_something_else_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A converter at its driver's own rate. Seen to fail where that ended a recording with exit code 2, for good."""
    monkeypatch.setattr("edge.record.recorder._AGAIN_S", (0.0,))
    told: list[Told] = []
    other = SettingsError("it converts 50 times a second")
    recorder(tmp_path, [Script([1.0, 2.0], lost=True), other, Script([60.0, 61.0])], told).run(patient=True)
    assert [each.event for each in told] == ["source", "segment", "lost", "lost", "source", "segment", "end"]
    assert "it converts 50 times a second; trying again in 0 s" in told[3].text
    with pytest.raises(SettingsError, match="50 times"):  # what was never right is told at once
        recorder(tmp_path, [other], []).run(patient=True)


def test_a_source_that_gives_nothing_is_told_once_and_so_is_that_it_gives_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen to fail without the look at the time: a source that is open and silent was said to be recorded."""
    monkeypatch.setattr("edge.record.recorder.SILENT_S", 0.1)
    monkeypatch.setattr("edge.record.recorder.LOOK_S", 0.02)
    noticed, told = threading.Event(), list[Told]()

    class Electrode(Script):
        """Gives a second of signal, and is off until that is noticed, or for 5 s."""

        def read(self, _: float) -> Chunk | None:
            if len(self._seconds) == 2 and not noticed.wait(5):
                raise EndOfSignal
            return super().read(_)

    def tell(one: Told) -> None:
        told.append(one)
        if one.event == "silent":
            noticed.set()

    one = recorder(tmp_path, [Electrode([1.0, 2.0, 3.0])], told)
    monkeypatch.setattr(one, "_tell", tell)
    one.run()
    assert [each.event for each in told] == ["source", "silent", "heard", "segment", "end"]
    assert "see to the electrodes" in told[1].text


def test_electrodes_that_are_off_are_told_while_it_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A flat line for 7 s, beats, and marks. Seen to fail without the looks: the notes of the whole segment had it."""
    monkeypatch.setattr("edge.record.recorder.OFF_S", 0.1)
    monkeypatch.setattr("edge.record.recorder.LOOK_S", 0.02)
    noticed, told = threading.Event(), list[Told]()
    beat = [1.0 if number == 50 else 0.001 * (number % 7 + number % 50) for number in range(100)]

    class Marks(Script):
        off = False

        def read(self, wait_s: float) -> Chunk | None:
            self.off = len(self._seconds) == 1 and not noticed.wait(0.01)
            if self.off:
                return None
            chunk = super().read(wait_s)
            assert chunk is not None
            return chunk if chunk.at <= 7 else Chunk(chunk.at, (beat,))

    def tell(one: Told) -> None:
        told.append(one)
        if one.event == "off":
            noticed.set()

    one = recorder(tmp_path, [Marks([float(second) for second in range(1, 12)])], told, segment_s=60.0, sync_s=0.0)
    monkeypatch.setattr(one, "_tell", tell)
    one.run()
    assert [each.event for each in told] == ["source", "flat", "heard", "off", "heard", "segment", "end"]
    assert told[1].text.startswith("ecg has been flat for ")
    assert told[3].text == "the source says that an electrode is off: see to the electrodes, the cable, and what sends"


def test_a_source_that_was_never_there_ends_it_unless_it_is_to_be_patient(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SourceLost, match="nothing there"):
        recorder(tmp_path, [SourceLost("nothing there")], []).run()
    monkeypatch.setattr("edge.record.recorder._AGAIN_S", (0.0,))
    told: list[Told] = []
    recorder(tmp_path, [SourceLost("nothing there"), Script([1.0, 2.0])], told).run(patient=True)
    assert [each.event for each in told] == ["lost", "source", "segment", "end"]
    assert "nothing there; trying again in 0 s" in told[0].text


@pytest.mark.parametrize(("second_s", "times"), [(1.0, 0), (1.01, 0), (0.7, 2)])
def test_a_source_of_another_rate_than_it_claims_is_told_in_each_segment(
    tmp_path: Path, second_s: float, times: int
) -> None:
    """100 samples each ``second_s``. Seen to fail without the look at what was measured."""
    told: list[Told] = []
    recorder(tmp_path, [Script([number * second_s for number in range(36)])], told, segment_s=34.0).run()
    rates = [one.text for one in told if one.event == "rate"]
    assert len(rates) == times
    assert all("142.9 samples a second come, not 100: set the source's rate" in text for text in rates)


def test_the_oldest_segments_go_while_it_records(tmp_path: Path) -> None:
    told: list[Told] = []
    source = Script([float(second) for second in range(1, 31)])
    recorder(tmp_path, [source], told, Retention(most=25_000)).run()
    assert [each.event for each in told].count("removed") == 7
    assert sum(segment.size for segment in segments(tmp_path)) <= 25_000


def test_a_disk_that_takes_its_time_costs_no_sample(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A serial port holds 4 kB: twenty times that comes while the first fsync hasn't returned."""
    far, near = os.openpty()
    far_end = os.fdopen(far, "wb", buffering=0)
    asked, done = threading.Event(), threading.Event()

    def slow(_: int) -> None:
        asked.set()
        assert done.wait(60)

    monkeypatch.setattr(os, "fdatasync", slow)
    setting, told = f"serial:{os.ttyname(near)}?rate=1000&scale=0.001", list[Told]()
    store = Recordings(tmp_path, datetime.now, lambda text: told.append(Told("trouble", text)))
    surroundings = Surroundings(time.monotonic)
    rules = Rules(sync_s=0.1)
    at_work = Recorder(
        setting, lambda: open_source(setting, surroundings), store, rules, Retention(), time.monotonic, told.append
    )
    thread = threading.Thread(target=at_work.run)
    thread.start()
    try:
        until(lambda: told, "the source")
        far_end.write(b"torn\n")
        sent = 0
        while not asked.is_set():
            far_end.write("".join(f"{number % WRAP}\n" for number in range(sent, sent + 100)).encode())
            sent += 100
            asked.wait(0.02)
        for start in range(sent, sent + 20_000, 100):
            far_end.write("".join(f"{number % WRAP}\n" for number in range(start, start + 100)).encode())
        done.set()
        until(lambda: sum(path.stat().st_size for path in tmp_path.glob("*.dat")) == 2 * (sent + 20_000), "all of it")
    finally:
        done.set()
        at_work.stop()
        thread.join(60)
        far_end.close()
        os.close(near)
    (header,) = tmp_path.glob("*.hea")
    assert samples(header) == [number % WRAP for number in range(sent + 20_000)]


@contextmanager
def recording(directory: Path, *more: str, env: dict[str, str] | None = None) -> Iterator[tuple[Running, Sender]]:
    """A real recorder of a real socket."""
    with Sender() as sender:
        arguments = ("record", "--source", sender.setting, "--to", str(directory), *more, "--json")
        with Running(*EDGE, *arguments, cwd=directory.parent, env=env) as running:
            yield running, sender


def samples(header: Path) -> list[int]:
    found: list[int] = wfdb.rdrecord(str(header.with_suffix("")), physical=False).d_signal[:, 0].tolist()
    return found


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_with_everything_on_disk(tmp_path: Path, how: signal.Signals) -> None:
    with recording(tmp_path / "rec") as (running, sender):
        until(lambda: sender.sent_before(time.monotonic()) > 800, "samples")
        before = sender.sent_before(time.monotonic() - 0.5)
        running.send(how)
        done = running.end()
    assert (done.code, done.err) == (0, "")
    (header,) = (tmp_path / "rec").glob("*.hea")
    assert samples(header) == [value % WRAP for value in range(len(samples(header)))]
    assert len(samples(header)) >= before


@contextmanager
def printing(to: int, sender: Sender, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A real recorder of segments of a second, whose output goes to the open file ``to``."""
    arguments = ("record", "--source", sender.setting, "--to", "rec", "--segment", "1", "--json")
    command = [sys.executable, *EDGE, *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, cwd=folder, env=environment, stdout=to, stderr=subprocess.PIPE) as running:
        try:
            yield running
        finally:
            running.kill()


def test_it_goes_on_where_nobody_reads_what_it_prints(tmp_path: Path) -> None:
    """As behind ``| head -1``. Seen to fail: it ended with exit code 1 when it had more to tell."""
    reads, writes = os.pipe()
    with Sender() as sender, printing(writes, sender, tmp_path) as running:
        os.close(writes)
        assert os.read(reads, 4096)
        os.close(reads)
        until(lambda: len(segments(tmp_path / "rec")) >= 2, "two segments")
        running.send_signal(signal.SIGTERM)
        assert (running.wait(LIMIT_S), running.stderr and running.stderr.read()) == (0, b"")
    assert not list((tmp_path / "rec").glob("*.open"))


def test_it_goes_on_where_what_it_prints_goes_to_a_full_disk(tmp_path: Path) -> None:
    """Seen to fail: it ended with exit code 7 at its first line."""
    with Sender() as sender, Path("/dev/full").open("wb") as full, printing(full.fileno(), sender, tmp_path) as running:
        until(lambda: len(segments(tmp_path / "rec")) >= 2, "two segments")
        running.send_signal(signal.SIGTERM)
        assert (running.wait(LIMIT_S), running.stderr and running.stderr.read()) == (0, b"")


def test_a_disk_that_fills_up_costs_what_it_has_no_room_for_and_no_more(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "1m") as disk:
        ballast = Ballast(disk)
        with recording(disk / "rec", "--sync", "0.2") as (running, _):
            until(lambda: list((disk / "rec").glob("*.dat")), "a segment")
            ballast.fill()
            full = json.loads(running.wait_for('"full"'))
            assert "No space left on device; nothing is kept until there is room" in full["text"]
            ballast.drop()
            running.wait_for('"room"')
            running.wait_for('"segment"')
            until(lambda: any(path.stat().st_size for path in (disk / "rec").glob("ecg_000002*.dat")), "samples")
            running.send(signal.SIGTERM)
            done = running.end()
            assert (done.code, done.out.count('"full"'), done.out.count('"room"')) == (0, 1, 1)
        first, second = segments(disk / "rec")
        assert first.glance.notes["ended"] == second.glance.notes["after"] == "the disk was full"
        before, after = samples(first.path), samples(second.path)
        assert before == list(range(len(before)))
        gap = after[0] - before[-1] - 1
        assert float(second.glance.notes["gap_s"]) == pytest.approx(gap / 500, abs=0.5)
        assert gap > 0


def test_invariant_12_a_wall_clock_that_jumps_changes_nothing_but_dates(tmp_path: Path) -> None:
    clock = tmp_path / "clock"
    clock.write_text("+0\n")
    faked = {
        "LD_PRELOAD": str(library()),
        "FAKETIME_TIMESTAMP_FILE": str(clock),
        "FAKETIME_NO_CACHE": "1",
        "DONT_FAKE_MONOTONIC": "1",
    }
    more = ("--sync", "0.2", "--segment", "1", "--days", "1")
    with recording(tmp_path / "rec", *more, env=faked) as (running, _):
        for number, days in enumerate((400, -400, 0), 1):
            until(lambda: list((tmp_path / "rec").glob(f"ecg_00000{number}_*.dat")), "a segment")  # noqa: B023
            clock.write_text(f"{days:+}d\n")
        until(lambda: list((tmp_path / "rec").glob("ecg_000004_*.dat")), "a segment")
        running.send(signal.SIGTERM)
        done = running.end()
    whole = segments(tmp_path / "rec")
    got = [value for segment in whole for value in samples(segment.path)]
    assert got == [value % WRAP for value in range(len(got))]
    assert [segment.glance.samples for segment in whole[:3]] == [500] * 3
    assert len({segment.glance.name.split("_")[2][:4] for segment in whole}) >= 2, "the clock has not jumped"
    assert [segment.glance.notes.get("gap_s", "0.000") for segment in whole] == ["0.000"] * len(whole)
    assert "removed" not in done.out
