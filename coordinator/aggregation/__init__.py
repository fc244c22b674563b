"""How a round's updates become the next model: ``RULES`` by the name in ``StrategySettings``.

A new rule is one file beside these and one line in the table.
"""

from __future__ import annotations

from typing import Any, Final

from coordinator.aggregation import fedadagrad, fedadam, fedavg, fedavgm, fedyogi
from coordinator.aggregation.rule import Moments, Rule
from schemas.errors import SettingsError

__all__ = ["RULES", "Moments", "Rule", "rule"]

RULES: Final[dict[str, Rule[Any]]] = {  # Any: each rule's fold has a state of its own, which only that rule reads
    "fedavg": fedavg.RULE,
    "fedavgm": fedavgm.RULE,
    "fedadam": fedadam.RULE,
    "fedyogi": fedyogi.RULE,
    "fedadagrad": fedadagrad.RULE,
}


def rule(name: str) -> Rule[Any]:
    """The rule called ``name``; raises ``SettingsError`` naming those there are."""
    if name not in RULES:
        raise SettingsError(f"there is no strategy {name!r}: choose one of {', '.join(RULES)}")
    return RULES[name]
