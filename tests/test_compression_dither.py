"""The draws that a seed stands for."""

import numpy as np
import pytest

from schemas.compression.dither import PERIOD, added, taken_back

WIDTH = 32_768


def test_the_draws_have_these_bits_on_every_machine() -> None:
    """A model is made again from its updates to the bit, wherever that is done."""
    assert [float(draw) * 2**17 for draw in added(5, WIDTH).of(0, 4)] == [6435, 27131, 101573, 96173]


def test_draws_are_spread_evenly_between_zero_and_one() -> None:
    """To five standard errors, and never at an end: a level would be beyond what the decoder takes back."""
    draws = np.concatenate([added(seed, WIDTH).of(0, PERIOD) for seed in range(8)]).astype(np.float64)
    assert draws.min() > 0
    assert draws.max() < 1
    counts = np.histogram(draws, 16, (0, 1))[0]
    assert np.abs(counts - draws.size / 16).max() < 5 * (draws.size / 16) ** 0.5
    assert abs(draws.mean() - 0.5) < 5 / (12 * draws.size) ** 0.5


def test_values_take_the_draws_in_turn_wherever_a_block_begins() -> None:
    """Seen to fail with every block beginning at the first."""
    dither = added(3, WIDTH)
    whole = dither.of(0, WIDTH)
    assert np.array_equal(whole[PERIOD:], whole[:-PERIOD])
    assert np.unique(whole[:PERIOD]).size > PERIOD * 0.95
    for start in (1, PERIOD, WIDTH, 5 * WIDTH):
        expected = np.resize(np.roll(whole[:PERIOD], -start), WIDTH)
        assert np.array_equal(dither.of(start, WIDTH), expected)


@pytest.mark.parametrize("most", [1, 1001, PERIOD, PERIOD + 1])
def test_a_small_model_has_a_large_ones_draws(most: int) -> None:
    assert np.array_equal(added(9, most).of(0, most), added(9, WIDTH).of(0, most))


def test_what_a_decoder_adds_makes_up_for_each_draw() -> None:
    back = taken_back(11, WIDTH)
    assert np.array_equal(back.of(77, 50), np.float32(0.5) - added(11, WIDTH).of(77, 50))
