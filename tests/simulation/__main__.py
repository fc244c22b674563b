"""The long simulation: ``make simulate SECONDS=600``, or ``make simulate SEED=7`` for one seed again, with its trace.

Exits with 1 where an invariant was violated; what was seen goes to standard output, the last line as JSON.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import time
from typing import Final

from tests.simulation.run import ROUNDS, Tally, outcomes, simulate
from tests.simulation.scenario import draw

TOLD_S: Final = 10.0


def main() -> int:
    """Simulate seeds until time is up."""
    arguments = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    arguments.add_argument("--seconds", type=float, default=600.0, help="of this machine's time")
    arguments.add_argument("--seed", type=int, help="this one alone, with its trace")
    arguments.add_argument("--first", type=int, default=1, help="the first of many seeds")
    arguments.add_argument("--rounds", type=int, default=ROUNDS, help="of each run")
    given = arguments.parse_args()
    tally, began, trace = Tally(), time.monotonic(), ""
    if given.seed is not None:
        outcome = simulate(draw(given.seed, given.rounds))
        tally.add(outcome)
        trace = outcome.trace
        print(*outcome.tail, sep="\n")  # noqa: T201
    else:
        told_at = began
        for outcome in outcomes(itertools.count(given.first), given.rounds):
            tally.add(outcome)
            if outcome.violation:
                print(*outcome.tail, sep="\n")  # noqa: T201
                print(f"seed {outcome.seed}: {outcome.violation}", flush=True)  # noqa: T201
            now = time.monotonic()
            if now - told_at >= TOLD_S:
                told_at = now
                print(f"{now - began:.0f} s: {tally.rounds} rounds of {tally.seeds} seeds", flush=True)  # noqa: T201
            if now - began >= given.seconds:
                break
    _report(tally, time.monotonic() - began, trace)
    return 1 if tally.violations else 0


def _report(tally: Tally, seconds: float, trace: str) -> None:
    for name, times in sorted(tally.faults.items()):
        print(f"{times:8d} x {name}")  # noqa: T201
    for seed, violation in tally.violations.items():
        print(f"seed {seed}: {violation} (again with: make simulate SEED={seed})")  # noqa: T201
    print(  # noqa: T201
        json.dumps(
            {
                "rounds": tally.rounds,
                "committed": tally.committed,
                "seeds": tally.seeds,
                "failed_runs": tally.failures,
                "virtual_s": round(tally.virtual_s),
                "seconds": round(seconds, 1),
                "faults": dict(sorted(tally.faults.items())),
                "violations": tally.violations,
                "trace": trace,  # of a single seed: the digest of all that happened
            }
        )
    )


if __name__ == "__main__":
    sys.exit(main())
