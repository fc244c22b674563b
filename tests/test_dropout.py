"""Dropout's masks: which values are kept, how often, and that nothing but seed and step decides."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.training.dropout import _AT_ONCE, Layout, Masks, of_inputs_alone
from schemas.errors import PlanError
from schemas.plan import Plan
from schemas.plan_file import find
from tests.plan_examples import fields, tiny, with_step

STEPS = 20
probabilities = st.sampled_from([0.0, 0.1, 0.2, 0.5, 0.9, 1.0]) | st.floats(0, 1)


def plan(probability: float) -> Plan:
    """With one dropout, of 4 channels by 8 times of each example."""
    return Plan.build(**with_step(1, op="dropout", args=("%conv1d", probability, True)))


@settings(max_examples=30, deadline=None)
@given(probabilities, st.integers(1, 300), st.integers(0, 2**63), st.lists(st.integers(0, STEPS - 1), min_size=1))
def test_a_steps_mask_is_the_same_whatever_was_drawn_before(
    probability: float, batch: int, seed: int, order: list[int]
) -> None:
    """So a training that goes on from a checkpoint has the masks it would have had. Batches of 300 are drawn one by
    one, smaller ones several at a time."""
    layout = Layout(plan(probability), batch)
    in_turn = Masks(seed, layout, STEPS, batch)
    rows = [in_turn.row(step).copy() for step in range(STEPS)]
    hopping = Masks(seed, layout, STEPS, batch)
    for step in order:
        assert np.array_equal(hopping.row(step), rows[step])


@settings(max_examples=30, deadline=None)
@given(probabilities, st.integers(0, 2**63))
def test_as_many_are_kept_as_the_plan_says_and_made_up_for(probability: float, seed: int) -> None:
    """Within six deviations; their mean stays 1."""
    layout = Layout(plan(probability), 64)
    masks = Masks(seed, layout, STEPS, 64)
    values = np.stack([masks.row(step) for step in range(STEPS)])
    kept, keep = np.count_nonzero(values) / values.size, 1 - probability
    assert abs(kept - keep) <= 6 * math.sqrt(keep * probability / values.size) + 2**-16
    assert len(np.unique(values)) <= 2
    if kept:
        assert values.max() == pytest.approx(1 / keep, rel=2**-17 / keep + 1e-6)


def test_steps_seeds_and_neighbours_have_nothing_in_common() -> None:
    layout = Layout(plan(0.5), 64)
    rows = [Masks(seed, layout, STEPS, 64).row(step) > 0 for seed in range(8) for step in range(STEPS)]
    assert len({row.tobytes() for row in rows}) == len(rows)
    for one, other in itertools.pairwise(rows):
        alike = np.count_nonzero(one == other) / one.size
        assert abs(alike - 0.5) < 6 * 0.5 / math.sqrt(one.size)
        assert abs(np.count_nonzero(one[1:] == one[:-1]) / (one.size - 1) - 0.5) < 6 * 0.5 / math.sqrt(one.size - 1)


def test_each_dropout_has_a_share_of_its_own_and_a_smaller_batch_the_first_of_it() -> None:
    layout = Layout(plan(0.5), 6)
    (share,) = layout.shares
    assert (share.start, share.stop) == (0, layout.length) == (0, math.prod(layout.shapes(6)[0]))
    assert layout.shapes(2)[0][1:] == layout.shapes(6)[0][1:]
    assert layout.shapes(2)[0][0] == 2


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 3000), st.integers(1, 5), st.integers(0, 2**63), st.integers(0, STEPS - 1))
def test_few_examples_in_place_of_a_large_batch_cost_no_more_than_themselves(
    examples: int, channels: int, seed: int, step: int
) -> None:
    """Whoever has few takes all of them as one batch of thousands: the masks are the first of those, the rest is not
    drawn."""
    first = {"out": "sent", "op": "slice.Tensor", "args": ("%conv1d", 1, 0, min(channels, 4))}
    whole = {"out": "early", "op": "dropout", "args": ("%sent", 0.3, True)}
    conv, _, *rest = fields()["operations"]
    later = {"out": "relu", "op": "dropout", "args": ("%conv1d", 0.6, True)}
    layout = Layout(tiny(operations=(conv, first, whole, later, *rest)), 3000)
    assert layout.length > _AT_ONCE
    row = Masks(seed, layout, STEPS, examples).row(step)
    drawn_whole = Masks(seed, layout, STEPS, 3000)._draw_whole(step)[0]
    for share, shape in zip(layout.shares, layout.shapes(examples), strict=True):
        end = share.start + math.prod(shape)
        assert np.array_equal(row[share.start : end], drawn_whole[share.start : end])
        assert not row[end : share.stop].any()


@pytest.mark.parametrize("arguments", [("%conv1d",), ("%conv1d", -0.1), ("%conv1d", 1.5)])
def test_a_dropout_without_a_probability_is_refused(arguments: tuple[object, ...]) -> None:
    with pytest.raises(PlanError, match="doesn't say with which probability from 0 to 1"):
        Layout(Plan.build(**with_step(1, op="dropout", args=arguments)), 4)


def test_inputs_alone_are_dropped_of_and_in_no_other_way_than_before() -> None:
    """Seen to fail with all dropouts at 0, and with those at 0 alone that take a parameter themselves."""
    plan = find("ecg-beats").plan
    bare = of_inputs_alone(plan)
    assert [share.probability for share in Layout(plan, 4).shares] == [0.1, 0.2, 0.2]
    assert [share.probability for share in Layout(bare, 4).shares] == [0.1, 0, 0]
    end = Layout(plan, 4).shares[0].stop
    rows = [Masks(7, Layout(each, 4), STEPS, 4).row(3) for each in (plan, bare)]
    assert np.array_equal(rows[0][:end], rows[1][:end])
    assert (rows[1][end:] == 1).all()
    assert bare.parameters == plan.parameters
