"""``edge check-plan``: what this device would say of a plan, before any federation asks."""

from __future__ import annotations

from edge.plan_runtime import rehearse
from schemas.plan import Plan
from schemas.plan_cost import Limits


def check(payload: bytes, batch: int) -> str:
    """One sentence on the plan in ``payload``. Raises ``PlanError`` where this device would decline it."""
    plan = Plan.from_bytes(payload)
    cost = rehearse(plan, batch, Limits())
    return (
        f"plan {plan.name}: {len(plan.operations)} operations, all allowed; a step with {batch} examples takes "
        f"{cost.memory / 1e6:.1f} MB and {cost.operations / 1e6:.0f} million operations"
    )
