"""FedAdam (Reddi et al. 2021): v = b2 * v + (1 - b2) * delta**2, with b2 = ``settings.beta2``."""

from __future__ import annotations

import numpy as np

from coordinator.aggregation.adaptive import adaptive
from schemas.messages import StrategySettings
from schemas.parameters import Flat


def second_moment(v: Flat, squared: Flat, settings: StrategySettings) -> Flat:
    """A moving average of the squared deltas."""
    b2 = np.float32(settings.beta2)
    return b2 * v + (1 - b2) * squared


RULE = adaptive(second_moment)
