"""Which examples a round takes, and in which batches."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from edge.training.batches import batches, choose


@given(examples=st.integers(1, 200), most=st.integers(1, 200), seed=st.integers(0, 99))
def test_a_round_takes_different_examples_in_order_of_recording(examples: int, most: int, seed: int) -> None:
    chosen = choose(examples, most, np.random.default_rng(seed)).tolist()
    assert len(chosen) == min(examples, most)
    assert chosen == sorted(set(chosen))
    assert set(chosen) <= set(range(examples))


@given(examples=st.integers(1, 50), more=st.integers(0, 50))
def test_a_bound_that_leaves_nothing_out_changes_nothing_that_is_drawn_later(examples: int, more: int) -> None:
    """Seen to fail with a draw where as many are there as may be taken: the update was another than without a bound."""
    bounded, free = np.random.default_rng(1), np.random.default_rng(1)
    assert choose(examples, examples + more, bounded).tolist() == choose(examples, None, free).tolist()
    assert bounded.integers(2**62) == free.integers(2**62)


@given(st.integers(1, 40), st.integers(1, 12), st.integers(1, 20), st.integers(0, 20))
def test_a_training_that_goes_on_takes_the_batches_that_were_still_to_come(
    examples: int, size: int, steps: int, done: int
) -> None:
    """Given the generator as it was before the pass."""
    done %= steps
    rng = np.random.default_rng(0)
    for _ in range(done // -(-examples // size)):
        rng.permutation(examples)
    whole = [batch.indices.tolist() for batch in batches(examples, size, steps, np.random.default_rng(0))]
    rest = list(batches(examples, size, steps, rng, done))
    assert [batch.indices.tolist() for batch in rest] == whole[done:]
    assert [len(batch) for batch in rest] == [len(indices) for indices in whole[done:]]
