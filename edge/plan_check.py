"""``edge check-plan``: what this device would say of a plan, before any federation asks."""

from __future__ import annotations

from schemas import plan_cost
from schemas.plan import Plan


def check(payload: bytes, batch: int) -> str:
    """One sentence on the plan in ``payload``. Raises ``PlanError`` where this device would decline it."""
    plan = Plan.from_bytes(payload)
    cost = plan_cost.check(plan, batch, plan_cost.Limits())
    return (
        f"plan {plan.name}: {len(plan.operations)} operations, all allowed; a step with {batch} examples takes "
        f"{cost.memory / 1e6:.1f} MB and {cost.operations / 1e6:.0f} million operations"
    )
