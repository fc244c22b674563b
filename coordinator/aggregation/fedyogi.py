"""FedYogi (Reddi et al. 2021): v = v - (1 - b2) * delta**2 * sign(v - delta**2), with b2 = ``settings.beta2``."""

from __future__ import annotations

import numpy as np

from coordinator.aggregation.adaptive import adaptive
from schemas.messages import StrategySettings
from schemas.parameters import Flat


def second_moment(v: Flat, squared: Flat, settings: StrategySettings) -> Flat:
    """Moves towards the squared delta by a share of that delta, not of the distance: v falls slowly after a shock."""
    towards: Flat = np.sign(v - squared)
    return v - (1 - np.float32(settings.beta2)) * squared * towards


RULE = adaptive(second_moment)
