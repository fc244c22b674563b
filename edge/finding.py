"""What the child process that finds beats is told: by the agent, which imports nothing else of it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass


@dataclass(frozen=True, slots=True)
class Finding:
    """What to follow, and what to make of it. ``state`` is the device's, where its models lie."""

    directory: str
    state: str
    window_s: float = 300.0
    alerts: str = ""
    nice: int = 10
    personal: bool = False  # whether a model that is the owner's own is used, where it is better than the global one

    def as_json(self) -> str:
        """One line."""
        return json.dumps(asdict(self))
