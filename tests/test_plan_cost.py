from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import PlanError
from schemas.plan_cost import Limits, check, cost, verdict
from tests.plan_examples import fields, tiny


def test_memory_counts_results_inputs_and_copies_of_the_parameters() -> None:
    """By hand for one window: results 32 + 32 + 4 + 3 + 1 with gradients, 16 of input, 43 parameters five times."""
    assert cost(tiny(), 1).memory == 4 * (2 * 72 + 16 + 5 * 43)


def test_a_view_takes_no_memory_of_its_own() -> None:
    """Seen to fail with each result counted."""
    view = {"out": "turned", "op": "transpose.int", "args": ("%window", 1, 2)}
    assert cost(tiny(operations=(view, *fields()["operations"])), 4).memory == cost(tiny(), 4).memory


def test_operations_count_multiply_adds_twice_and_the_backward_pass_as_two_more() -> None:
    """By hand: convolution 2*32*6, relu 32, mean 32, linear 2*3*4, loss 3."""
    assert cost(tiny(), 1).operations == 3 * (384 + 32 + 32 + 24 + 3)


@given(st.integers(1, 1000))
def test_cost_rises_with_the_batch(batch: int) -> None:
    smaller, larger = cost(tiny(), batch), cost(tiny(), batch + 1)
    assert smaller.memory < larger.memory
    assert smaller.operations < larger.operations


def test_over_the_memory_limit_the_plan_is_refused_with_both_sizes() -> None:
    check(tiny(), 32, Limits(memory=cost(tiny(), 32).memory))
    with pytest.raises(PlanError, match=r"about 36 MiB; this device allows 1 MiB: use a smaller batch"):
        check(tiny(), 60_000, Limits(memory=2**20))


def test_over_the_operation_limit_the_plan_is_refused_with_both_counts() -> None:
    """By hand, at 10,000,000 examples: 1425 each."""
    check(tiny(), 32, Limits(operations=cost(tiny(), 32).operations))
    with pytest.raises(PlanError, match=r"would take 14\.2 billion operations; this device allows 5\.0 billion: use a"):
        check(tiny(), 10_000_000, Limits(memory=2**40, operations=5 * 10**9))


def test_what_a_plan_costs_is_said_in_a_sentence_or_why_a_device_would_decline_it() -> None:
    """By hand: 4 * (2 * 71 + 16) bytes and 1425 operations an example. Seen to fail without the limits."""
    assert verdict(tiny(), 10_000) == (
        "plan tiny: 5 operations, all allowed; a step with 10000 examples takes 6.3 MB and 14 million operations"
    )
    with pytest.raises(PlanError, match="this device allows 1024 MiB"):
        verdict(tiny(), 10_000_000)


def test_a_bomb_is_refused_before_it_goes_off() -> None:
    """Twenty steps, each of which doubles the last one's result."""
    steps = [{"out": "wide0", "op": "cat", "args": (("%window", "%window"), 2)}]
    steps += [{"out": f"wide{n}", "op": "cat", "args": ((f"%wide{n - 1}",) * 2, 2)} for n in range(1, 20)]
    with pytest.raises(PlanError, match="MiB"):
        check(tiny(operations=(*steps, *fields()["operations"])), 32, Limits())


def test_a_number_spread_over_gigabytes_is_refused_for_its_gradient() -> None:
    """Forward it takes nothing; seen to fail, with 512 MiB taken for 2^27 values, with ``expand`` among the views."""
    *steps, loss = fields()["operations"]
    spread = {"out": "wide", "op": "expand", "args": ("%first", (2**30,))}
    tail = (
        {**loss, "out": "own"},
        {"out": "first", "op": "slice.Tensor", "args": ("%out.bias", 0, 0, 1)},
        spread,
        {"out": "mean_of_it", "op": "mean.dim", "args": ("%wide", (0,))},
        {"out": "loss", "op": "add.Tensor", "args": ("%own", "%mean_of_it")},
    )
    with pytest.raises(PlanError, match="would take about 8192 MiB"):
        check(tiny(operations=(*steps, *tail)), 4, Limits())


SIDES: tuple[dict[str, Any], ...] = (  # what the steps below work on
    {"out": "turned", "op": "transpose.int", "args": ("%window", 1, 2)},
    {"out": "upright", "op": "t", "args": ("%out.weight",)},
    {"out": "wide", "op": "sym_size.int", "args": ("%window", 2)},
)


@pytest.mark.parametrize(
    ("op", "args", "work"),
    [
        ("bmm", ("%window", "%turned"), 2 * (5 * 2 * 2) * 8),
        ("matmul", ("%turned", "%window"), 2 * (5 * 8 * 8) * 2),
        ("mm", ("%out.weight", "%upright"), 2 * (3 * 3) * 4),
        ("addmm", ("%out.bias", "%out.weight", "%upright"), 2 * (3 * 3) * 4),
        ("linear", ("%mean", "%out.weight"), 2 * (5 * 3) * 4),
        ("max_pool1d", ("%window", 2), (5 * 2 * 4) * 2),
        ("avg_pool1d", ("%window", (8,), (1,)), (5 * 2 * 1) * 8),
        ("avg_pool1d", ("%window", ("%wide",), (1,)), (5 * 2 * 1) * 8),
        ("max_pool1d", ("%window", "%wide"), (5 * 2 * 1) * 8),
        ("max_pool2d", ("%window", 2), (5 * 1 * 4) * 4),
        ("avg_pool2d", ("%window", (2,), (1,)), (5 * 1 * 7) * 4),
        ("max_pool2d", ("%window", (1, "%wide")), (5 * 2 * 1) * 8),
    ],
)
def test_a_step_costs_what_it_computes(op: str, args: tuple[Any, ...], work: int) -> None:
    """By hand, at five examples: what it gives, times what each value of that takes.

    Seen to fail with a pooling's window that is computed taken for 1, and one of two dimensions for one: a plan of a
    hundred bytes kept a device busy for as long as it liked.
    """
    before, after = fields()["operations"][:3], fields()["operations"][3:]
    without, with_it = (
        cost(tiny(operations=(*before, *SIDES, *steps, *after)), 5).operations
        for steps in ((), ({"out": "extra", "op": op, "args": args},))
    )
    assert with_it - without == 3 * work


@pytest.mark.parametrize(
    "step",
    [
        {"op": "max_pool1d", "args": ("%relu",), "kwargs": {"kernel": (2,)}},
        {"op": "linear", "args": (), "kwargs": {"x": "%mean", "weight": "%out.weight", "bias": "%out.bias"}},
        {"op": "linear", "args": ("%mean",), "kwargs": {"weight": "%out.weight", "bias": "%out.bias"}},
    ],
)
def test_a_step_can_not_hide_its_work_behind_keywords(step: dict[str, Any]) -> None:
    """Seen to fail without the look at ``_IN_PLACE``: the first ended in an ``IndexError``, the others were cheap."""
    before, after = fields()["operations"][:3], fields()["operations"][3:]
    plan = tiny(operations=(*before, {"out": "extra", **step}, *after))
    with pytest.raises(PlanError, match="must have its first 2 arguments in order"):
        check(plan, 4, Limits())


def test_a_step_without_any_tensor_costs_what_it_gives() -> None:
    """Seen to fail with ``max(out, *map(...))``, which one number alone ends."""
    steps = fields()["operations"]
    plan = tiny(operations=({"out": "seven", "op": "int.add", "args": (3, 4)}, *steps))
    assert check(plan, 4, Limits()).operations == check(tiny(), 4, Limits()).operations + 3
