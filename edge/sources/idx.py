"""MNIST-layout idx files: `train-images-idx3-ubyte` and its three siblings, gzipped or not, in one folder.

The training files are one owner's and the `t10k` files, where present, are kept for testing, as MNIST means them.
"""

from __future__ import annotations

import gzip
import math
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from edge.dataset import Dataset, concatenate
from edge.sources.digits import CLASSES, SIDE, standardise
from edge.sources.source import Form, Reader, Reading, Source
from schemas.counted import counted
from schemas.errors import DataError

SETS = ("train", "t10k")
FOLDERS = ("", "raw", "MNIST/raw")  # where common tools put the files below the path they are given
MAX_EXAMPLES = 1_000_000
UNSIGNED_BYTES = 8  # the idx type code


def _find(path: str, group: str, what: str, dimensions: int) -> Path | None:
    for folder in FOLDERS:
        for separator in "-.":
            for ending in ("", ".gz"):
                file = Path(path) / folder / f"{group}-{what}{separator}idx{dimensions}-ubyte{ending}"
                if file.is_file():
                    return file
    return None


def read_idx(file: Path, dimensions: int) -> NDArray[np.uint8]:
    """An array of unsigned bytes from an idx file, gzipped or not; reads no more than its header announces."""
    try:
        with cast("BinaryIO", gzip.open(file)) if file.suffix == ".gz" else file.open("rb") as stream:
            header = stream.read(4 + 4 * dimensions)
            if len(header) < 4 + 4 * dimensions or header[:4] != bytes([0, 0, UNSIGNED_BYTES, dimensions]):
                raise DataError(f"{file} is not an idx file of unsigned bytes with {dimensions} dimensions")
            shape = tuple(int(size) for size in np.frombuffer(header, ">u4", offset=4))
            if shape[0] > MAX_EXAMPLES or shape[1:] != (SIDE, SIDE)[: dimensions - 1]:
                raise DataError(f"{file} announces {shape}: at most {MAX_EXAMPLES} examples of {SIDE}x{SIDE} are read")
            size = math.prod(shape)
            payload = stream.read(size + 1)
    except (OSError, EOFError, zlib.error, MemoryError) as error:  # the first three are gzip's own
        raise DataError(f"{file} can't be read: {error}") from error
    if len(payload) != size:
        raise DataError(f"{file} is truncated or too long: it should hold {size} bytes after its header")
    return np.frombuffer(payload, np.uint8).reshape(shape)


def _read_set(path: str, group: str) -> Dataset:
    images_file, labels_file = _find(path, group, "images", 3), _find(path, group, "labels", 1)
    if images_file is None or labels_file is None:
        raise DataError(f"{path} has no {group}-labels-idx1-ubyte beside its images: examples need labels")
    images, labels = read_idx(images_file, 3), read_idx(labels_file, 1)
    if len(images) != len(labels):
        raise DataError(
            f"{images_file} has {counted(len(images), 'image')} but {labels_file} {counted(len(labels), 'label')}"
        )
    return Dataset((standardise(images, 255),), labels.astype(np.int64), np.full(len(labels), group), CLASSES)


def _open(path: str, _form: Form) -> Source:
    groups = tuple(group for group in SETS if _find(path, group, "images", 3))

    def read(owners: Sequence[str]) -> Reading:
        return Reading(concatenate(_read_set(path, owner) for owner in owners))

    return Source(f"idx files at {path}", groups, read, tested=tuple(group for group in groups if group == "t10k"))


READER = Reader(
    "MNIST-layout idx files (a folder with train-images-idx3-ubyte and train-labels-idx1-ubyte, gzipped or not)",
    lambda path: any(_find(path, group, "images", 3) for group in SETS),
    _open,
)
