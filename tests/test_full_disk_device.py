"""A device on a disk of 1 MB that is really full: whatever it can't write, it says so, loses nothing, and recovers."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge.core import events as ev
from edge.core.events import Ticket
from edge.core.pace import Pace
from edge.core.participation_state import Kept
from edge.store import Store, claim
from schemas import codec
from schemas.errors import StateError
from schemas.messages import DeviceState, Outcome
from schemas.topics import Kind
from tests.edge_scripts import DEVICE, announcement, receipt
from tests.full_disks import small_disk
from tests.link_mosquitto import Mosquitto
from tests.running_commands import EDGE, Running, device_status
from tests.test_agent import World
from tests.test_outbox import put
from tests.waiting import until


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MB."""
    with small_disk(tmp_path / "disk", "1m") as place:
        yield place


@contextlib.contextmanager
def full(disk: Path, leave: int = 0) -> Iterator[Path]:
    """Something else takes all of the room but ``leave`` bytes."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))
    size = ballast.stat().st_size
    os.truncate(ballast, size - leave // 4096 * 4096)
    try:
        yield ballast
    finally:
        ballast.unlink()


@pytest.fixture
def world(disk: Path) -> World:
    world = World(disk)
    world.trainer.payload = lambda job: bytes(20_000) + job.model
    world.desk.begin()
    world.turn()
    return world


def detail(world: World) -> str:
    world.turn(1.0)
    assert world.agent.status.state is DeviceState.TROUBLE
    return world.agent.status.detail


def a_round(world: World, number: int) -> None:
    """A round that works, from announcement to receipt."""
    world.desk.updates.clear()
    about = world.training(number)
    assert codec.decode_update(world.desk.update).round == number
    world.desk.say(Kind.RECEIPT, receipt(about), number)
    world.turn(1.0)
    assert world.agent.status.last_round == number


def test_invariant_11_a_full_disk_skips_the_round_says_so_and_recovers(world: World, disk: Path) -> None:
    """The update does not fit. Seen to fail with the error of ``Outbox.put`` let through."""
    with full(disk):
        world.training(1)
        assert [join.accepts for join in world.desk.joins] == [True, False]
        assert "No space left" in world.desk.joins[-1].reason
        assert "free some space" in detail(world)
        assert not world.desk.updates
    world.turn(61.0)
    assert world.agent.status.state is DeviceState.IDLE
    world.desk.offer(1)
    a_round(world, 2)


def test_invariant_11_a_model_that_does_not_fit_is_fetched_once_there_is_room(world: World, disk: Path) -> None:
    """Seen to fail with the error of ``Store.keep_model`` let through."""
    with full(disk):
        world.desk.offer(1, size=100_000)
        world.turn()
        assert "free some space" in detail(world)
        assert world.agent.status.model_version == 0
    world.turn(61.0)
    assert world.agent.status.model_version == 1


def test_invariant_11_a_plan_that_does_not_fit_is_fetched_once_there_is_room(disk: Path) -> None:
    world = World(disk)
    with full(disk):
        world.desk.begin()
        world.turn()
        assert "free some space" in detail(world)
    world.turn(61.0)
    a_round(world, 1)


def test_invariant_11_no_update_in_the_outbox_is_lost_to_a_full_disk(world: World, disk: Path) -> None:
    """It is there after a restart on the full disk, and goes again.

    Seen to fail with other updates dropped where there is no room for a new one.
    """
    about = world.training(1)
    before = world.desk.update
    with full(disk):
        world.desk.announce(announcement(2, version=0))
        world.turn()
        assert [join.accepts for join in world.desk.joins][-2:] == [True, False]
        world.desk.updates.clear()
        world.crash()
        everything = tuple(range(50))
        world.desk.say(Kind.RECEIPT, receipt(about, Outcome.INCOMPLETE, missing=everything), 1)
        world.turn()
        assert world.desk.update == before
        world.desk.say(Kind.RECEIPT, receipt(about), 1)
        world.turn(1.0)
        assert world.agent.status.last_round == 1
    world.crash()
    assert len([job for job in world.trainer.trainings() if job.key.split("/")[2] == "1"]) == 1


def test_an_update_may_have_the_room_of_the_checkpoint_that_it_makes_useless(world: World, disk: Path) -> None:
    """Seen to fail with the checkpoint kept until the update is on disk, whatever that costs."""
    Store(world.state / "device", print).keep_checkpoint(Kept("job", 0.9), "a" * 64, "b" * 64, bytes(60_000))
    with full(disk):
        world.training(1)
        assert codec.decode_update(world.desk.update).round == 1
    assert not (world.state / "device" / "checkpoint").exists()


def test_what_a_device_can_do_without_is_told_and_left(
    world: World, disk: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Checkpoint, pace and age. Seen to fail with ``StateError`` let through by the agent."""
    store = Store(world.state / "device", print)
    with full(disk):
        with pytest.raises(StateError, match="No space left"):
            store.keep_checkpoint(Kept("job", 0.5), "a" * 64, "b" * 64, bytes(10_000))
        with pytest.raises(StateError, match="No space left"):
            store.keep_pace(Pace((("a" * 64, 1.0),)))
        with pytest.raises(StateError, match="No space left"):
            store.keep_running_s(1.0)
        world.trainer.hold = True
        world.training(1)
        (job, _), *_ = world.trainer.held
        world.agent.handle(ev.JobProgressed(job.key, 0.5, bytes(10_000)), world.now)
        assert "checkpoint: No space left" in caplog.text
    world.trainer.release()
    world.turn()
    assert codec.decode_update(world.desk.update).round == 1


def test_a_settled_update_makes_room_for_the_next_on_a_full_disk(world: World, disk: Path) -> None:
    """Its bytes stay until then. Seen to fail with the spent updates removed after the next is written."""
    about = world.training(1)
    with full(disk):
        world.desk.say(Kind.RECEIPT, receipt(about), 1)
        world.turn(1.0)
        assert world.agent.status.last_round == 1
        world.desk.updates.clear()
        world.desk.announce(announcement(2, version=0))
        world.turn()
        assert codec.decode_update(world.desk.update).round == 2


def test_a_device_starts_on_a_full_disk_and_says_that_its_session_is_not_kept(disk: Path) -> None:
    """Seen to fail with the error of the session's file let through."""
    state = disk / "device"
    with claim(state, lambda: 1000.0) as session:
        assert session == 1000
    said: list[str] = []
    with full(disk), claim(state, lambda: 5.0, said.append) as session:
        assert session == 1001
        assert "No space left" in said[0]
    with claim(state, lambda: 5.0, said.append) as session:
        assert session == 1001
    assert len(said) == 1


def test_edge_run_on_a_full_disk_is_there_for_its_owner_to_see(disk: Path, mosquitto: Mosquitto) -> None:
    """A real process, started again by systemd say. Seen to fail with the error of the session's file let through."""
    arguments = ("run", "--broker", mosquitto.address, "--data", "watch", "--device", DEVICE, "--state", "device")
    elsewhere = {"TMPDIR": str(disk.parent)}
    with Running(*EDGE, *arguments, cwd=disk, env=elsewhere) as device:
        until(lambda: device_status(mosquitto.port, DEVICE) is not None, "the device")
        device.send(signal.SIGTERM)
        assert device.end().code == 0
    with full(disk), Running(*EDGE, *arguments, cwd=disk, env=elsewhere) as device:
        device.wait_for("isn't kept")

        def is_there() -> bool:
            status = device_status(mosquitto.port, DEVICE)
            return status is not None and status.state is not DeviceState.STOPPED

        until(is_there, "the device again")
        device.send(signal.SIGTERM)
        assert device.end().code == 0


def test_a_full_outbox_directory_keeps_every_other_update(world: World, disk: Path) -> None:
    outbox = world.agent._outbox
    kept = put(outbox, Ticket("run-one", 1, "train", "0" * 16), bytes(5000))
    with full(disk), pytest.raises(StateError):
        put(outbox, Ticket("run-one", 2, "train", "1" * 16), bytes(5000))
    assert outbox.contents().parcels == (kept,)
    assert [path.name for path in (world.state / "device" / "outbox").iterdir()] == ["run-one.1.train.update"]
