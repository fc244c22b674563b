"""``edge data import`` and ``export``."""

from __future__ import annotations

import filecmp
import shutil
from pathlib import Path

import pytest

from edge.cli import cli
from edge.recordings_copy import copy, found
from schemas.errors import DataError, StateError
from tests.full_disks import small_disk
from tests.running_commands import MITDB, in_process


def test_a_record_goes_whole_with_its_annotations_and_only_once(tmp_path: Path) -> None:
    done = in_process(cli, "data", "import", str(MITDB / "100"), str(MITDB / "101.hea"), "--to", "rec", cwd=tmp_path)
    assert (done.code, done.out) == (0, "copied 2 records to rec\n")
    names = sorted(path.name for path in (tmp_path / "rec").iterdir())
    assert {"100.atr", "100.dat", "100.hea", "101.atr", "101.dat", "101.hea"} <= set(names)
    assert all(filecmp.cmp(MITDB / name, tmp_path / "rec" / name, shallow=False) for name in names)
    done = in_process(cli, "data", "export", "rec", "--to", "stick", cwd=tmp_path)
    assert done.out == "copied 2 records to stick\n"
    assert sorted(path.name for path in (tmp_path / "stick").iterdir()) == names
    done = in_process(cli, "data", "export", "rec", "--to", "stick", cwd=tmp_path)
    assert done.out == "copied 0 records to stick; 2 were there already\n"


@pytest.mark.parametrize(
    ("header", "words"),
    [
        (None, "there is no WFDB record at"),
        ("", "its header is damaged"),
        ("rec 1 360 10\nrec.dat 16 200\n", r"names rec\.dat, which is not beside it: copy that too"),
        ("rec 1 360 10\n../rec.dat 16 200\n", "is no single record with its signals beside it"),
        ("rec/2 1 360 10\na 5\nb 5\n", "names a, which is not beside it"),
        ("rec 3 360 10\n", "is no single record"),
    ],
)
def test_what_is_no_whole_record_is_told(tmp_path: Path, header: str | None, words: str) -> None:
    if header is not None:
        (tmp_path / "rec.hea").write_text(header)
    with pytest.raises(DataError, match=words):
        found(tmp_path / "rec")


def test_another_record_of_the_same_name_stays(tmp_path: Path) -> None:
    (tmp_path / "100.hea").write_text("100 1 360 10\n")
    with pytest.raises(DataError, match="another record 100 is in"):
        copy(found(MITDB / "100"), tmp_path)
    assert (tmp_path / "100.hea").read_text() == "100 1 360 10\n"


def test_labels_made_since_go_to_a_record_that_is_there(tmp_path: Path) -> None:
    """Seen to fail where a record that is there is passed over: the stick never had the labels."""
    mine, stick = tmp_path / "mine", tmp_path / "stick"
    mine.mkdir()
    for ending in (".hea", ".dat"):
        shutil.copy(MITDB / f"100{ending}", mine)
    assert copy(found(mine), stick) == (["100"], [])
    shutil.copy(MITDB / "100.atr", mine)
    assert copy(found(mine), stick) == ([], ["100"])
    assert filecmp.cmp(mine / "100.atr", stick / "100.atr", shallow=False)
    shutil.copy(MITDB / "101.atr", mine / "100.atr")
    shutil.copy(MITDB / "101.hea", mine)
    shutil.copy(MITDB / "101.dat", mine)
    with pytest.raises(DataError, match=r"100\.atr in .* and stay: `edge label import` replaces"):
        copy(found(mine), stick)
    assert filecmp.cmp(MITDB / "100.atr", stick / "100.atr", shallow=False)
    assert (stick / "101.hea").exists()


def test_a_full_disk_leaves_no_half_record(tmp_path: Path) -> None:
    for ending in ("hea", "dat", "atr"):
        shutil.copy(MITDB / f"100.{ending}", tmp_path)
    with small_disk(tmp_path / "disk", "1m") as disk:
        with pytest.raises(StateError, match=r"can't copy to .*: No space left on device; free some space"):
            copy(found(tmp_path / "100"), disk)
        assert list(disk.iterdir()) == []
