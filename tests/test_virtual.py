"""The virtual fleet beside a coordinator: a real child process."""

from __future__ import annotations

import queue
from pathlib import Path

import psutil
import pytest

from coordinator.config import CoordinatorSettings
from coordinator.virtual import VirtualFleet
from schemas.errors import FedbeatError
from tests.link_mosquitto import Mosquitto
from tests.running_commands import LIMIT_S, device_status
from tests.waiting import until


def settings(state: Path, **changes: object) -> CoordinatorSettings:
    return CoordinatorSettings.model_validate({"virtual": 2, "data": "watch", "state": state, **changes})


def child_of(fleet: VirtualFleet) -> psutil.Process:
    assert fleet._child is not None
    return psutil.Process(fleet._child.pid)


@pytest.mark.parametrize("asked", [False, True])
def test_the_fleet_is_there_for_as_long_as_the_block_lasts_and_says_goodbye(
    tmp_path: Path, mosquitto: Mosquitto, *, asked: bool
) -> None:
    """Or until it has nothing left to make, where it is asked for that."""
    exits: queue.SimpleQueue[FedbeatError] = queue.SimpleQueue()
    with VirtualFleet(settings(tmp_path), mosquitto.address, exits.put) as fleet:
        child = child_of(fleet)
        until(lambda: "fleet" in child.cmdline(), "the child to be our program")
        assert not any("mqtt://" in argument for argument in child.cmdline())  # which other users could read
        until(lambda: device_status(mosquitto.port, "virtual-000") is not None, "a device")
        if asked:
            fleet.finish(lambda: True)
            fleet.finish(lambda: False)
            assert not child.is_running()
    assert not child.is_running()
    assert exits.empty()
    status = device_status(mosquitto.port, "virtual-000")
    assert status is not None
    assert status.state == "stopped"


@pytest.mark.parametrize(
    ("changes", "code", "words"),
    [
        ({"data": "missing"}, 3, "the virtual devices ended: there is nothing at missing"),
        ({"partition": "thirds"}, 2, "partition 'thirds' is not known"),
        ({"budget": "0MB/day"}, 2, "'0MB/day' is no budget"),
    ],
)
def test_a_fleet_that_ends_by_itself_is_reported_in_its_own_words(
    tmp_path: Path, changes: dict[str, str], code: int, words: str
) -> None:
    exits: queue.SimpleQueue[FedbeatError] = queue.SimpleQueue()
    with VirtualFleet(settings(tmp_path, **changes), "mqtt://127.0.0.1:1", exits.put):
        error = exits.get(timeout=LIMIT_S)
    assert error.exit_code == code
    assert words in str(error)
    assert str(tmp_path / "fleet.log") in str(error)


def test_a_fleet_that_is_killed_is_reported_too(tmp_path: Path) -> None:
    exits: queue.SimpleQueue[FedbeatError] = queue.SimpleQueue()
    with VirtualFleet(settings(tmp_path), "mqtt://127.0.0.1:1", exits.put) as fleet:
        child_of(fleet).kill()
        error = exits.get(timeout=LIMIT_S)
    assert error.exit_code == 6
    assert "the virtual devices ended" in str(error)
