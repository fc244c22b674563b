from __future__ import annotations

from typing import Any

import pytest

from schemas.errors import PlanError
from schemas.plan import Plan
from schemas.plan_shapes import infer, outline
from schemas.plan_values import Shape
from tests.plan_examples import fields, tiny, with_step


def test_the_dry_run_gives_every_shape_at_a_batch_size() -> None:
    values = infer(tiny(), 5)
    assert values["window"] == Shape((5, 2, 8))
    assert values["conv1d"] == Shape((5, 4, 8))
    assert values["logits"] == Shape((5, 3))
    assert values["loss"] == Shape(())


def test_the_outline_shows_the_batch_size_as_a_letter() -> None:
    steps = (
        {"out": "batch", "op": "sym_size.int", "args": ("%window", 0)},
        {"out": "double", "op": "int.mul", "args": ("%batch", 2)},
        {"out": "rows", "op": "reshape", "args": ("%window", ("%double", 8))},
        {"out": "longer", "op": "constant_pad_nd", "args": ("%rows", (0, 0, 0, 1))},
    )
    lines = outline(tiny(operations=(*steps, *fields()["operations"])))
    assert lines["batch"] == "the whole number B"
    assert lines["rows"] == "2Bx8"
    assert lines["longer"] == "1+2Bx8"
    assert lines["logits"] == "Bx3"
    assert lines["loss"] == "one number"


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (with_step(0, args=("%window", "%out.weight")), "step 1 of the plan .conv1d. can't run"),
        (with_step(0, args=("%window",)), "step 1 of the plan"),
        (with_step(2, args=("%relu", (7,))), "no dimension 7"),
        (with_step(1, kwargs={"unheard": 1}, op="mean.dim", args=("%conv1d", (2,))), "step 2 .* 'unheard'"),
        (with_step(3, args=("%mean", "%out.weight", "%conv.bias"), layer="out (Linear)"), r"linear in out .Linear."),
        (with_step(4, args=("%logits", "%labels", "%class_weights", 0)), "loss 'loss' must be one number, not 5"),
        (fields(logits="mean"), "logits 'mean' must have .* 5x3 .* 5x4"),
        (with_step(1, op="constant_pad_nd", args=("%conv1d", (0, 2**41))), "the result would be"),
        (with_step(1, op="constant_pad_nd", args=("%conv1d", (0, -8))), "the result would be"),
        (with_step(1, op="sym_size.int", args=("%conv1d", 0)), "needs a tensor"),
    ],
)
def test_a_plan_that_can_not_run_is_refused_naming_the_step(wrong: dict[str, Any], says: str) -> None:
    plan = Plan.build(**wrong)
    with pytest.raises(PlanError, match=says):
        infer(plan, 5)
