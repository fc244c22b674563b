"""The finder beside a recorder that stops, breaks and starts again: what was found is told in time."""

from __future__ import annotations

from array import array
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge.beats.synthetic_ecg import person, record
from edge.findings.finder import Finder
from edge.findings.finder_child import FinderChild, Finding
from edge.live.source import Lead, Signal
from edge.record.recordings import Recordings
from edge.record.segments import frames, stored
from edge.store import Store
from schemas import parts
from schemas.findings import Findings
from schemas.plan_file import find
from tests.test_finder_child import hold, hold_own
from tests.waiting import until

RATE = 250
LEAD = Lead("MLII")
ECG = record(person(5), 200, RATE, 5).signal.astype(np.float64)


class Recorder:
    """Records so many seconds of the ECG at once."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(exist_ok=True)
        self.store = Recordings(directory, datetime.now, print)

    def write(self, seconds: float, after: str = "", running_s: float = 0.0) -> None:
        if after:
            self.store.begin(Signal((LEAD,), RATE), {"after": after, "gap_s": "5", "running_s": f"{running_s}"})
        self.put(stored(LEAD, ECG[: round(seconds * RATE)].tolist()))

    def restart(self, seconds: float, running_s: float) -> None:
        self.store.finish({})
        self.write(seconds, "start", running_s)

    def put(self, steps: array[int]) -> None:
        self.store.append(frames((steps,)), sync=False)


def follow(tmp_path: Path, script: dict[int, Callable[[], None]], until_s: float) -> list[dict[str, Any]]:
    """What a finder tells that runs for so many seconds of a made-up clock; ``script``: what happens at which."""
    hold(tmp_path / "state")
    now, todo = 0.0, dict(sorted(script.items()))

    def pause(seconds: float) -> None:
        nonlocal now
        now += seconds
        while todo and now >= next(iter(todo)):
            todo.pop(next(iter(todo)))()
        if now >= until_s:
            finder.stop()

    finding = Finding(str(tmp_path / "rec"), str(tmp_path / "state"), window_s=60, personal=True)
    finder = Finder(finding, lambda: now, pause)
    told = []
    for one in finder.run():
        about = one.get("findings", one)
        ended = datetime.fromisoformat(about["ended"]) if "ended" in about else datetime.now(UTC)
        ago = (datetime.now(UTC) - ended).total_seconds()
        told.append({**about, "told_at": now, "rules": one["text"], "ago": ago})
    return told[1:]


def test_what_is_open_is_told_when_the_signal_stops(tmp_path: Path) -> None:
    """Seen to fail without the look at the time: a run of V beats would be told when the sensor is back, or never."""
    recorder = Recorder(tmp_path / "rec")
    (one,) = follow(tmp_path, {2: lambda: recorder.write(50, "start")}, 150)
    assert one["signal_s"] == 50
    assert "v_run" in one["rules"]
    assert one["told_at"] == pytest.approx(2 + 50 + 15, abs=2)  # nobody knows that the next piece isn't to be as long
    assert one["ago"] == pytest.approx(55, abs=4)  # a minute from its first sample on


def test_recordings_that_nothing_can_be_found_in_are_told_once(tmp_path: Path) -> None:
    """Seen to fail where others' records are passed over, as if the sensor were silent, and damaged ones too."""
    (tmp_path / "rec").mkdir()
    for name in range(100, 107):
        (tmp_path / "rec" / f"{name}.hea").write_text(f"{name} 1 360 10\n{name}.dat 212 200 11 1024 0 0 0 MLII\n")
    segment = tmp_path / "rec" / "ecg_000001_20261128T000000.hea"

    def another_unit() -> None:
        segment.write_text("rec 1 250 9 00:00:00 28/11/2026\nrec.dat 16 9/NU 16 0 0 0 0 ECG\n")

    foreign, damaged = follow(tmp_path, {20: another_unit}, 40)
    assert foreign["event"] == damaged["event"] == "trouble"
    assert "only others' (100, 101, 102, 103, 104 and 2 more): findings are of what `edge record`" in foreign["text"]
    assert f"{segment} can't be followed (its header is not one of a recorded segment)" in damaged["text"]
    assert damaged["told_at"] >= 20


def test_a_recorder_that_writes_seldom_is_not_silent_between(tmp_path: Path) -> None:
    """Seen to fail with a silence of 15 s whatever the recorder's ``--sync``."""
    recorder = Recorder(tmp_path / "rec")
    script: dict[int, Callable[[], None]] = {50: lambda: recorder.write(50, "start")}
    script |= {at: lambda: recorder.write(50) for at in range(100, 301, 50)}
    assert [one["signal_s"] for one in follow(tmp_path, script, 301)] == [60] * 5


def test_a_lead_that_has_no_values_any_more_is_silent_too(tmp_path: Path) -> None:
    """Seen to fail where the samples of an electrode that is off keep the window open."""
    recorder = Recorder(tmp_path / "rec")
    script: dict[int, Callable[[], None]] = {2: lambda: recorder.write(50, "start")}
    script |= {at: lambda: recorder.put(array("h", [-32768] * RATE)) for at in range(3, 33)}
    (one,) = follow(tmp_path, script, 33)
    assert one["signal_s"] == 50
    assert one["told_at"] == pytest.approx(2 + 15, abs=2)


def test_no_window_has_what_came_before_and_after_the_recorder_was_down(tmp_path: Path) -> None:
    """Seen to fail where the recorder's clock, which stands still meanwhile, tells when a window began and ended."""
    recorder = Recorder(tmp_path / "rec")
    script = {2: lambda: recorder.write(80, "start"), 20: lambda: recorder.restart(50, 80)}
    whole, short, after = follow(tmp_path, script, 110)
    assert (whole["signal_s"], after["signal_s"]) == (60, 50)
    assert short["text"].startswith("in the last 20 s of signal: v_run")
    assert after["ago"] == pytest.approx(after["told_at"] - (20 - 50 + 60), abs=4)


def test_a_newest_model_that_is_not_used_is_told_once_while_findings_go_on(tmp_path: Path) -> None:
    """Seen to fail where trouble is told before the first model only."""
    recorder, plan = Recorder(tmp_path / "rec"), find("watch").plan.to_bytes()

    def other() -> None:
        Store(tmp_path / "state", print).keep_plan(parts.describe(plan, 100_000).digest, plan, "run-1")

    script = {1: other, 2: lambda: recorder.write(200, "start"), 5: lambda: recorder.restart(200, 200)}
    told = follow(tmp_path, script, 10)
    (trouble,) = [one for one in told if one.get("event") == "trouble"]
    assert "not for ECGs" in trouble["text"]
    assert trouble["text"].endswith("going on with model 3 of run run-1")
    assert {one["model_version"] for one in told[told.index(trouble) :] if "beats" in one} == {3}


def test_a_model_of_the_owners_own_finds_as_soon_as_it_is_there_and_says_so(tmp_path: Path) -> None:
    """Seen to fail where the finder knows of the global model alone."""
    recorder = Recorder(tmp_path / "rec")
    script: dict[int, Callable[[], None]] = {
        2: lambda: recorder.write(160, "start"),
        4: lambda: hold_own(tmp_path / "state"),
    }
    script[6] = lambda: recorder.restart(160, 160)
    told = [one for one in follow(tmp_path, script, 10) if "beats" in one]
    assert [(set(one["beats"]), one.get("personal", False)) for one in told[:2]] == [({"V"}, False)] * 2
    assert [(set(one["beats"]), one["personal"]) for one in told[-2:]] == [({"N"}, True)] * 2


def test_what_is_open_is_told_at_the_end(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A real child that is told to end by SIGTERM. Seen to fail without the handler."""
    caplog.set_level("INFO")
    hold(tmp_path / "state")
    recorder = Recorder(tmp_path / "rec")
    found: list[Findings] = []
    finding = Finding(str(tmp_path / "rec"), str(tmp_path / "state"), window_s=60, nice=0)
    with FinderChild(finding, "pi-one", "fedbeat 0", found.append):
        until(lambda: "findings begin" in caplog.text, "a model")
        recorder.write(150, "start")
        until(lambda: len(found) >= 1, "a window")
    assert [one.signal_s for one in found] == [60, 60]
    assert "in the last 30 s of signal: v_run" in caplog.text  # shorter than a minute: not published
