"""Real processes whose wall clock jumps while they work, by libfaketime; the monotonic clock goes on as it does."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest

from schemas.messages import DeviceStatus, Outcome, Receipt, RoundAnnouncement
from tests.chaos.evidence import begun_again, differences, lost, trained_again
from tests.chaos.federation import QUICK, Federation
from tests.chaos.spy import Heard, Spy, closed_by
from tests.link_mosquitto import Mosquitto

LIBRARIES = "faketime/libfaketimeMT.so.1"


def library() -> Path:
    """libfaketime as Debian installs it."""
    for folder in (Path("/usr/lib"), Path("/usr/local/lib")):
        for path in (*folder.glob(f"*/{LIBRARIES}"), *folder.glob(LIBRARIES)):
            return path
    pytest.fail("libfaketime is missing: apt install libfaketime")


def test_invariant_12_a_clock_that_jumps_a_year_either_way_changes_nothing(
    mosquitto: Mosquitto, tmp_path: Path
) -> None:
    """Every clock at once, in the middle of rounds; and with it a year back, coordinator and a device start anew.

    Seen to fail with the wall clock as the coordinator's clock and as the device's, and with sessions that are the
    wall clock's seconds alone.
    """
    clock = tmp_path / "clock"
    clock.write_text("+0\n")
    faked = {
        "LD_PRELOAD": str(library()),
        "FAKETIME_TIMESTAMP_FILE": str(clock),
        "FAKETIME_CACHE_DURATION": "1",  # seconds until everybody has jumped, each in the middle of what it does then
        "DONT_FAKE_MONOTONIC": "1",
    }
    (home := tmp_path / "room").mkdir()
    (calm_home := tmp_path / "calm").mkdir()
    room = Federation(home, mosquitto, 2, env={**QUICK, **faked})
    room.begin()
    with Mosquitto(calm_home) as calm, Spy(mosquitto.port) as spy:
        twin = room.twin(tmp_path / "twin", calm)
        with room:
            spy.until(closed_by(*room.names), "a round")
            for days in (365, -365):
                clock.write_text(f"{days:+}d\n")
                spy.until(
                    opened_in(datetime.now(UTC).date() + timedelta(days)), "a round by the new clock", len(spy.heard)
                )
            for name in ("dev-0", "coordinator"):
                room.kill(name)
                room.start(name)
            spy.until(closed_by(*room.names), "a round", len(spy.heard))
            ledger = room.conclude()
        faults = [*ledger.faults(room.rounds), *lost(spy.heard, ledger), *begun_again(spy.heard)]
        faults += differences(ledger, twin.run_in_peace(room.rounds))
    for name in room.names:
        faults += trained_again(name, room.state(name), room.rounds)
    assert faults == []
    said = [one.message for one in spy.heard]
    # Late is what a restarted device sends again of a round that its update has closed; no clock does that.
    assert {one.outcome for one in said if isinstance(one, Receipt)} <= {
        Outcome.ACCEPTED,
        Outcome.DUPLICATE,
        Outcome.LATE,
    }
    years = {one.opened[:4] for one in said if isinstance(one, RoundAnnouncement)}
    assert len(years) == 3, "the clocks have not jumped"
    for name in room.names:
        sessions = [one.session for one in said if isinstance(one, DeviceStatus) and one.device == name]
        assert sessions == sorted(sessions)
        assert len(set(sessions)) == (2 if name == "dev-0" else 1)


def tells(device: str, heard: Heard) -> bool:
    return isinstance(heard.message, DeviceStatus) and heard.message.device == device and not heard.retained


def opened_in(day: date) -> Callable[[Heard], bool]:
    """Whether a message tells of a round that was opened in this day's year, by the coordinator's wall clock."""

    def look(heard: Heard) -> bool:
        return isinstance(heard.message, RoundAnnouncement) and heard.message.opened.startswith(str(day.year))

    return look
