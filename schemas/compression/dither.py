"""The draws that a seed stands for, so that a decoder can take back what an encoder added before it rounded.

A value of y steps travels as the level floor(y + u), u uniform in [0, 1). Read as it is, the level is y on average, and
off by p (1 - p) steps squared, p what y is beyond a whole number: a sixth where values spread over steps. Read as
level + 1/2 - u it is y on average too, and never off by more than half a step: a twelfth, whatever y is (Roberts 1962;
Schuchman 1964; Ziv 1985; of updates Shlezinger et al. 2021). Both take the same bytes.

A model's values take the draws in turn, and begin again after 4,093 of them, since drawing takes longer than all else
that a decoder does. So errors of an update's own values may go together now and then; those of two updates, whose mean
is what counts, don't. The number is prime, so that no column of a matrix keeps meeting the same ones.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from schemas.parameters import Flat

SEEDS: Final = np.dtype("<u4")
ERROR: Final = 1 / 12  # steps squared, of a value whose draw is taken back
PERIOD: Final = 4_093
_A_WORD: Final = 4  # draws, of 16 bits each
_GRAIN: Final = np.float32(2.0**-16)
_HALF: Final = np.float32(0.5)


class Dither:
    """What values of a model, in the order in which they lie there, get added to them."""

    def __init__(self, values: Flat, most: int) -> None:
        """For as many as ``most`` of the model's at a time."""
        self._values = np.resize(values, most + PERIOD) if most > PERIOD else values

    def of(self, start: int, size: int) -> Flat:
        """Those of so many values from the model's ``start`` on. Not to be written to."""
        return self._values[start % PERIOD :][:size]


def added(seed: int, most: int) -> Dither:
    """The draws, each an odd multiple of 2**-17 between 0 and 1; the same on every machine."""
    return Dither(_drawn(seed, most), most)


def taken_back(seed: int, most: int) -> Dither:
    """What a decoder adds: a half less each draw."""
    return Dither(_HALF - _drawn(seed, most), most)


def _drawn(seed: int, most: int) -> Flat:
    count = min(PERIOD, most)
    words = np.random.Philox(key=seed).random_raw(-(-count // _A_WORD))  # its raw output is fixed for all time
    return np.asarray(words, "<u8").view("<u2")[:count] * _GRAIN + _GRAIN / 2
