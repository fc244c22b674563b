"""The draws that a seed stands for."""

import numpy as np

from schemas.compression.dither import Dither

WIDTH = 32_768


def test_the_draws_have_these_bits_on_every_machine() -> None:
    """A model is made again from its updates to the bit, wherever that is done."""
    assert [float(draw) * 2**17 for draw in Dither(5, WIDTH).draws(0, 4)] == [6435, 27131, 101573, 96173]


def test_draws_are_spread_evenly_between_zero_and_one() -> None:
    """To five standard errors, and never at an end: a level would be beyond what the decoder takes back."""
    draws = Dither(7, WIDTH).draws(0, WIDTH).astype(np.float64)
    assert draws.min() > 0
    assert draws.max() < 1
    counts = np.histogram(draws, 16, (0, 1))[0]
    assert np.abs(counts - WIDTH / 16).max() < 5 * (WIDTH / 16) ** 0.5
    assert abs(draws.mean() - 0.5) < 5 / (12 * WIDTH) ** 0.5


def test_each_block_begins_elsewhere_and_has_every_draw_once() -> None:
    """Seen to fail with every block beginning at the first."""
    dither = Dither(3, WIDTH)
    first = dither.draws(0, WIDTH)
    for block in range(1, 6):
        assert (dither.draws(block, WIDTH) == first).mean() < 0.01
        assert np.array_equal(np.sort(dither.draws(block, WIDTH)), np.sort(first))


def test_a_few_draws_are_the_first_of_many_of_that_width() -> None:
    dither = Dither(9, 1001)
    assert dither.draws(0, 10).tolist() == dither.draws(0, 1001)[:10].tolist()
    assert dither.draws(4, 1001).size == 1001
