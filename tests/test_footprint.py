from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from edge.footprint import footprint
from tests.locked_folder import locked_folder


def grow(folder: Path) -> None:
    (folder / "100.dat").write_bytes(b"more")
    os.utime(folder / "100.dat", ns=(0, 0))


def touch(folder: Path) -> None:
    os.utime(folder / "100.dat", ns=(0, 1))


def add(folder: Path) -> None:
    (folder / "100.qrs").write_bytes(b"")


def remove(folder: Path) -> None:
    (folder / "100.dat").unlink()


@pytest.mark.parametrize("change", [grow, touch, add, remove])
@pytest.mark.parametrize("below", ["", "100"])
def test_it_is_another_one_where_a_file_has_changed(tmp_path: Path, below: str, change: Callable[[Path], None]) -> None:
    """A folder's, and that of a record, which is several files. Seen to fail without names, without sizes or times."""
    for name in ("100.dat", "100.hea"):
        (tmp_path / name).write_bytes(b"x")
        os.utime(tmp_path / name, ns=(0, 0))
    path = str(tmp_path / below)
    before = footprint(path)
    assert before == footprint(path)
    change(tmp_path)
    assert footprint(path) != before


def test_what_lies_beside_a_record_and_what_lies_in_a_folder_below_is_not_looked_at(tmp_path: Path) -> None:
    """A state directory may lie there. Seen to fail with folders counted."""
    (tmp_path / "100.dat").write_bytes(b"x")
    folder, record = footprint(str(tmp_path)), footprint(str(tmp_path / "100"))
    (tmp_path / "state").mkdir()
    assert footprint(str(tmp_path)) == folder
    (tmp_path / "101.dat").write_bytes(b"x")
    assert footprint(str(tmp_path / "100")) == record


def test_what_can_not_be_looked_at_is_always_the_same(tmp_path: Path) -> None:
    assert footprint(str(tmp_path / "no" / "such")) == ""
    with locked_folder() as folder:
        assert footprint(str(folder)) == ""
