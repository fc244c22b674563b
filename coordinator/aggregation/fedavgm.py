"""FedAvgM (Hsu, Qi and Brown 2019): server momentum, v = momentum * v + mean delta; model + learning_rate * v."""

from __future__ import annotations

import numpy as np

from coordinator.aggregation import mean
from coordinator.aggregation.rule import Moments, Rule, blocks
from schemas.messages import StrategySettings
from schemas.parameters import Manifest, Parameters


def start(manifest: Manifest, settings: StrategySettings) -> Moments:  # noqa: ARG001  - the signature of every rule
    """``momentum``: zero."""
    return {"momentum": np.zeros(manifest.size, np.float32)}


def apply(
    moments: Moments, model: Parameters, delta: Parameters, settings: StrategySettings
) -> tuple[Moments, Parameters]:
    """One step, in float32."""
    velocity, following = np.empty_like(model.flat), np.empty_like(model.flat)
    for where in blocks(model.flat.size):
        velocity[where] = moments["momentum"][where] * np.float32(settings.momentum) + delta.flat[where]
        following[where] = model.flat[where] + np.float32(settings.learning_rate) * velocity[where]
    return {"momentum": velocity}, Parameters(model.manifest, following)


RULE = Rule(mean.init, mean.fold, mean.merge, mean.finish, start, apply)
