"""A device whose disk is really full: a file system of 1 MB in memory, real processes, real mosquitto."""

from __future__ import annotations

from pathlib import Path

import pytest

from schemas.messages import DeviceState, DeviceStatus, Join
from tests.chaos.federation import ALL, Federation
from tests.chaos.spy import Heard, Spy, closed_by
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


def joins(heard: Heard) -> bool:
    return isinstance(heard.message, Join) and heard.message.device == "dev-0"


def of_device(heard: Heard) -> bool:
    return isinstance(heard.message, DeviceStatus) and heard.message.device == "dev-0"


def in_trouble(heard: Heard) -> bool:
    return isinstance(heard.message, DeviceStatus) and (
        (heard.message.device, heard.message.state) == ("dev-0", DeviceState.TROUBLE)
    )
