"""FedAdagrad (Reddi et al. 2021): v = v + delta**2; steps only ever get smaller."""

from __future__ import annotations

from coordinator.aggregation.adaptive import adaptive
from schemas.messages import StrategySettings
from schemas.parameters import Flat


def second_moment(v: Flat, squared: Flat, settings: StrategySettings) -> Flat:  # noqa: ARG001  - has no beta 2
    """The sum of the squared deltas."""
    return v + squared


RULE = adaptive(second_moment)
