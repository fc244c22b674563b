"""FedAvg (McMahan et al. 2017) with a server learning rate: model + learning_rate * mean delta."""

from __future__ import annotations

import numpy as np

from coordinator.aggregation import mean
from coordinator.aggregation.rule import Moments, Rule
from schemas.messages import StrategySettings
from schemas.parameters import Manifest, Parameters


def start(manifest: Manifest, settings: StrategySettings) -> Moments:  # noqa: ARG001  - the signature of every rule
    """No state."""
    return {}


def apply(
    moments: Moments, model: Parameters, delta: Parameters, settings: StrategySettings
) -> tuple[Moments, Parameters]:
    """One step; with the learning rate 1 it is a single float32 addition."""
    step = delta.flat if settings.learning_rate == 1 else delta.flat * np.float32(settings.learning_rate)
    return moments, Parameters(model.manifest, model.flat + step)


RULE = Rule(mean.init, mean.fold, mean.merge, mean.finish, start, apply)
