from __future__ import annotations

import os
import sys
import threading
from pathlib import Path

import pytest

from edge import start
from edge.cli import cli
from edge.config import EdgeSettings
from edge.sources import digits, synthetic, watch
from edge.start import host_name, links, needed, recording_of
from schemas.errors import DataError, SettingsError
from schemas.settings import LinkSettings
from tests.running_commands import in_process


def test_recordings_that_are_there_are_taken_and_others_named(tmp_path: Path) -> None:
    (tmp_path / "100.hea").write_text("a record's header")
    for path in (tmp_path, tmp_path / "100.hea", tmp_path / "100"):
        assert needed(str(path)) == str(path)
    with pytest.raises(DataError, match=r"nothing at .*101: give the folder or file"):
        needed(str(tmp_path / "101"))
    with pytest.raises(SettingsError, match="add --data PATH"):
        needed("")


@pytest.mark.parametrize("command", [("run",), ("fleet",), ("bench",)])
def test_a_machine_without_pytorch_ends_at_once_and_says_what_brings_it(
    command: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen to fail: a device joined every round, and its trainer's child ended in a traceback each time."""
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.setattr(start, "log_to_stderr", lambda: None)
    options = () if command == ("bench",) else ("--broker", "mqtt://127.0.0.1:1")
    done = in_process(cli, *command, *options, "--data", "synthetic-ecg:2", cwd=tmp_path)
    assert done.says(SettingsError.exit_code, "training needs PyTorch", "pip install 'fedbeat[edge]'")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("seral:/dev/ttyUSB0?rate=250", "there is no source 'seral'; these are:"),
        ("serial:/dev/ttyUSB0", "add rate="),
        ("serial:/dev/ttyUSB0?rate=250&baud=7", "baud=7 is no speed"),
        ("mqtt:a/#/b?rate=250&broker=mqtt://x", "'#' for all that follow"),
        ("iio:0?channel=../x", "channel= is to name channels"),
    ],
)
def test_a_source_that_can_never_work_ends_the_start_and_an_absent_one_does_not(
    tmp_path: Path, source: str, words: str
) -> None:
    """Seen to fail where the recorder's child alone finds out: a line in the log, and a device without a signal."""
    with pytest.raises(SettingsError) as told:
        recording_of(EdgeSettings(record=source, state=tmp_path))
    assert words in str(told.value)
    assert not list(tmp_path.iterdir())
    assert recording_of(EdgeSettings(record="serial:/dev/not-there?rate=250", state=tmp_path)) is not None


def test_words_that_stand_for_recordings_are_those_the_readers_know() -> None:
    assert {watch.WORD, digits.WORD, synthetic.WORD} == start.BUNDLED
    assert [needed(word) for word in sorted(start.BUNDLED)] == sorted(start.BUNDLED)


@pytest.mark.parametrize(("host", "name"), [("Pi_Kitchen.local", "pi-kitchen"), ("raspberrypi", "raspberrypi")])
def test_a_device_is_called_as_its_host_is(host: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: host)
    assert host_name() == name


def test_a_host_whose_name_can_not_be_a_devices_says_what_to_add(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "pi")
    with pytest.raises(SettingsError, match=r"'pi' can't name a device, which takes 3 to 63 .*: add --device NAME"):
        host_name()


def test_what_is_wrong_with_the_broker_is_said_before_anything_starts() -> None:
    with pytest.raises(SettingsError, match="no broker is given: add --broker"):
        links(LinkSettings())


def test_the_fleet_ends_when_its_parent_closes_the_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    stopped = threading.Event()
    with os.fdopen(reading) as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        watcher = threading.Thread(target=start.follow_stdin, args=(stopped.set, lambda: True))
        watcher.start()
        os.write(writing, b"\n")
        assert not stopped.is_set()
        os.close(writing)
        watcher.join(10)
    assert stopped.is_set()


def test_a_fleet_whose_parent_has_asked_for_it_ends_once_it_has_nothing_left_to_make(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Seen to fail where it ends without a word of its parent's, and where it ends at once."""
    monkeypatch.setattr(start, "LOOK_S", 0.01)
    reading, writing = os.pipe()
    ended, left = threading.Event(), [True, True, False]
    with os.fdopen(reading) as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        watcher = threading.Thread(target=start.follow_stdin, args=(ended.set, lambda: left.pop(0)))
        watcher.start()
        watcher.join(0.1)
        assert len(left) == 3
        os.write(writing, b"\n")
        watcher.join(10)
        os.close(writing)
    assert ended.is_set()
    assert not left
