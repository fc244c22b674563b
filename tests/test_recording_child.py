"""The recorder beside ``edge run``: a process of its own, whatever becomes of it or of its parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from edge.record.recording import Recording
from edge.record.recording_child import RecordingChild
from edge.record.segment_files import segments
from schemas.messages import DeviceState, DeviceStatus
from tests.link_mosquitto import Mosquitto
from tests.live_sender import Sender
from tests.running_commands import EDGE, LIMIT_S, MITDB, ROOT, Running, device_status
from tests.waiting import until


def recording(sender: Sender, directory: Path, segment_s: float = 600.0) -> Recording:
    return Recording(sender.setting, str(directory), segment_s, 0.2)


def child_of(pid: int) -> psutil.Process | None:
    found = [each for each in psutil.Process(pid).children() if "edge.record.recording" in each.cmdline()]
    return found[0] if found else None


def test_it_records_tells_how_it_gets_on_and_finishes_its_segment(tmp_path: Path) -> None:
    with Sender() as sender, RecordingChild(recording(sender, tmp_path, 1.0)) as child:
        until(lambda: child.condition.startswith("recording, quality"), "a segment")
        until(lambda: list(tmp_path.glob("*.open")), "the next")
        until(lambda: sender.sent_before(time.monotonic()) > 700, "samples of it")
    assert [segment.glance.notes["ended"] for segment in segments(tmp_path)][-1] in {"stopped", "length"}
    assert not list(tmp_path.glob("*.open"))


def test_the_status_says_that_a_source_gives_nothing(tmp_path: Path) -> None:
    """Seen to fail with the condition of ``source``, which is said once, when it is opened."""
    child = RecordingChild(Recording("tcp:nowhere:1?rate=250", str(tmp_path)))
    conditions = []
    for event in ("source", "silent", "heard"):
        child.heard(event, "", {})
        conditions.append(child.condition)
    assert conditions == ["recording", "not recording: nothing comes from the source; see the log", "recording"]


def test_the_status_says_that_an_electrode_is_off_until_it_is_on_again(tmp_path: Path) -> None:
    """Seen to fail where a segment that ends meanwhile has the status say that all is well."""
    child = RecordingChild(Recording("tcp:nowhere:1?rate=250", str(tmp_path)))
    conditions = []
    for event in ("source", "flat", "segment", "off", "segment", "heard", "segment"):
        child.heard(event, "", {"notes": {"quality": "0.900"}})
        conditions.append(child.condition)
    flat, off = (f"{how}recording{but} an electrode is off; see the log" for how, but in (("", ", but"), ("not ", ":")))
    assert conditions == ["recording", flat, flat, off, off, "recording", "recording, quality 0.900"]


def test_a_child_whose_parent_is_gone_finishes_its_segment_without_a_word(tmp_path: Path) -> None:
    """Seen to fail with a traceback, where it has something to tell before it sees that its parent is gone."""
    command = [sys.executable, "-m", "edge.record.recording"]
    pipe = subprocess.PIPE
    with (
        Sender() as sender,
        subprocess.Popen(command, cwd=ROOT, text=True, stdin=pipe, stdout=pipe, stderr=pipe) as child,
    ):
        assert child.stdin
        assert child.stdout
        assert child.stderr
        child.stdin.write(recording(sender, tmp_path, 1.0).as_json() + "\n")
        child.stdin.flush()
        assert child.stdout.readline()
        child.stdout.close()
        until(lambda: len(segments(tmp_path)) >= 2, "two segments")
        child.stdin.close()
        assert (child.wait(LIMIT_S), child.stderr.read()) == (0, "")
    assert not list(tmp_path.glob("*.open"))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_child_that_ends_with_its_login_session_finishes_its_segment(tmp_path: Path, number: signal.Signals) -> None:
    """Seen to fail with SIGHUP, which killed it."""
    command, pipe = [sys.executable, "-m", "edge.record.recording"], subprocess.PIPE
    with Sender() as sender, subprocess.Popen(command, cwd=ROOT, text=True, stdin=pipe, stdout=pipe) as child:
        assert child.stdin
        child.stdin.write(recording(sender, tmp_path, 1.0).as_json() + "\n")
        child.stdin.flush()
        until(lambda: len(segments(tmp_path)) >= 2, "two segments")
        child.send_signal(number)
        assert child.wait(LIMIT_S) == 0
    assert not list(tmp_path.glob("*.open"))


def test_a_child_that_dies_is_started_again_and_finishes_what_it_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(RecordingChild, "again_s", (0.0,))
    with Sender() as sender, RecordingChild(recording(sender, tmp_path)):
        until(lambda: any(path.stat().st_size for path in tmp_path.glob("*_000001_*.dat")), "samples")
        first = child_of(os.getpid())
        assert first is not None
        first.kill()
        until(lambda: list(tmp_path.glob("*_000002_*.open")), "the next segment")
        assert [segment.glance.notes["ended"] for segment in segments(tmp_path)] == ["crash"]
    assert "the recorder died (-9); it is started again" in caplog.text


def test_what_can_not_be_recorded_is_told_in_the_log_and_that_it_is_so_in_the_status(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with RecordingChild(Recording("morse:key", str(tmp_path))) as child:
        until(lambda: child.condition == "not recording: the recorder failed; see the log", "its failure")
    assert "there is no source 'morse'; these are:" in caplog.text


def test_a_source_that_ends_is_not_begun_again(tmp_path: Path) -> None:
    source = f"replay:{MITDB / '100'}?speed=max&leads=MLII"
    with RecordingChild(Recording(source, str(tmp_path))) as child:
        until(lambda: child.condition == "not recording: the source has ended", "the end")
        child._thread.join(60)
        assert len(segments(tmp_path)) == 2


def test_it_does_not_outlive_a_parent_that_is_killed(tmp_path: Path) -> None:
    code = (
        "import sys, time\n"
        "from edge.record.recording import Recording\n"
        "from edge.record.recording_child import RecordingChild\n"
        "with RecordingChild(Recording(sys.argv[1], sys.argv[2], sync_s=0.2)):\n"
        "    time.sleep(600)\n"
    )
    with Sender() as sender, Running("-c", code, sender.setting, str(tmp_path / "rec"), cwd=tmp_path) as parent:
        until(lambda: any(path.stat().st_size for path in (tmp_path / "rec").glob("*.dat")), "samples")
        child = child_of(parent.pid)
        assert child is not None
        until(lambda: sender.sent_before(time.monotonic()) > 700, "more of them")
        parent.send(signal.SIGKILL)
        until(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE, "its end")
        parent.end()
    assert [segment.glance.notes["ended"] for segment in segments(tmp_path / "rec")] == ["stopped"]


def test_the_agent_that_starts_it_imports_nothing_of_it() -> None:
    code = "import sys, edge.start, edge.record.recording_child; print(*(m for m in sys.modules if 'edge.live' in m))"
    with Running("-c", code, cwd=ROOT) as running:
        assert running.end().out.split() == []


def test_the_child_is_small() -> None:
    rooms = "edge.live, edge.record.recorder, edge.record.recordings, edge.record.recording"
    code = f"import sys, {rooms}; print(*sys.modules)"
    with Running("-c", code, cwd=ROOT) as running:
        loaded = set(running.end().out.split())
    assert not loaded & {"numpy", "torch", "wfdb", "pydantic", "click", "ssl", "_hashlib", "asyncio", "paho", "bleak"}
    assert "edge.record.recorder" in loaded


def test_a_device_records_while_it_waits_and_says_so_in_its_status(mosquitto: Mosquitto, tmp_path: Path) -> None:
    with Sender() as sender:
        more = {"FEDBEAT_RECORD_SEGMENT": "1", "FEDBEAT_RECORD_SYNC": "0.2"}
        flags = ("--broker", mosquitto.address, "--device", "pi-one", "--state", "state", "--heartbeat", "1")
        command = (*EDGE, "run", *flags, "--idle-heartbeat", "1", "--record", sender.setting)
        with Running(*command, cwd=tmp_path, env=more) as running:

            def told() -> DeviceStatus | None:
                status = device_status(mosquitto.port, "pi-one")
                newest = status and status.health and status.health.recording
                return status if newest and newest.startswith("recording, quality") else None

            until(told, "its status")
            child = child_of(running.pid)
            assert child is not None
            running.send(signal.SIGTERM)
            assert running.end().code == 0
        assert not child.is_running()
        status = device_status(mosquitto.port, "pi-one")
        assert status is not None
        assert status.state is DeviceState.STOPPED
    assert not list((tmp_path / "state" / "recordings").glob("*.open"))
    assert segments(tmp_path / "state" / "recordings")


def test_a_setting_of_recording_that_makes_no_sense_ends_the_device_at_once(tmp_path: Path) -> None:
    command = (*EDGE, "run", "--broker", "mqtt://localhost", "--device", "pi-one", "--state", "s", "--record", "tcp:x")
    with Running(*command, cwd=tmp_path, env={"FEDBEAT_RECORD_KEEP": "much"}) as running:
        running.end().says(2, "'much' is no size: write such as 500MB or 2GB, or none")
