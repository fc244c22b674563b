"""Kill -9 of coordinator, devices, trainer children and broker, on real mosquitto. ``make chaos`` is the long run."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.kills import VICTIMS, survive

KILLS = 20


@pytest.mark.timeout(400)
def test_invariant_02_invariant_04_invariant_05_invariant_08_twenty_kills_lose_nothing_and_change_no_bit(
    tmp_path: Path,
) -> None:
    """Every version is bit for bit the one of the same run in peace, and no device trains again what it has trained.

    Seen to fail with receipts sent before the journal's commit (2), with an attempt's nonce and updates forgotten at a
    restart (4), with version files not named by their digest (5), and with an outbox that is empty after a restart (8).
    """
    outcome = survive(tmp_path, seed=1, kills=KILLS)
    assert outcome.violations == []
    assert sum(outcome.kills.values()) == KILLS
    assert outcome.kills.keys() == VICTIMS.keys()
