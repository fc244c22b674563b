"""The next model, computed another way than the product does: a plain weighted mean in extended precision."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from schemas.messages import RunSettings

Flat = NDArray[np.float32]


@dataclass(eq=False)
class Arithmetic:
    """A run's models from version 0 on, by the declared rule: ``fedavg`` or ``fedavgm``."""

    settings: RunSettings
    model: Flat
    velocity: Flat = field(init=False)
    owed: Flat = field(init=False)  # by what is published to the rule

    def __post_init__(self) -> None:
        self.velocity = np.zeros_like(self.model)
        self.owed = np.zeros_like(self.model)

    def follow(self, updates: Iterable[tuple[Flat, int, int]], found: Flat, owed: Flat | None = None) -> bool:
        """Whether ``found``, and what it owes, follow from deltas, their examples, and how many versions old they are.

        It is what the next one follows from. Where rounds overlap, a delta s versions behind counts as 1/sqrt(1 + s)
        of itself, to the nearest 256th, in a mean over whole weights.

        The product rounds its mean to float32 once. Ours may fall on the other side of a tie, so that the two may
        differ by one unit in a last place, and no more.
        """
        strategy = self.settings.strategy
        weights, total = np.longdouble(0), np.zeros(self.model.size, np.longdouble)
        for delta, examples, behind in updates:
            weight = 1 if strategy.weighting == "equal" else min(examples, self.settings.max_weight)
            share = 1.0 if self.settings.max_staleness is None else round(256 / math.sqrt(1 + behind)) / 256
            total += delta.astype(np.longdouble) * weight * np.longdouble(share)
            weights += weight
        mean = (total / weights).astype(np.float32)
        if strategy.name == "fedavgm":
            mean = self.velocity = self.velocity * np.float32(strategy.momentum) + mean
        expected = (self.model + self.owed) + np.float32(strategy.learning_rate) * mean
        unit = np.spacing(np.maximum(np.maximum(np.abs(self.model), np.abs(expected)), np.abs(mean)))
        self.model, self.owed = found, np.zeros_like(found) if owed is None else owed
        return bool((np.abs(expected - (found + self.owed)) <= 2 * unit).all())

    def leads(self, step: Flat | None, found: Flat) -> bool:
        """Whether a device that has the model before, and adds the ``step`` to it, has ``found``, bit for bit."""
        return step is None or (self.model + step).tobytes() == found.tobytes()
