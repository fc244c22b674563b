"""A device whose network is gone for longer than its keepalive, with a cable that is really pulled."""

from __future__ import annotations

from pathlib import Path

from tests.chaos.federation import ALL, QUICK, Federation
from tests.chaos.namespace import HERE, Cable, alone
from tests.chaos.spy import Spy, closed_by, device_gone
from tests.link_mosquitto import Mosquitto


def test_a_device_cut_off_by_its_network_is_gone_for_its_rounds_and_takes_part_again_later(tmp_path: Path) -> None:
    """Nothing resets its connection: packets vanish. The deadline of the rounds without it is 600 s away.

    Seen to fail with heartbeats and wills ignored.
    """

    def cut_off() -> None:
        with Cable() as cable, Mosquitto(tmp_path, host="0.0.0.0") as broker:  # noqa: S104 - of a network of its own
            abroad = {"dev-0": (f"mqtt://{HERE}:{broker.port}", cable.command())}
            room = Federation(tmp_path, broker, options=("--devices-min", "2"), env=QUICK, abroad=abroad)
            with Spy(broker.port) as spy, room:
                spy.until(closed_by(*ALL), "a round of all")
                cable.pull()
                since = len(spy.heard)
                spy.until(closed_by("dev-1", "dev-2"), "a round without the one that is cut off", since)
                spy.until(device_gone, "its will", since)
                room.running("dev-0").wait_for("trying again")
                cable.plug()
                spy.until(closed_by(*ALL), "a round of all again", len(spy.heard))
                ledger = room.conclude()
            assert list(ledger.faults(room.rounds)) == []

    alone(cut_off)
