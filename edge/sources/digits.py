"""Scikit-learn's 1797 handwritten digits (8x8) enlarged to the 28x28 of MNIST, for tests and a first try offline."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge.dataset import Dataset, FloatArray
from edge.sources.source import Form, Reader, Reading, Source
from schemas.errors import DataError

WORD = "sklearn-digits"
SIDE = 28
CLASSES = tuple("0123456789")
FORM = Form("digits", ((1, SIDE, SIDE),), CLASSES)
# MNIST's published mean and spread of a pixel in [0, 1]: constants, so that no device's own data leaks into them.
PIXEL_MEAN, PIXEL_SPREAD = 0.1307, 0.3081


def standardise(pixels: NDArray[Any], white: float) -> FloatArray:
    """Images (n, 28, 28) with pixels 0 to ``white`` as inputs (n, 1, 28, 28), standardised by MNIST's constants."""
    scaled = (pixels.astype(np.float32) / np.float32(white) - np.float32(PIXEL_MEAN)) / np.float32(PIXEL_SPREAD)
    return scaled[:, None, :, :]


def enlarge(images: NDArray[Any]) -> NDArray[Any]:
    """Images (n, 8, 8) as (n, 28, 28): each pixel a 3x3 square, and a margin of 2."""
    squares = images.repeat(3, axis=1).repeat(3, axis=2)
    return np.pad(squares, ((0, 0), (2, 2), (2, 2)))


def _open(_path: str, _form: Form) -> Source:
    try:
        from sklearn.datasets import load_digits  # noqa: PLC0415  - a second that only this source pays
    except ImportError as error:
        raise DataError("the digits come with scikit-learn: run `pip install scikit-learn`") from error
    bundle = load_digits()
    inputs = standardise(enlarge(bundle.images), 16)  # its pixels go from 0 to 16
    dataset = Dataset((inputs,), bundle.target.astype(np.int64), np.full(len(inputs), WORD), CLASSES)

    def read(_owners: Sequence[str]) -> Reading:
        return Reading(dataset)

    return Source("scikit-learn's digits", (WORD,), read)


READER = Reader(f"the word `{WORD}` for scikit-learn's digits", lambda path: path == WORD, _open)
