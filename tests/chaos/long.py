"""The long run: hundreds of kills, and fifty rounds in which thirty percent of the devices die. ``make chaos``.

    python -m tests.chaos.long --kills 200 --rounds 50 [--seed n] [--strategy fedadam]

The kills come in runs of 25, each with a seed of its own that follows from the one given, and each compared bit for bit
with the same run in peace. Prints what happened, and last one line of JSON; ends with 1 where anything was violated.
"""

from __future__ import annotations

import argparse
import json
import secrets
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Final

from tests.chaos.attrition import DEADLINE_S, Attrition, endure
from tests.chaos.kills import Outcome, survive

A_RUN: Final = 25  # kills


def main() -> int:
    """Run, print, and tell whether all held."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=50, help="in which 30 %% of the devices die; 0: none")
    parser.add_argument("--seed", type=int, help="drawn and printed unless given")
    parser.add_argument("--strategy", default="fedavg", help="of the runs with kills; all but fedavg keep a state")
    given = parser.parse_args()
    seed = secrets.randbelow(1_000_000) if given.seed is None else given.seed
    began = time.monotonic()
    _say(f"seed {seed}")
    outcomes = []
    for number, done in enumerate(range(0, given.kills, A_RUN)):
        outcomes.append(_killed(seed + number, min(A_RUN, given.kills - done), given.strategy))
    attrition = _decimated(seed, given.rounds) if given.rounds else None
    violations = sum(len(one.violations) for one in outcomes) + (len(attrition.violations) if attrition else 0)
    figures = {
        "seed": seed,
        "strategy": given.strategy,
        "kills": dict(sum((Counter(one.kills) for one in outcomes), Counter())),
        "aimed": dict(sum((Counter(one.aimed) for one in outcomes), Counter())),
        "rounds": sum(one.rounds for one in outcomes),
        "decimated": None if attrition is None else _figures(attrition),
        "violations": violations,
        "seconds": round(time.monotonic() - began),
    }
    sys.stdout.write(json.dumps(figures) + "\n")
    return 1 if violations else 0


def _killed(seed: int, kills: int, strategy: str) -> Outcome:
    with tempfile.TemporaryDirectory(prefix="chaos-") as home:
        outcome = survive(Path(home), seed, kills, strategy=strategy)
    _say(
        f"seed {seed}: kills {outcome.kills}, right after {outcome.aimed}; {outcome.rounds} rounds, "
        f"{len(outcome.violations)} violations, {outcome.seconds:.0f} s"
    )
    _say(*outcome.violations)
    return outcome


def _decimated(seed: int, rounds: int) -> Attrition:
    with tempfile.TemporaryDirectory(prefix="chaos-") as home:
        found = endure(Path(home), seed, rounds)
    _say(
        f"{found.committed} rounds of {rounds} committed, deaths {found.deaths}, the longest took "
        f"{max(found.seconds):.3f} s of {DEADLINE_S:g} s, {len(found.violations)} violations, {found.took_s:.0f} s"
    )
    _say(*found.violations)
    return found


def _figures(found: Attrition) -> dict[str, object]:
    return {
        "deaths": found.deaths,
        "attempts": len(found.seconds),
        "committed": found.committed,
        "deadline_s": DEADLINE_S,
        "longest_s": round(max(found.seconds), 3),
    }


def _say(*lines: str) -> None:
    sys.stdout.writelines(f"{line}\n" for line in lines)
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
