from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from edge.dataspec import DataSpec
from edge.sources import load, prepare
from edge.sources.idx import read_idx
from schemas.errors import DataError


def idx(array: np.ndarray, *, code: int = 8) -> bytes:
    header = bytes([0, 0, code, array.ndim]) + np.array(array.shape, dtype=">u4").tobytes()
    return header + array.astype(np.uint8).tobytes()


def write_set(folder: Path, group: str, count: int, *, packed: bool = False) -> None:
    images = np.random.default_rng(count).integers(0, 256, (count, 28, 28))
    for what, array in ((f"{group}-images-idx3-ubyte", images), (f"{group}-labels-idx1-ubyte", np.arange(count) % 10)):
        if packed:
            (folder / f"{what}.gz").write_bytes(gzip.compress(idx(array)))
        else:
            (folder / what).write_bytes(idx(array))


@pytest.mark.parametrize("packed", [False, True])
def test_mnist_files_train_and_the_t10k_files_are_held_out(tmp_path: Path, *, packed: bool) -> None:
    write_set(tmp_path, "train", 20, packed=packed)
    write_set(tmp_path, "t10k", 7, packed=packed)
    evaluator = prepare(DataSpec(path=str(tmp_path), devices=4, index=-1), "digits")
    device = prepare(DataSpec(path=str(tmp_path), devices=4, index=2), "digits")
    assert (len(evaluator.held_out), len(device.train), len(device.held_out)) == (7, 5, 0)
    assert evaluator.held_out.labels.tolist() == [0, 1, 2, 3, 4, 5, 6]
    assert device.train.shapes == ((1, 28, 28),)


def test_the_folders_of_common_tools_are_found(tmp_path: Path) -> None:
    folder = tmp_path / "MNIST" / "raw"
    folder.mkdir(parents=True)
    write_set(folder, "train", 3)
    assert len(load(str(tmp_path), "digits")) == 3


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"", "not an idx file"),
        (idx(np.zeros((2, 28, 28)), code=13), "not an idx file"),
        (idx(np.zeros((2, 28, 28)))[:-1], "truncated or too long"),
        (idx(np.zeros((2, 28, 28))) + b"\0", "truncated or too long"),
        (idx(np.zeros((2, 8, 8))), "28x28"),
        (bytes([0, 0, 8, 3]) + b"\xff" * 12, "at most 1000000"),
    ],
)
def test_files_that_lie_are_refused(tmp_path: Path, content: bytes, text: str) -> None:
    file = tmp_path / "train-images-idx3-ubyte"
    file.write_bytes(content)
    with pytest.raises(DataError, match=text):
        read_idx(file, 3)


def test_a_broken_gzip_is_a_data_error(tmp_path: Path) -> None:
    file = tmp_path / "train-images-idx3-ubyte.gz"
    for content in (b"not gzip", gzip.compress(idx(np.zeros((2, 28, 28))))[:-20]):
        file.write_bytes(content)
        with pytest.raises(DataError, match="can't be read"):
            read_idx(file, 3)


def test_images_without_labels_say_what_is_missing(tmp_path: Path) -> None:
    write_set(tmp_path, "train", 3)
    (tmp_path / "train-labels-idx1-ubyte").unlink()
    with pytest.raises(DataError, match="no train-labels-idx1-ubyte"):
        load(str(tmp_path), "digits")
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx(np.zeros(2)))
    with pytest.raises(DataError, match=r"3 images but .* 2 labels"):
        load(str(tmp_path), "digits")


def test_damage_inside_a_gzip_file_is_a_data_error(tmp_path: Path) -> None:
    """zlib's own error is none of gzip's. Seen to fail without ``zlib.error`` in ``read_idx``."""
    write_set(tmp_path, "train", 20, packed=True)
    file = tmp_path / "train-images-idx3-ubyte.gz"
    content = bytearray(file.read_bytes())
    content[10:14] = b"\xff" * 4
    file.write_bytes(content)
    with pytest.raises(DataError, match="can't be read"):
        load(str(tmp_path), "digits")
