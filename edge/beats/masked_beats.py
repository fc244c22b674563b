"""Beats with a part hidden: what ``ecg-masked`` learns to fill in, and what its errors say of a beat. Pure NumPy.

Masks are halves of a beat, each overlapping the next by half, so that together they hide every sample and a QRS complex
is hidden whole by one of them. In training each beat has one of the masks, in turn; a score takes all of them.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from edge.beats.beat_features import LIMIT
from edge.beats.ecg import WINDOW
from edge.dataset import FloatArray

SPAN: Final = 64  # samples that are hidden, 356 ms
MASKS: Final = np.stack(
    [
        np.where((np.arange(WINDOW) >= start) & (np.arange(WINDOW) < start + SPAN), 1, 0)
        for start in range(0, WINDOW - SPAN + 1, SPAN // 2)
    ]
).astype(np.float32)  # (3, 128): 1 where a sample is hidden
FAINT: Final = 5e-4  # mean squared error, in usual heights of a QRS complex, that is as good as none
CALM: Final = 0.1  # of a person's beats that have the least error: the largest of theirs is what is usual
UNUSUAL: Final = 2.0  # score above which a beat is told to be unusual: an error of 7.4 times the usual

Inputs = tuple[FloatArray, FloatArray, FloatArray]


def masked(waves: FloatArray, usual: FloatArray, masks: NDArray[np.int64]) -> Inputs:
    """The plan's inputs for beats (n, 128) beside their usual ones (n, 128), each under the mask of its number (n,)."""
    return np.clip(waves, -LIMIT, LIMIT), np.clip(usual, -LIMIT, LIMIT), MASKS[masks]


def taken_in_turn(beats: int) -> NDArray[np.int64]:
    """A mask's number for each of a person's beats (n,)."""
    return np.arange(beats) % len(MASKS)


def scores(errors: NDArray[np.float64]) -> NDArray[np.float64]:
    """How unlike what was expected each beat of one person is (n,): the logarithm of its error over the usual one.

    ``errors`` (n, masks): mean squared errors. People differ in noise and in how even their beats are, so each beat is
    held against its owner's calmest tenth; a median would be an ectopic beat's in a person most of whose beats are.
    """
    logs = np.log(errors.mean(axis=1) + FAINT)
    return np.asarray(logs - np.quantile(logs, CALM)) if len(logs) else logs
