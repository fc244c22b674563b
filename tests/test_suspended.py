"""A process that stands still for longer than its keepalive, as on a machine that swaps, and goes on later."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

from schemas.messages import CoordinatorState, CoordinatorStatus
from tests.chaos.evidence import lost
from tests.chaos.federation import ALL, QUICK, Federation
from tests.chaos.spy import Heard, Spy, closed_by, coordinator, device_gone
from tests.link_mosquitto import Mosquitto


def test_whoever_stands_still_past_the_keepalive_shows_as_gone_and_goes_on_later(
    mosquitto: Mosquitto, tmp_path: Path
) -> None:
    """A device, then the coordinator, then the broker: same processes, same sessions, no attempt and no update lost.

    Without the device rounds go on with the two others, long before their deadline of 600 s. Seen to fail with the
    heartbeat's and the will's word on a device ignored, and with a link that does not mind the silence of its broker.
    """
    room = Federation(tmp_path, mosquitto, options=("--devices-min", "2"), env=QUICK)
    with Spy(mosquitto.port) as spy, room:
        spy.until(closed_by(*ALL), "a round of all")
        stand_still(room, spy, "dev-0", closed_by("dev-1", "dev-2"), device_gone)
        spy.until(closed_by(*ALL), "a round of all again", len(spy.heard))

        before = spy.until(coordinator(CoordinatorState.RUNNING), "the coordinator")
        stand_still(room, spy, "coordinator", coordinator(CoordinatorState.OFFLINE))
        after = spy.until(coordinator(CoordinatorState.RUNNING), "the coordinator again", len(spy.heard))
        assert isinstance(before.message, CoordinatorStatus)
        assert isinstance(after.message, CoordinatorStatus)
        assert before.message.session == after.message.session
        spy.until(closed_by(*ALL), "a round of all again", len(spy.heard))

        mosquitto.freeze()
        room.running("coordinator").wait_for('"disconnected"')
        for name in room.names:
            room.running(name).wait_for("trying again")
        mosquitto.thaw()
        spy.until(closed_by(*ALL), "a round of all again", len(spy.heard))
        ledger = room.conclude()
    assert list(ledger.faults(room.rounds)) == []
    assert list(lost(spy.heard, ledger)) == []
    assert not any("Traceback" in room.said(name) for name in (*ALL, "coordinator"))


def stand_still(room: Federation, spy: Spy, name: str, *seen: Callable[[Heard], bool]) -> None:
    """Stop a process until all of this has been seen."""
    room.running(name).send(signal.SIGSTOP)
    since = len(spy.heard)
    for each in seen:
        spy.until(each, f"what {name} brings about by standing still", since)
    room.running(name).send(signal.SIGCONT)
