"""Seeds, one after another: each in a directory of its own in memory, with what was seen added up."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from unittest.mock import patch

from tests.simulation.scenario import Scenario, draw
from tests.simulation.world import Outcome, World

ROUNDS: Final = 24  # of a seed's run
_MEMORY: Final = Path("/dev/shm")  # noqa: S108  - a disk that wears nothing, where there is one


@dataclass(eq=False)
class Tally:
    """What many seeds came to."""

    seeds: int = 0
    rounds: int = 0
    committed: int = 0
    failures: int = 0
    virtual_s: float = 0.0
    faults: Counter[str] = field(default_factory=Counter)
    violations: dict[int, str] = field(default_factory=dict)  # by seed

    def add(self, outcome: Outcome) -> None:
        """Count a seed in."""
        self.seeds += 1
        self.rounds += outcome.rounds
        self.committed += outcome.committed
        self.failures += outcome.failures
        self.virtual_s += outcome.virtual_s
        self.faults += outcome.faults
        if outcome.violation:
            self.violations[outcome.seed] = outcome.violation


def simulate(scenario: Scenario) -> Outcome:
    """One scenario, from its first start to its end."""
    sizes = patch("schemas.parts.LARGE", scenario.large), patch("coordinator.inbox.WINDOW", scenario.window)
    with sizes[0], sizes[1], tempfile.TemporaryDirectory(dir=_MEMORY if _MEMORY.is_dir() else None) as base:
        return World(scenario, Path(base)).run()


def outcomes(seeds: Iterable[int], rounds: int = ROUNDS) -> Iterator[Outcome]:
    """What comes of each seed."""
    return (simulate(draw(seed, rounds)) for seed in seeds)
