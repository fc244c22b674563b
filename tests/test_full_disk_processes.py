"""Disks that are really full: file systems of a few MB in memory, real processes, real mosquitto."""

from __future__ import annotations

from pathlib import Path

import pytest

from schemas.messages import CoordinatorState, CoordinatorStatus, DeviceState, DeviceStatus, Join
from tests.chaos.evidence import lost
from tests.chaos.federation import ALL, Federation
from tests.chaos.spy import Heard, Spy, closed_by, coordinator
from tests.full_disks import Ballast, small_disk
from tests.link_mosquitto import Mosquitto

PATIENCE_S = 120.0  # a device looks again after 20 s


@pytest.mark.timeout(300)
def test_invariant_11_a_full_disk_costs_a_device_its_round_and_it_says_so_until_there_is_space_again(
    mosquitto: Mosquitto, tmp_path: Path
) -> None:
    """The disk fills while the device trains. The others' round goes on, and the device is in the next one it can be.

    Seen to fail with trouble that is not told.
    """
    room = Federation(tmp_path, mosquitto, options=("--devices-min", "2"))
    with small_disk(room.state("dev-0"), "1m") as disk, Spy(mosquitto.port) as spy, room:
        spy.until(joins, "the device takes part")
        (ballast := Ballast(disk)).fill()
        trouble = spy.until(in_trouble, "the device's trouble")
        spy.until(closed_by("dev-1", "dev-2"), "the others' round")
        room.stop("coordinator")
        ballast.drop()
        well = spy.next(lambda heard: of_device(heard) and not in_trouble(heard), len(spy.heard), PATIENCE_S)
        assert well is not None, "it still says that its disk is full"
        room.start("coordinator")
        spy.until(closed_by(*ALL), "a round of all", len(spy.heard))
        ledger = room.conclude()
    assert isinstance(trouble.message, DeviceStatus)
    assert "No space left on device; free some space there" in trouble.message.detail
    assert list(ledger.faults(room.rounds)) == []
    assert "Traceback" not in room.said("dev-0")


@pytest.mark.timeout(300)
def test_invariant_11_invariant_02_a_full_disk_pauses_the_coordinator_until_there_is_space_and_loses_nothing(
    mosquitto: Mosquitto, tmp_path: Path
) -> None:
    """Seen to fail with a disk that refuses taken for one that is broken: the coordinator ended."""
    room = Federation(tmp_path, mosquitto, devices=1)
    with small_disk(room.state("coordinator"), "8m") as disk, Spy(mosquitto.port) as spy, room:
        spy.until(closed_by("dev-0"), "a round")
        (ballast := Ballast(disk)).fill()
        paused = spy.until(coordinator(CoordinatorState.PAUSED), "that it pauses")
        at = len(spy.heard)
        spy.until(lambda heard: isinstance(heard.message, DeviceStatus), "a device while it pauses", at)
        committed = [heard for heard in spy.heard[at:] if closed_by("dev-0")(heard)]
        ballast.drop()
        spy.until(coordinator(CoordinatorState.RUNNING), "that it goes on", at)
        spy.until(closed_by("dev-0"), "another round", at)
        ledger = room.conclude()
        heard = spy.heard
    assert isinstance(paused.message, CoordinatorStatus)
    assert str(disk) in paused.message.detail
    assert paused.message.detail.endswith("It goes on by itself, at most 30 s after there is room")
    assert not committed
    assert [*ledger.faults(room.rounds), *lost(heard, ledger)] == []
    assert "Traceback" not in room.said("coordinator")
    assert len(room.deaths["coordinator"]) == 2  # both of them polite


def joins(heard: Heard) -> bool:
    return isinstance(heard.message, Join) and heard.message.device == "dev-0"


def of_device(heard: Heard) -> bool:
    return isinstance(heard.message, DeviceStatus) and heard.message.device == "dev-0"


def in_trouble(heard: Heard) -> bool:
    return isinstance(heard.message, DeviceStatus) and (
        (heard.message.device, heard.message.state) == ("dev-0", DeviceState.TROUBLE)
    )
