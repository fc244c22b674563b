"""The draws that a seed stands for, so that a decoder can take back what an encoder added before it rounded.

A value of y steps travels as the level floor(y + u), u uniform in [0, 1). Read as it is, the level is y on average, and
off by p (1 - p) steps squared, p what y is beyond a whole number: a sixth where values spread over steps. Read as
level + 1/2 - u it is y on average too, and never off by more than half a step: a twelfth, whatever y is (Roberts 1962;
Schuchman 1964; Ziv 1985; of updates Shlezinger et al. 2021). Both take the same bytes.

Blocks share their draws, each from another place on, since drawing takes longer than all else that a decoder does. So
errors of an update's own values may go together now and then; those of two updates, whose mean is what counts, don't.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from schemas.parameters import Flat

SEEDS: Final = np.dtype("<u4")
ERROR: Final = 1 / 12  # steps squared, of a value whose draw is taken back
_A_WORD: Final = 4  # draws, of 16 bits each
_GRAIN: Final = np.float32(2.0**-16)
_APART: Final = 20_251  # places from where a block's draws begin to where the next one's do: prime


class Dither:
    """Draws for blocks of ``width`` values, each draw an odd multiple of 2**-17; the same on every machine."""

    def __init__(self, seed: int, width: int) -> None:
        words = np.random.Philox(key=seed).random_raw(-(-width // _A_WORD))  # its raw output is fixed for all time
        draws = np.asarray(words, "<u8").view("<u2")[:width] * _GRAIN + _GRAIN / 2
        self._twice, self._width = np.concatenate((draws, draws)), width

    def draws(self, block: int, size: int) -> Flat:
        """Those of the first ``size`` values of a block, by its index. Not to be written to."""
        start = block * _APART % self._width
        return self._twice[start : start + size]
