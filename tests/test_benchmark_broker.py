"""A benchmark that is ended by a signal leaves no process behind."""

from __future__ import annotations

import signal
import subprocess
import sys

import psutil
import pytest

from tests.running_commands import LIMIT_S, ROOT
from tests.waiting import until


@pytest.mark.parametrize(
    ("number", "command", "programs"),
    [
        (signal.SIGTERM, "footprint.py --only wait", ("edge", "coordinator", "mosquitto")),
        (signal.SIGINT, "round.py --devices 2 --rounds 1000", ("coordinator", "--be-the-fleet", "mosquitto")),
    ],
)
def test_a_benchmark_that_is_ended_leaves_no_process(
    number: signal.Signals, command: str, programs: tuple[str, ...]
) -> None:
    """Seen to fail: SIGTERM left all of them, and SIGINT a coordinator without its folder."""
    name, *options = command.split()
    benchmark = subprocess.Popen(
        [sys.executable, str(ROOT / "benchmarks" / name), *options],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    started: list[psutil.Process] = []

    def at_work() -> bool:
        assert benchmark.poll() is None
        started[:] = psutil.Process(benchmark.pid).children(recursive=True)
        return set(programs) <= {word.rpartition("/")[2] for child in started for word in words(child)}

    try:
        until(at_work, f"all of {programs}")
        benchmark.send_signal(number)
        code = benchmark.wait(LIMIT_S)
        assert not [words(child) for child in started if lives(child)]
        assert code == 128 + number
    finally:
        benchmark.kill()
        benchmark.wait()
        for child in started:
            if lives(child):
                child.kill()


def words(process: psutil.Process) -> list[str]:
    """Its command line; none where it has ended."""
    try:
        return list(process.cmdline())
    except psutil.NoSuchProcess:
        return []


def lives(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
