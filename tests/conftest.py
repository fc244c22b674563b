"""Fixtures that several test modules share, and how their tests are handed to the processors of a machine."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.link_mosquitto import Mosquitto

# Whole files go to one worker each, these before all others: what takes longest must not be left for the end.
LONGEST: Final = (
    "test_simulation",
    "test_kill_loops",
    "test_full_disk_processes",
    "test_commands_stop",
    "test_bad_links",
    "test_commands_refused",
    "test_full_disk",
    "test_device_recovery",
    "test_trainer_pool",
    "test_suspended",
    "test_recorder",
    "test_recording_child",
    "test_record_kills",
    "test_record_power_cuts",
    "test_commands_plan",
    "test_benchmark_broker",
    "test_two_coordinators",
    "test_commands_run",
    "test_clock_jumps",
    "test_anomaly",
    "test_link_mqtt",
    "test_partition",
    "test_attrition",
    "test_broker_loss",
)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Half as many workers again as processors: many tests wait for a keepalive or a deadline, and use none."""
    processors = len(os.sched_getaffinity(0))
    return processors + (processors + 1) // 2


def pytest_configure() -> None:
    """Have signals heard by what tests start: in a shell's background all would ignore Ctrl-C, under `nohup` SIGHUP."""
    if threading.current_thread() is threading.main_thread():
        for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
            if signal.getsignal(number) is signal.SIG_IGN:
                signal.signal(number, handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest files first."""
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.stem, len(places)))


@pytest.fixture
def mosquitto(tmp_path: Path) -> Iterator[Mosquitto]:
    """A running mosquitto of this test's own: ``port``, ``address``, ``restart()``, ``kill()``, ``start()``.

    Anybody may connect. It takes payloads up to 1 MiB and keeps retained messages over ``restart``.
    """
    directory = tmp_path / "mosquitto"
    directory.mkdir()
    with Mosquitto(directory) as broker:
        yield broker
