from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from edge import health
from schemas.messages import Health


@pytest.fixture
def raspberry(tmp_path: Path) -> Path:
    """The files of /proc and /sys that a Raspberry Pi 4 has."""
    texts = {
        "sys/class/thermal/thermal_zone0/temp": "48686\n",
        "sys/class/thermal/thermal_zone1/temp": "51000\n",
        "sys/devices/platform/soc/soc:firmware/get_throttled": "50005\n",
        "proc/meminfo": "MemTotal:  3884360 kB\nMemFree: 100 kB\nMemAvailable:    1000000 kB\n",
        "proc/loadavg": "0.52 0.58 0.59 1/389 12345\n",
        "proc/uptime": "350735.47 234388.90\n",
        "proc/self/status": "Name:\tedge\nVmPeak:\t  900000 kB\nVmHWM:\t   44000 kB\nVmRSS:\t   42000 kB\n",
    }
    for name, text in texts.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_a_raspberry_tells_all_of_it(raspberry: Path) -> None:
    read = health.read(raspberry, raspberry)
    assert read.disk_free_mb is not None
    assert read.disk_free_mb > 0
    assert read.model_copy(update={"disk_free_mb": None}) == Health(
        temperature_c=51.0,
        throttled=True,
        memory_available_mb=1024.0,
        load=0.52,
        uptime_s=350735.47,
        agent_peak_mb=45.1,
    )


@pytest.mark.parametrize(("word", "now"), [("0x0", False), ("50000", False), ("0x1", True), ("4\n", True)])
def test_throttled_means_now_and_not_some_time_since_start(raspberry: Path, word: str, now: bool) -> None:  # noqa: FBT001 - a parameter
    (raspberry / "sys/devices/platform/soc/soc:firmware/get_throttled").write_text(word)
    assert health.read(raspberry, raspberry).throttled is now


def test_what_a_machine_cannot_tell_is_none(tmp_path: Path) -> None:
    assert health.read(tmp_path / "gone", tmp_path) == Health()


@pytest.mark.parametrize("text", ["", "nan", "inf", "twelve", "\xff", "-274000"])
def test_a_sensor_that_says_nonsense_is_none(raspberry: Path, text: str) -> None:
    for zone in (0, 1):
        (raspberry / f"sys/class/thermal/thermal_zone{zone}/temp").write_text(text, encoding="latin-1")
    (raspberry / "proc/loadavg").write_text(text if text != "-274000" else "", encoding="latin-1")
    read = health.read(raspberry, raspberry)
    assert (read.temperature_c, read.load) == (None, None)


def test_what_a_round_took_is_told_as_far_as_it_is_known() -> None:
    assert health.peaks(Health()) == ""
    assert health.peaks(Health(agent_peak_mb=43.4)) == "; peak memory: agent 43 MB"
    both = Health(agent_peak_mb=43.4, trainer_peak_mb=311.7)
    assert health.peaks(both) == "; peak memory: agent 43 MB, trainer 312 MB"


def test_a_process_begins_with_a_peak_of_its_own() -> None:
    """``getrusage`` would give it that of the process which has started it."""
    program = "from edge.health import peak_mb; print(peak_mb())"
    ballast = bytearray(b"x") * 150_000_000
    child = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert len(ballast) / 1e6 < (health.peak_mb() or 0.0)
    assert float(child.stdout) < 100


def test_this_very_machine_can_be_read() -> None:
    assert health.read(Path("/")).memory_available_mb is not None


def test_many_who_ask_often_cost_one_reading(raspberry: Path) -> None:
    now = [0.0]
    monitor = health.Monitor(raspberry, lambda: now[0], raspberry)
    assert monitor().load == 0.52
    (raspberry / "proc/loadavg").write_text("9.0")
    now[0] = 9.9
    assert monitor().load == 0.52
    now[0] = 10.0
    assert monitor().load == 9.0
