"""Adaptive server optimisers: Algorithm 2 of Reddi et al. (2021), "Adaptive Federated Optimization".

With D the round's mean delta and b1 = ``settings.momentum``, elementwise and in float32:

    m = b1 * m + (1 - b1) * D                     m starts at 0
    v = second_moment(v, D**2)                    v starts at tau**2; the three rules differ in this line alone
    model + learning_rate * m / (sqrt(v) + tau)

There is no bias correction, as in the paper. Good learning rates are far below FedAvg's 1: a step is about
``learning_rate`` in each parameter, so 0.001 to 0.1; ``SCALE`` is what suits where FedAvg's is 1. The paper runs
FedAdagrad without momentum.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np

from coordinator.aggregation import mean
from coordinator.aggregation.mean import WeightedSum
from coordinator.aggregation.rule import Moments, Rule, blocks
from schemas.messages import StrategySettings
from schemas.parameters import Flat, Manifest, Parameters

SCALE: Final = 0.03

SecondMoment = Callable[[Flat, Flat, StrategySettings], Flat]
"""The next v from v and the squared delta, both float32 of one shape."""


def start(manifest: Manifest, settings: StrategySettings) -> Moments:
    """``momentum``: zero; ``second_moment``: tau squared."""
    return {
        "momentum": np.zeros(manifest.size, np.float32),
        "second_moment": np.full(manifest.size, settings.tau**2, np.float32),
    }


def adaptive(second_moment: SecondMoment) -> Rule[WeightedSum]:
    """The rule that adapts its steps by ``second_moment``."""

    def apply(
        moments: Moments, model: Parameters, delta: Parameters, settings: StrategySettings
    ) -> tuple[Moments, Parameters]:
        b1, rate, tau = np.float32(settings.momentum), np.float32(settings.learning_rate), np.float32(settings.tau)
        first, second, following = (np.empty_like(model.flat) for _ in range(3))
        for where in blocks(model.flat.size):
            change = delta.flat[where]
            first[where] = b1 * moments["momentum"][where] + (1 - b1) * change
            second[where] = second_moment(moments["second_moment"][where], np.square(change), settings)
            following[where] = model.flat[where] + rate * first[where] / (np.sqrt(second[where]) + tau)
        return {"momentum": first, "second_moment": second}, Parameters(model.manifest, following)

    return Rule(mean.init, mean.fold, mean.merge, mean.finish, start, apply, scale=SCALE)
