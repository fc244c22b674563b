"""A pipe among recordings, under the name of one: whoever opens it to read waits for ever."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge.cli import cli
from edge.data_show import show
from edge.findings.segment_tail import SegmentTail
from edge.live import open_source
from edge.live.setting import Surroundings
from edge.live.source import SourceLost
from edge.record.recordings import Recordings
from edge.record.segment_files import segments
from schemas.errors import DataError
from tests.running_commands import in_process
from tests.test_recordings import DAY, TWO, Shelf

WAITS_S = 5.0


@pytest.fixture(autouse=True)
def no_waiting() -> Iterator[None]:
    """A test that waits for a pipe fails."""

    def fail(*_: object) -> None:
        pytest.fail("it waits for a pipe")

    before = signal.signal(signal.SIGALRM, fail)
    signal.setitimer(signal.ITIMER_REAL, WAITS_S)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A record of a second, and two with a pipe: in place of the header, and of the signals."""
    for name in ("rec", "pipe"):
        (tmp_path / f"{name}.hea").write_text(f"{name} 1 250 250\n{name}.dat 16 200(0)/mV 16 0 0 0 0 MLII\n")
    (tmp_path / "rec.dat").write_bytes(bytes(500))
    for name in ("x.hea", "pipe.dat"):
        os.mkfifo(tmp_path / name)
    return tmp_path


def test_commands_on_a_folder_name_it_and_go_on(folder: Path) -> None:
    listed = in_process(cli, "data", "list", str(folder), cwd=folder)
    assert "left out: x.hea" in listed.out
    exported = in_process(cli, "data", "export", str(folder), "--to", "stick", cwd=folder)
    assert (exported.code, exported.out) == (3, "copied 1 record to stick\n")
    assert f"can't read {folder}/x.hea: it is a pipe, a device or a folder, and no file; take it away" in exported.err
    assert "pipe.dat, which is not beside it" in exported.err


def test_what_trains_and_predicts_leaves_it_out(folder: Path) -> None:
    with pytest.raises(DataError) as told:
        show(str(folder), "ecg-masked", as_json=False)
    assert f"record x: can't read {folder}/x.hea: it is a pipe" in str(told.value)
    assert f"record pipe: can't read {folder}/pipe.dat: it is a pipe" in str(told.value)
    assert "record rec: " in str(told.value)
    with pytest.raises(SourceLost, match=r"pipe\.dat: it is a pipe"):
        open_source(f"replay:{folder}/pipe", Surroundings(time.monotonic))
    os.mkfifo(folder / "y.atr")
    labelled = in_process(cli, "label", "import", "y.atr", "--to", ".", cwd=folder)
    assert (labelled.code, labelled.err[:20]) == (3, "error: can't read y.")


def test_the_recorder_and_who_follows_it_pass_it_over(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    name = shelf.record(3)
    tail = SegmentTail(tmp_path)
    for number, ending in ((2, "hea"), (3, "open")):
        os.mkfifo(tmp_path / f"ecg_{number:06d}_20260102T030405.{ending}")
    store = Recordings(tmp_path, lambda: DAY, shelf.reports.append)
    assert store.recover() == ()
    assert [segment.glance.name for segment in segments(tmp_path)] == [name]
    assert tail.read() is None
    left = store.begin(TWO, {})
    (tmp_path / f"{left}.dat").unlink()
    os.mkfifo(tmp_path / f"{left}.dat")
    assert tail.read() is None
    assert Recordings(tmp_path, lambda: DAY, shelf.reports.append).recover() == ()
    assert len([text for text in shelf.reports if "set aside" in text]) == 2
