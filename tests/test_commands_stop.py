"""Signals and silence: a coordinator that is stopped goes on later, a device says goodbye, and nobody is waited for."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from coordinator.journal import Journal
from schemas.messages import CoordinatorState, DeviceState
from tests.link_mosquitto import Mosquitto
from tests.running_commands import (
    COORDINATOR,
    EDGE,
    LIMIT_S,
    QUICK,
    Running,
    coordinator_status,
    device_status,
)
from tests.terminal import Terminal
from tests.waiting import until


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("stop")


@pytest.fixture(scope="module")
def broker(home: Path) -> Iterator[Mosquitto]:
    with Mosquitto(home) as running:
        yield running


@pytest.fixture(scope="module")
def devices(home: Path, broker: Mosquitto) -> Iterator[tuple[Running, Running]]:
    """Two `edge run` with all of the watch recordings each."""
    common = ("run", "--broker", broker.address, "--data", "watch", "--heartbeat", "1")
    with (
        Running(*EDGE, *common, "--device", "dev-one", "--state", "one", cwd=home) as one,
        Running(*EDGE, *common, "--device", "dev-two", "--state", "two", cwd=home) as two,
    ):
        yield one, two


def test_a_stopped_coordinator_goes_on_from_the_next_round_with_the_same_command(
    home: Path, broker: Mosquitto, devices: tuple[Running, Running]
) -> None:
    assert devices
    command = (*COORDINATOR, "start", "--broker", broker.address, "--plan", "watch", "--state", "state")
    arguments = (*command, "--rounds", "1000", "--local-steps", "1", "--no-evaluate", "--devices-min", "2", "--json")
    reached = 0
    for number in (signal.SIGINT, signal.SIGTERM):
        with Running(*arguments, cwd=home) as run:
            started = json.loads(run.wait_for('"started"'))
            assert (started["next_round"], started["version"], started["resumed"]) == (
                reached + 1,
                reached,
                reached > 0,
            )
            run.wait_for('"round_closed"')
            run.wait_for('"round_closed"')
            run.send(number)
            done = run.end()
        assert (done.code, done.err) == (0, "")
        last = json.loads(done.out.splitlines()[-1])
        assert (last["event"], last["stopped"], last["error"]) == ("finished", True, None)
        status = coordinator_status(broker.port)
        assert (status.state, status.model_version) == (CoordinatorState.STOPPED, last["version"])
        assert last["version"] >= reached + 2
        reached = last["version"]


def test_a_device_that_falls_silent_in_a_round_is_waited_for_until_the_deadline_only(
    home: Path, broker: Mosquitto, devices: tuple[Running, Running]
) -> None:
    """Both devices have served a coordinator with another state directory before; they serve this one too."""
    frozen = devices[0]
    command = (*COORDINATOR, "start", "--broker", broker.address, "--plan", "watch", "--state", "frozen", "--json")
    arguments = ("--rounds", "1", "--local-steps", "5", "--deadline", "5", "--no-evaluate")
    with Running(*command, *arguments, cwd=home) as run:
        run.wait_for('"round_opened"')
        frozen.send(signal.SIGSTOP)
        try:
            closed = json.loads(run.wait_for('"round_closed"'))["summary"]
        finally:
            frozen.send(signal.SIGCONT)
        assert run.end().code == 0
    assert (closed["outcome"], closed["devices"]) == ("committed", ["dev-two"])
    assert closed["seconds"] < 7


def test_a_terminal_that_goes_stops_a_coordinator_in_good_order_unless_it_is_to_outlast_it(tmp_path: Path) -> None:
    """Seen to fail: it was killed, and where the signal was ignored its next drawing ended it with a traceback."""
    arguments = (*COORDINATOR, "start", "--virtual", "2", "--local-steps", "200", "--no-evaluate", "--rounds")
    with Terminal(*arguments, "1000", cwd=tmp_path) as run:
        run.until(" kB ")  # the first round's row
        family = psutil.Process(run.pid).children(recursive=True)
        run.hang_up()
        assert run.end() == 0
    _, alive = psutil.wait_procs(family, LIMIT_S)
    assert not alive
    with Terminal(*arguments, "8", "--fresh", cwd=tmp_path, outlasts=True) as run:
        run.until(" kB ")  # the first round's row
        run.hang_up()
        assert run.end() == 0
    with Journal(tmp_path / "state" / "coordinator" / "journal.db") as journal:
        finished = journal.finished_run()
        assert finished is not None
        (*_, last) = journal.history(finished.settings.run)
    assert (last.round, last.outcome) == (8, "committed")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_device_that_is_stopped_says_so_and_ends_well(home: Path, broker: Mosquitto, number: signal.Signals) -> None:
    name = f"dev-{number.name.lower()}"
    arguments = ("run", "--broker", broker.address, "--data", "watch", "--device", name, "--state", name)
    with Running(*EDGE, *arguments, cwd=home) as device:
        until(lambda: device_status(broker.port, name) is not None, "the device")
        device.send(number)
        done = device.end()
    assert done.code == 0
    assert "Traceback" not in done.err
    status = device_status(broker.port, name)
    assert status is not None
    assert status.state is DeviceState.STOPPED


def test_a_killed_coordinator_takes_its_virtual_devices_and_broker_along(home: Path) -> None:
    with Running(*COORDINATOR, "start", *QUICK, "--rounds", "1000", "--state", "killed", cwd=home) as run:
        run.wait_for("update from")
        family = psutil.Process(run.pid).children(recursive=True)
        assert any("fleet" in child.cmdline() for child in family)
        run.send(signal.SIGKILL)
        run.end()
    _, alive = psutil.wait_procs(family, LIMIT_S)
    assert not alive


def test_fleet_can_be_stopped_while_its_parent_keeps_its_input_open(home: Path, broker: Mosquitto) -> None:
    reading, writing = os.pipe()
    arguments = ("fleet", "--broker", broker.address, "--data", "watch", "--devices", "2", "--federation", "else")
    try:
        with Running(*EDGE, *arguments, "--until-stdin-closes", "--prefix", "kept", cwd=home, stdin=reading) as fleet:
            until(lambda: bool(psutil.Process(fleet.pid).net_connections()), "the fleet to connect")
            fleet.send(signal.SIGTERM)
            done = fleet.end()
    finally:
        os.close(reading)
        os.close(writing)
    assert done.code == 0
    assert "Fatal" not in done.err
