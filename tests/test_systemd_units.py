from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

UNITS = Path(__file__).parents[1] / "systemd"
NAMES = ("edge", "coordinator")
RECORDER = "edge-record"
EXPOSURE = {"edge": 1.2, "coordinator": 1.1, RECORDER: 1.9}  # of 10; a unit without any sandbox has 9.6
ANALYZE = shutil.which("systemd-analyze")

pytestmark = pytest.mark.skipif(ANALYZE is None, reason="this machine has no systemd to check units with")


def analyze(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(ANALYZE), *arguments], capture_output=True, text=True, check=False, timeout=60)


def entries(name: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in (UNITS / f"{name}.service").read_text().splitlines():
        if match := re.fullmatch(r"([A-Za-z]+)=(.*)", line):
            found.setdefault(match[1], []).append(match[2])
    return found


def command(name: str) -> list[str]:
    """The unit's command line, with the console script of the environment the tests run in."""
    (line,) = entries(name)["ExecStart"]
    program, *arguments = shlex.split(line)
    return [str(Path(sys.executable).with_name(Path(program).name)), *arguments]


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def installed(name: str, place: Path) -> Path:
    """The unit as installed here: its program is where the tests' own is."""
    text = (UNITS / f"{name}.service").read_text()
    path = place / f"{name}.service"
    program = shlex.split(entries(name)["ExecStart"][0])[0]
    path.write_text(text.replace(program, command(name)[0]))
    return path


@pytest.mark.parametrize("name", [*NAMES, RECORDER])
def test_systemd_finds_nothing_wrong_with_the_unit(name: str, tmp_path: Path) -> None:
    unit = installed(name, tmp_path)
    done = analyze("verify", "--man=no", str(unit))
    assert (done.returncode, [line for line in done.stderr.splitlines() if unit.name in line]) == (0, [])


def test_the_operations_page_writes_the_settings_where_the_units_read_them() -> None:
    """Seen to fail: the page wrote the coordinator's into run.toml, which no unit reads."""
    page = (UNITS.parent / "docs" / "operations.md").read_text()
    read = {line[line.index("--config") + 1] for line in map(command, (*NAMES, RECORDER))}
    assert set(re.findall(r"/etc/fedbeat/[\w.-]+\.toml", page)) == read


@pytest.mark.parametrize("name", [*NAMES, RECORDER])
def test_the_sandbox_is_as_tight_as_promised(name: str, tmp_path: Path) -> None:
    done = analyze("security", "--offline=true", "--no-pager", str(installed(name, tmp_path)))
    match = re.search(r"Overall exposure level for \S+: ([0-9.]+)", done.stdout)
    assert match, done.stdout + done.stderr
    assert float(match[1]) <= EXPOSURE[name]


def test_the_console_script_understands_the_command_line(name: str, tmp_path: Path) -> None:
    program, verb, *options = command(name)
    config = tmp_path / "settings.toml"
    config.write_text('broker = "mqtt://localhost"\n')
    options[options.index("--config") + 1] = str(config)
    done = subprocess.run([program, verb, *options, "--show-config"], capture_output=True, text=True, timeout=60)  # noqa: PLW1510 - its exit code is what we look at
    assert done.returncode == 0, done.stderr
    assert f"/var/lib/fedbeat/{name}" in done.stdout


def test_state_is_where_systemd_makes_it(name: str) -> None:
    unit = entries(name)
    (state,) = unit["StateDirectory"]
    line = command(name)
    assert line[line.index("--state") + 1] == f"/var/lib/{state}"
    assert unit["User"] == ["fedbeat"]


def test_systemd_waits_for_readiness_watches_and_restarts_for_ever(name: str) -> None:
    unit = entries(name)
    assert unit["Type"] == ["notify"]
    assert float(unit["WatchdogSec"][0]) >= 30
    assert unit["Restart"] == [{"edge": "always", "coordinator": "on-failure"}[name]]
    assert unit["StartLimitIntervalSec"] == ["0"]
    assert unit["MemoryMax"]


def test_only_the_unit_that_trains_may_run_what_it_wrote() -> None:
    assert entries("edge")["MemoryDenyWriteExecute"] == ["no"]
    assert entries("coordinator")["MemoryDenyWriteExecute"] == ["yes"]


def test_the_recorder_records_where_systemd_lets_it_and_understands_its_command_line(tmp_path: Path) -> None:
    unit, (program, verb, *options) = entries(RECORDER), command(RECORDER)
    (state,) = unit["StateDirectory"]
    assert options[options.index("--to") + 1] == f"/var/lib/{state}"
    assert unit["DevicePolicy"] == ["closed"]
    assert "PrivateDevices" not in unit
    config = tmp_path / "settings.toml"
    config.write_text('record = "serial:/dev/ttyUSB0?rate=250"\n')
    options[options.index("--config") + 1] = str(config)
    done = subprocess.run([program, verb, *options, "--show-config"], capture_output=True, text=True, timeout=60)  # noqa: PLW1510 - likewise
    assert done.returncode == 0, done.stderr
    assert f"/var/lib/{state}" in done.stdout
