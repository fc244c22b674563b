"""``edge data import`` and ``export``."""

from __future__ import annotations

import filecmp
import re
import shutil
from pathlib import Path

import pytest

from edge.cli import cli
from edge.record.recordings_copy import Copied, copy_all, found
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
        records, (told,) = found(tmp_path / "rec")
        assert records == ()
        assert re.search(words, told)
    else:
        with pytest.raises(DataError, match=words):
            found(tmp_path / "rec")


def test_records_that_are_broken_are_named_and_the_others_are_copied(tmp_path: Path) -> None:
    """Seen to fail where the first one ends it: the stick had some records, and nobody knew of the rest."""
    (tmp_path / "rec").mkdir()
    for name in ("100.dat", "100.hea", "101.dat", "101.hea"):
        shutil.copy(MITDB / name, tmp_path / "rec")
    (tmp_path / "rec" / "000.hea").write_bytes(b"\xffnoise")
    (tmp_path / "stick").mkdir()
    (tmp_path / "stick" / "100.hea").write_text("100 1 360 10\n")
    done = in_process(cli, "data", "export", "rec", "--to", "stick", cwd=tmp_path)
    assert (done.code, done.out) == (3, "copied 1 record to stick\n")
    assert "rec/000.hea can't be read: its header is damaged; copy it again" in done.err
    assert "another record 100 is in stick: rename one of them" in done.err
    assert (tmp_path / "stick" / "101.hea").exists()
    assert not (tmp_path / "stick" / "000.hea").exists()
    assert (tmp_path / "stick" / "100.hea").read_text() == "100 1 360 10\n"


def test_another_record_of_the_same_name_stays(tmp_path: Path) -> None:
    (tmp_path / "100.hea").write_text("100 1 360 10\n")
    (told,) = copy_all([MITDB / "100"], tmp_path).left
    assert "another record 100 is in" in told
    assert (tmp_path / "100.hea").read_text() == "100 1 360 10\n"


def test_labels_made_since_go_to_a_record_that_is_there(tmp_path: Path) -> None:
    """Seen to fail where a record that is there is passed over: the stick never had the labels."""
    mine, stick = tmp_path / "mine", tmp_path / "stick"
    mine.mkdir()
    for ending in (".hea", ".dat"):
        shutil.copy(MITDB / f"100{ending}", mine)
    assert copy_all([mine], stick) == Copied(("100",), ())
    shutil.copy(MITDB / "100.atr", mine)
    assert copy_all([mine], stick) == Copied((), ("100",))
    assert filecmp.cmp(mine / "100.atr", stick / "100.atr", shallow=False)
    shutil.copy(MITDB / "101.atr", mine / "100.atr")
    shutil.copy(MITDB / "101.hea", mine)
    shutil.copy(MITDB / "101.dat", mine)
    (told,) = copy_all([mine], stick).left
    assert re.search(r"^100\.atr in .* and stay: `edge label import` replaces", told)
    assert filecmp.cmp(MITDB / "100.atr", stick / "100.atr", shallow=False)
    assert (stick / "101.hea").exists()


def test_the_folder_one_stands_in_is_copied(tmp_path: Path) -> None:
    """Seen to fail with a traceback."""
    for name in ("100.dat", "100.hea"):
        shutil.copy(MITDB / name, tmp_path)
    done = in_process(cli, "data", "export", ".", "--to", "stick", cwd=tmp_path)
    assert (done.code, done.out) == (0, "copied 1 record to stick\n")


@pytest.mark.parametrize("left", [None, 1000])
def test_signals_that_are_missing_or_cut_short_are_copied_again(tmp_path: Path, left: int | None) -> None:
    """As every message on such a record asks for. Seen to fail: the record "was there already", and stayed broken."""
    stick, rec = tmp_path / "stick", tmp_path / "rec"
    assert copy_all([MITDB / "100"], stick) == copy_all([MITDB / "100"], rec)
    (rec / "100.dat").unlink()
    if left is not None:
        (rec / "100.dat").write_bytes((MITDB / "100.dat").read_bytes()[:left])
    assert copy_all([stick / "100"], rec) == Copied(("100",), ())
    assert filecmp.cmp(MITDB / "100.dat", rec / "100.dat", shallow=False)
    assert copy_all([stick / "100"], rec) == Copied((), ("100",))


def test_signals_that_are_cut_short_replace_no_whole_ones(tmp_path: Path) -> None:
    stick, rec = tmp_path / "stick", tmp_path / "rec"
    assert copy_all([MITDB / "100"], stick) == copy_all([MITDB / "100"], rec)
    (stick / "100.dat").write_bytes(b"torn")
    assert copy_all([stick / "100"], rec) == Copied((), ("100",))
    assert filecmp.cmp(MITDB / "100.dat", rec / "100.dat", shallow=False)


def test_a_full_disk_leaves_no_half_record(tmp_path: Path) -> None:
    for ending in ("hea", "dat", "atr"):
        shutil.copy(MITDB / f"100.{ending}", tmp_path)
    with small_disk(tmp_path / "disk", "1m") as disk:
        with pytest.raises(StateError, match=r"can't copy to .*: No space left on device; free some space"):
            copy_all([tmp_path / "100"], disk)
        assert list(disk.iterdir()) == []
