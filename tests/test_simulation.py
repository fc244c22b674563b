"""Whole federations on virtual time, one from each seed: whatever goes wrong, what always holds holds.

What "always" means stands in ``tests/simulation/referee.py`` and ``ledger.py``; that they notice anything at all is
shown by ``test_simulation_finds_bugs.py``. ``make simulate`` goes on with other seeds for as long as it is given.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest

from tests.simulation.run import Tally, outcomes, simulate
from tests.simulation.scenario import CALM, Scenario, draw
from tests.simulation.world import Outcome

SEEDS_A_TEST = 3
TESTS = 12
WILD = 8  # a seed in which about everything goes wrong


@pytest.mark.parametrize("first", [1 + SEEDS_A_TEST * number for number in range(TESTS)])
def test_invariants_01_to_08_and_11_to_13_hold_whatever_goes_wrong(first: int) -> None:
    """Seen to fail with each bug of ``test_simulation_finds_bugs.py``."""
    tally = Tally()
    for outcome in outcomes(range(first, first + SEEDS_A_TEST)):
        tally.add(outcome)
        assert not outcome.violation, told(outcome)
    assert tally.committed == SEEDS_A_TEST * 24
    assert tally.faults


@pytest.mark.parametrize("seed", [500389, 1000283, 1000400, 11000687, 42000072, 42000093])
def test_what_a_long_run_has_found_stays_mended(seed: int) -> None:
    """Each with another reason.

    500389 (30): a status of a higher rank was at hand, and time was let pass before it was heard. 1000283 (30): the
    next start had forgotten the session it had given way to. 1000400 (liveness): an earlier attempt's receipt took the
    bytes of an update that waited for its own; and later, a newcomer forgot the session of who refused it, whom devices
    went on following. 11000687 (4): a restart forgot who had joined an attempt that was open already, and gave it up as
    though they had declined. 42000072 (11): a kill left an old model on the broker. 42000093 (4): who had answered an
    open attempt before its join came was not among those a restart knows to have been asked.
    """
    outcome = simulate(draw(seed))
    assert not outcome.violation, told(outcome)


def test_a_federation_in_which_nothing_goes_wrong_commits_every_round_at_the_first_attempt() -> None:
    scenario = draw(1)
    honest = tuple(replace(one, kind="honest", training_s=1.0) for one in scenario.members)
    outcome = simulate(replace(scenario, members=honest, mishaps={}, faults=CALM, busy_s=0.0))
    assert not outcome.violation, told(outcome)
    assert (outcome.committed, outcome.rounds) == (24, 24)


def test_a_seed_replays_to_the_last_event_also_where_sets_are_in_another_order() -> None:
    digests = set()
    for hash_seed in ("1", "2"):
        finished = subprocess.run(
            [sys.executable, "-m", "tests.simulation", "--seed", str(WILD), "--rounds", "8"],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        )
        report = json.loads(finished.stdout.splitlines()[-1])
        assert (report["committed"], report["violations"]) == (8, {})
        digests.add(report["trace"])
    digests.add(simulate(draw(WILD, 8)).trace)
    assert len(digests) == 1


def test_invariant_12_wall_clocks_that_jump_by_years_change_nothing() -> None:
    """Seen to fail with the coordinator's round clock on the wall clock."""
    rate = 0.2
    jumping = replace(draw(WILD), mishaps={**draw(WILD).mishaps, "wall clock jump": rate})
    steady = replace(jumping, mishaps={**jumping.mishaps, "wall clock jump": 0.0})
    jumped, stood = simulate(jumping), simulate(steady)
    assert jumped.faults["wall clock jump"] > 10
    assert jumped.trace == stood.trace, f"{told(jumped)}\n\n{told(stood)}"


def test_scenarios_cover_what_a_run_can_be() -> None:
    scenarios = [draw(seed) for seed in range(1, 1 + SEEDS_A_TEST * TESTS)]
    assert {kind for one in scenarios for kind in kinds(one)} >= {
        "honest",
        "slow",
        "wrong nonce",
        "other's name",
        "not finite",
        "equivocating",
        "silent",
    }
    assert {one.settings.strategy.name for one in scenarios} == {"fedavg", "fedavgm"}
    assert {one.settings.evaluate for one in scenarios} == {True, False}
    assert {one.width for one in scenarios} == {6, 500}
    assert {one.settings.max_staleness for one in scenarios} == {None, 1, 2, 3}
    assert any(one.second for one in scenarios)
    assert any(one.mishaps["command"] for one in scenarios)


def kinds(scenario: Scenario) -> set[str]:
    return {member.kind for member in scenario.members}


def told(outcome: Outcome) -> str:
    """What to look at, and how to see it again."""
    tail = "\n".join(outcome.tail)
    return f"{tail}\nseed {outcome.seed}: {outcome.violation} (again with: make simulate SEED={outcome.seed})"
