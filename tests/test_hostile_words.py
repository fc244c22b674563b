"""What others say stays words: it moves no terminal's cursor, and begins no line of a log.

Each docstring ends with how the test was seen to fail.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import subprocess
from pathlib import Path

import click
import pytest

from coordinator.reports import failed_often
from edge.start import log_to_stderr
from schemas.command_line import run
from schemas.errors import FederationError
from tests.link_mosquitto import Mosquitto, program
from tests.running_commands import EDGE, Running
from tests.test_reports import STATE

EVIL = "why\x1b]0;owned\x07\x1b[2J\nERROR dev-one: forged\u202e"
TAMED = "why\N{REPLACEMENT CHARACTER}]0;owned\N{REPLACEMENT CHARACTER}"


def test_a_command_to_a_device_forges_no_line_of_its_log(tmp_path: Path, mosquitto: Mosquitto) -> None:
    """Seen to fail with the words as they came: two lines, and a terminal's title of somebody else's choice."""
    words = ("run", "--broker", mosquitto.address, "--data", "watch", "--device", "dev-one", "--state", "one")
    topic = "fl/v1/home/devices/dev-one"
    command = json.dumps({"command": "pause", "reason": EVIL})
    with Running(*EDGE, *words, cwd=tmp_path) as device:
        reached = [program("mosquitto_sub"), "-p", str(mosquitto.port), "-t", topic, "-C", "1", "-W", "60"]
        subprocess.run(reached, check=True, capture_output=True)  # it is there
        say = [program("mosquitto_pub"), "-p", str(mosquitto.port), "-t", f"{topic}/command", "-m", command]
        subprocess.run([*say, "-q", "1"], check=True)
        line = device.wait_for("paused by the operator")
    assert TAMED in line
    assert "ERROR dev-one: forged" in line
    assert line.rstrip("\n").isprintable()


def test_a_traceback_in_a_devices_log_keeps_its_lines(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Seen to fail where what is printable is asked of the whole record."""
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    log_to_stderr()
    try:
        int("a mistake")
    except ValueError:
        logging.getLogger("edge").exception("it went\nwrong")
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "ERROR it went\N{REPLACEMENT CHARACTER}wrong"
    assert lines[1].startswith("Traceback")
    assert lines[-1].startswith("ValueError: ")


def test_an_error_that_quotes_others_moves_no_cursor(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A list in it keeps its lines. Seen to fail with the sentence as it was."""

    @click.command()
    def fail() -> None:
        raise FederationError("these are:\n  one\x1b[2J\n  two")

    monkeypatch.setattr("sys.argv", ["command"])
    with pytest.raises(SystemExit):
        run(fail)
    assert capsys.readouterr().err == "error: these are:\n  one\N{REPLACEMENT CHARACTER}[2J\n  two\n"


def test_a_run_that_failed_quotes_devices_in_one_line() -> None:
    """Seen to fail with what the device said as it came."""
    sentence = failed_often(dataclasses.replace(STATE, said={"dev-one": EVIL}), "nobody came")
    assert f"dev-one: {TAMED}" in sentence
    assert sentence.isprintable()
