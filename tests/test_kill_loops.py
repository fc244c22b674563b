"""Kill -9 of coordinator, devices, trainer children and broker, on real mosquitto. ``make chaos`` is the long run."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.kills import VICTIMS, survive

KILLS = 20
STRATEGY = "fedadam"  # whose moments must survive too
SEED = 3  # among whose kills are three of devices that have just had their receipt, in rounds that are still open


@pytest.mark.timeout(400)
def test_invariant_02_invariant_04_invariant_05_invariant_08_twenty_kills_lose_nothing_and_change_no_bit(
    tmp_path: Path,
) -> None:
    """Every version is bit for bit the one of the same run in peace, and no device trains again what it has trained.

    Seen to fail with updates that get their receipt and are not journalled (2), with an attempt that a restart opens
    anew (4), and with receipts that a device forgets at a restart (8). That versions chain (5) the journal's own
    triggers see to.
    """
    outcome = survive(tmp_path, SEED, KILLS, strategy=STRATEGY)
    assert outcome.violations == []
    assert sum(outcome.kills.values()) >= KILLS
    assert outcome.kills.keys() == VICTIMS.keys()
