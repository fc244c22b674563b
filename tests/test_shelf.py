import os
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from coordinator import shelf
from coordinator.shelf import Shelf
from schemas.errors import StateError
from schemas.parts import cut, describe
from tests.full_disks import largest_file


def _open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@example(size=100, part=200, small=100)  # as large as may stay in memory
@given(size=st.integers(1, 5000), part=st.integers(200, 900), small=st.sampled_from([0, 100, 10_000]))
def test_a_blob_is_cut_to_the_same_parts_wherever_it_lies(
    tmp_path_factory: pytest.TempPathFactory, size: int, part: int, small: int
) -> None:
    blob = bytes(number % 251 for number in range(size))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shelf, "SMALL", small)
        shelved = Shelf(tmp_path_factory.getbasetemp()).put(blob)
    assert (shelved is blob) == (size <= small)
    ref = describe(blob, part)
    assert [cut(shelved, ref, at) for at in range(ref.parts)] == [cut(blob, ref, at) for at in range(ref.parts)]


def test_a_large_blob_leaves_memory_and_its_file_goes_with_it(tmp_path: Path) -> None:
    before = _open_files()
    shelved = Shelf(tmp_path).put(bytes(2 * shelf.SMALL))
    assert not isinstance(shelved, bytes)
    assert not list(tmp_path.iterdir())
    assert _open_files() == before + 1
    del shelved
    assert _open_files() == before


def test_a_blob_stays_in_memory_where_the_disk_will_not_have_it(tmp_path: Path) -> None:
    blob = bytes(2 * shelf.SMALL)
    before = _open_files()
    assert Shelf(tmp_path / "nowhere").put(blob) is blob
    assert Shelf(Path("/proc")).put(blob) is blob
    assert _open_files() == before


def test_a_blob_of_which_the_disk_takes_half_stays_in_memory_and_leaves_no_file(tmp_path: Path) -> None:
    """Seen to fail with a buffered file, which finds out as it closes: its copy of the handle stayed open."""
    blob = bytes(2 * shelf.SMALL)
    before = _open_files()
    with largest_file(len(blob) - 1):
        assert Shelf(tmp_path).put(blob) is blob
    assert _open_files() == before


def test_a_file_that_was_cut_is_an_error_that_says_so(tmp_path: Path) -> None:
    shelved = Shelf(tmp_path).put(bytes(2 * shelf.SMALL))
    os.ftruncate(shelved._handle, shelf.SMALL)  # type: ignore[attr-defined]
    assert len(shelved[: shelf.SMALL]) == shelf.SMALL
    with pytest.raises(StateError, match="was cut"):
        shelved[shelf.SMALL : shelf.SMALL + 1]


def test_a_file_that_the_disk_will_not_read_is_an_error_that_says_so(tmp_path: Path) -> None:
    """Seen to fail without the ``StateError``: the coordinator ended with a traceback."""
    shelved = Shelf(tmp_path).put(bytes(2 * shelf.SMALL))
    folder = os.open(tmp_path, os.O_RDONLY)
    os.dup2(folder, shelved._handle)  # type: ignore[attr-defined]  # of which nothing can be read
    os.close(folder)
    with pytest.raises(StateError, match=r"can't be read again: Is a directory\. Check the disk"):
        shelved[:1]
