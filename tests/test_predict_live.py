"""``edge predict --live``: a signal watched as its owner would, until it ends or is stopped."""

from __future__ import annotations

import signal
import socket
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import save_file

from edge.cli import cli
from edge.findings import live_findings, predict_live
from edge.findings.alerts import parse
from edge.findings.predict import examine
from edge.findings.predict_live import Chosen, Watch
from edge.live.source import Chunk, EndOfSignal, Lead, Signal
from tests.live_sender import Sender
from tests.running_commands import EDGE, MITDB, Running, events, in_process
from tests.test_finder_child import ventricular
from tests.waiting import until


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "model.safetensors"
    save_file({name: array.copy() for name, array in ventricular().arrays().items()}, path)
    return path


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first two minutes of 208."""
    wfdb = pytest.importorskip("wfdb")
    folder = tmp_path_factory.mktemp("records")
    found = wfdb.rdrecord(str(MITDB / "208"), sampto=43_200, physical=False)
    found.record_name, found.file_name = "two", ["two.dat"] * 2
    found.wrsamp(write_dir=str(folder))
    return folder / "two"


@pytest.mark.parametrize("runtime", ["onnx", "torch"])
def test_a_record_played_again_has_the_beats_that_predict_finds_in_it(
    tmp_path: Path, model: Path, record: Path, runtime: str
) -> None:
    """Seen to fail where the last beats aren't told at the end."""
    live = ("--live", f"replay:{record}?speed=max", "--window", "60", "--runtime", runtime)
    done = in_process(cli, "predict", "--model", str(model), *live, "--json", cwd=tmp_path)
    assert done.code == 0, done.err
    told = events(done.out)
    summary = told[-1]
    (recorded,) = examine("ecg-beats", model, str(record), annotate=False, runtime="onnx")
    assert summary["beats"] == recorded.beats
    assert summary["signal_s"] == pytest.approx(120, abs=0.5)
    windows = [one for one in told if one["event"] == "window"]
    assert [round(one["ended_s"]) for one in windows] == [60, 120]
    assert summary["alerts"] == {"v_run": 2, "v_share": 2}


def test_words_have_a_line_for_each_window_and_each_alert(tmp_path: Path, model: Path, record: Path) -> None:
    live = ("--live", f"replay:{record}?speed=max", "--window", "80", "--alerts", "v_run=off", "--runtime", "onnx")
    lines = in_process(cli, "predict", "--model", str(model), *live, cwd=tmp_path).out.splitlines()
    assert [line[:7] for line in lines[1:5]] == ["0:01:20", "0:01:20", "0:02:00", "0:02:00"]
    assert "bpm  quality 1.00  N 0  S 0  V " in lines[1]
    assert "ALERT v_share 1 (share of V beats, at least 0.1)" in lines[2]
    assert lines[-2:] == ["windows with alerts: 2 v_share", "a model's opinion, and no diagnosis"]


def test_a_full_disk_under_its_lines_does_not_end_it(tmp_path: Path, model: Path, record: Path) -> None:
    """Seen to fail with exit code 7."""
    shell = ("sh", "-c", 'exec "$@" >/dev/full', "sh")
    live = ("--live", f"replay:{record}?speed=max", "--window", "10", "--runtime", "onnx")
    with Running(*EDGE, "predict", "--model", str(model), *live, cwd=tmp_path, within=shell) as running:
        done = running.end()
    assert (done.code, done.err) == (0, "")


def test_it_ends_with_its_summary_when_it_is_told_to(tmp_path: Path, model: Path) -> None:
    with Sender() as sender:
        live = ("--live", sender.setting, "--runtime", "onnx")
        with Running(*EDGE, "predict", "--model", str(model), *live, cwd=tmp_path) as running:
            running.wait_for("watching tcp:127.0.0.1")
            running.send(signal.SIGINT)
            done = running.end()
    assert done.code == 0, done.err
    assert "minutes of signal" in done.out


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ((), 2, "--data RECORDINGS, or --live SOURCE"),
        (("--live", "replay:x", "--data", "x"), 2, "--data RECORDINGS, or --live SOURCE"),
        (("--live", "seral:x"), 2, "there is no source 'seral'"),
        (("--live", "replay:nothing"), 3, "there is no WFDB recording"),
        (("--live", "replay:nothing", "--alerts", "x=1"), 2, "no alert's threshold"),
        (("--live", "replay:nothing", "--annotate"), 2, "leave --annotate out"),
    ],
)
def test_what_can_not_be_watched_is_told_in_a_sentence(
    tmp_path: Path, model: Path, arguments: tuple[str, ...], code: int, words: str
) -> None:
    done = in_process(cli, "predict", "--model", str(model), "--runtime", "onnx", *arguments, cwd=tmp_path)
    assert (done.code, "Traceback" in done.err) == (code, False)
    assert words in done.err


def test_what_is_open_is_told_while_nothing_comes(model: Path, record: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sensor that sends 70 s at once and then nothing. Seen to fail where windows wait for the next sample."""
    monkeypatch.setattr(live_findings, "SILENT_S", 0.3)
    monkeypatch.setattr(live_findings, "SHORTEST_S", 0.0)  # what is sent at once was taken just now
    wfdb = pytest.importorskip("wfdb")
    lead = wfdb.rdrecord(str(record), sampto=25_200).p_signal[:, 0]
    told: list[dict[str, Any]] = []

    def tell(one: dict[str, Any]) -> None:
        told.append(one)
        if one["event"] == "alert":
            watch.stop()

    with socket.create_server(("127.0.0.1", 0)) as server:
        source = f"tcp:127.0.0.1:{server.getsockname()[1]}?rate=360"
        watch = Watch(Chosen(source, "ecg-beats", model, None, "onnx", 80.0, parse("")), tell)
        watching = threading.Thread(target=watch.run, daemon=True)
        watching.start()
        peer, _ = server.accept()
        with peer:
            peer.sendall("".join(f"{value:.3f}\n" for value in lead).encode())
            until(lambda: not watching.is_alive(), "a window", 20.0)
    (window,) = [one for one in told if one["event"] == "window"]
    assert window["signal_s"] == pytest.approx(70, abs=0.1)
    assert window["beats"]["V"] > 50


def test_silence_and_a_wrong_rate_are_told_while_it_is_watched(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sensor that gives 143 samples a second where 100 are set, and nothing then. Seen to fail without the looks."""
    monkeypatch.setattr(predict_live, "SILENT_S", 0.3)
    told: list[dict[str, Any]] = []
    steps = [Chunk(number * 0.7, ([0.0] * 100,)) for number in range(36)]

    class Sensor:
        signal = Signal((Lead("ecg"),), 100.0)

        def read(self, wait_s: float) -> Chunk | None:
            if len(steps) == 1 and not any(one["event"] == "silent" for one in told):
                time.sleep(min(wait_s, 0.01))
                return None
            if not steps:
                raise EndOfSignal
            return steps.pop(0)

        def close(self) -> None:
            pass

    monkeypatch.setattr(predict_live, "open_source", lambda *_: Sensor())
    monkeypatch.setattr(predict_live, "_LOOK_S", 0.02)
    Watch(Chosen("tcp:x", "ecg-beats", model, None, "onnx", 60.0, parse("")), told.append).run()
    events = [one["event"] for one in told if one["event"] != "window" and one["event"] != "alert"]
    assert events == ["source", "rate", "silent", "heard", "summary"]
    rate, silent = told[events.index("rate")], next(one for one in told if one["event"] == "silent")
    assert "142.9 samples a second come, not 100" in next(predict_live.in_words(rate))
    assert "see to the electrodes" in next(predict_live.in_words(silent))


@pytest.mark.parametrize(("source", "code"), [("replay:nowhere", 3), ("seral:/dev/ttyUSB0", 2)])
def test_a_source_that_can_not_be_opened_is_told_and_nothing_is_summed_up(
    tmp_path: Path, model: Path, source: str, code: int
) -> None:
    """Seen to fail with the summary of no signal before the error."""
    done = in_process(cli, "predict", "--model", str(model), "--live", source, "--runtime", "onnx", cwd=tmp_path)
    assert (done.code, done.out) == (code, "")
    assert done.err.startswith("error: there is no ")
