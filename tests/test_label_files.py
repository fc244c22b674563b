"""A record's labels on disk: after a power cut, beside another process, on a full disk, and made by root."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.record.label_files import LabelFiles, alone, take
from edge.record.wfdb_annotations import CODES, Annotation, encode
from schemas.errors import DataError, StateError

PEAKS = [100, 410, 41_000, 41_300]


@pytest.fixture
def record(tmp_path: Path) -> Path:
    """The header of a record of 200 s, which is all that labels need of it."""
    (tmp_path / "rec.hea").write_text("rec 1 250 50000\nrec.dat 16 1000/mV 16 0 0 0 0 ECG\n")
    return tmp_path / "rec"


def symbols(record: Path) -> list[str]:
    return [one.symbol for one in LabelFiles(record).begin()]


def brought(record: Path, symbol: str) -> Path:
    """An annotation file for it, in which each beat is the same."""
    stick = record.parent / "stick"
    stick.mkdir(exist_ok=True)
    file = stick / f"{record.name}.atr"
    file.write_bytes(encode(Annotation(at, CODES[symbol]) for at in PEAKS))
    return file


@given(st.sampled_from([b"", b"4", b"410", b"41300 ", b"410 N", b"\0\0\0"]))
@settings(max_examples=6, deadline=None)
def test_a_label_after_a_torn_line_is_the_beat_s_own(tmp_path_factory: pytest.TempPathFactory, torn: bytes) -> None:
    """Seen to fail where the next line is written right behind it."""
    record = tmp_path_factory.mktemp("torn") / "rec"
    record.with_suffix(".hea").write_text("rec 1 250 50000\nrec.dat 16 1000/mV 16 0 0 0 0 ECG\n")
    files = LabelFiles(record)
    files.begin(PEAKS)
    files.keep(100, "N")
    with record.with_suffix(".labels").open("ab") as lines:
        lines.write(torn)
    again = LabelFiles(record)
    again.begin()
    again.keep(410, "V")
    assert symbols(record) == ["N", "V", "", ""]


def test_a_label_is_whole_where_the_disk_takes_a_part_at_a_time(record: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seen to fail where a short count is taken for the whole line, and where what is left of one stays."""
    write, room = os.write, [4, 2, 9, 1]

    def little(file: int, line: bytes) -> int:
        if not room:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(file, line[: room.pop(0)])

    files = LabelFiles(record)
    files.begin(PEAKS)
    with monkeypatch.context() as patched:
        patched.setattr("edge.record.label_files.os.write", little)
        files.keep(41_000, "V")
        with pytest.raises(StateError, match="free some space"):
            files.keep(41_300, "S")
    files.keep(410, "F")
    assert symbols(record) == ["", "F", "V", ""]


def test_one_process_at_a_time_has_a_record_s_labels(record: Path) -> None:
    """Seen to fail where an import doesn't look."""
    file = brought(record, "N")
    with alone(record), pytest.raises(StateError, match=f"another process labels {record}"):
        take([file], record.parent, replace=True)
    assert not record.with_suffix(".atr").exists()
    assert take([file], record.parent, replace=True) == [f"rec: 4 beats from {file}"]


@pytest.mark.parametrize("length", ["", " 0"])
def test_a_record_whose_header_has_no_length_is_told_to_be_that(record: Path, length: str) -> None:
    """Seen to fail with "rec has 0: it is another's" for its own annotations."""
    header = record.with_suffix(".hea")
    header.write_text(header.read_text().replace("250 50000", f"250{length}"))
    with pytest.raises(DataError, match="rec has a header that doesn't say how long it is"):
        take([brought(record, "N")], record.parent, replace=False)


@pytest.mark.parametrize("links", [True, False])
def test_whatever_is_replaced_is_kept(record: Path, monkeypatch: pytest.MonkeyPatch, *, links: bool) -> None:
    """Seen to fail with one name for all that are set aside."""
    if not links:
        monkeypatch.setattr("edge.record.label_files.os.link", refuse(errno.EPERM))
    files = LabelFiles(record)
    files.begin(PEAKS)
    files.keep(100, "V")
    files.save()
    own = record.with_suffix(".atr").read_bytes()
    for symbol in "NSF":
        take([brought(record, symbol)], record.parent, replace=True)
    assert symbols(record) == ["F"] * 4
    assert (record.parent / "rec.atr.before").read_bytes() == own
    assert sorted(path.name for path in record.parent.glob("*.before*")) == [
        "rec.atr.before",
        "rec.atr.before.2",
        "rec.atr.before.3",
    ]


def test_annotations_stay_where_those_that_were_to_replace_them_find_no_room(
    record: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen to fail where they are renamed first."""
    take([brought(record, "N")], record.parent, replace=False)
    monkeypatch.setattr("edge.record.label_files.os.fchmod", lambda *_: None)
    monkeypatch.setattr("edge.whole.os.fsync", refuse(errno.ENOSPC))
    with pytest.raises(StateError, match="free some space"):
        take([brought(record, "V")], record.parent, replace=True)
    assert symbols(record) == ["N"] * 4


def refuse(number: int) -> Callable[..., None]:
    def refused(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    return refused


@pytest.mark.parametrize("owner", [None, pytest.param(1234, marks=pytest.mark.skipif(os.getuid() != 0, reason="root"))])
def test_labels_are_their_record_s_owner_s_whoever_makes_them(record: Path, owner: int | None) -> None:
    """Seen to fail with files of whoever runs it, for nobody else to read."""
    header = record.with_suffix(".hea")
    header.chmod(0o664)
    if owner is not None:
        os.chown(header, owner, owner)

    def told() -> set[tuple[int, int, int]]:
        found = [path.stat() for path in record.parent.glob("rec.*")]
        return {(stat.S_IMODE(one.st_mode), one.st_uid, one.st_gid) for one in found}

    with alone(record):
        files = LabelFiles(record)
        files.begin(PEAKS)
        files.keep(100, "N")
        assert len(list(record.parent.glob("rec.*"))) == 4
        assert len(told()) == 1
        files.save()
    record.with_suffix(".atr").chmod(0o640)
    take([brought(record, "V")], record.parent, replace=True)
    assert stat.S_IMODE(record.with_suffix(".atr").stat().st_mode) == 0o640


def test_a_file_or_a_record_that_is_not_there_is_told_as_such(record: Path) -> None:
    """Seen to fail with "give a record's path without an ending", of which `edge label import` takes none."""
    with pytest.raises(DataError, match=r"^there is no file nope\.atr: give the path of an annotation file"):
        take([Path("nope.atr")], record.parent, replace=False)
    file = brought(record, "N").rename(record.parent / "stick" / "other.atr")
    with pytest.raises(DataError, match=r" has no record other for .*other\.atr: name it as its record, or add that"):
        take([file], record.parent, replace=False)


def test_what_can_not_be_read_or_is_no_annotation_file_is_told(record: Path) -> None:
    """Seen to fail with a traceback of ``IsADirectoryError``, and where the whole file is read first."""
    file = brought(record, "N")
    os.truncate(file, 16 * 2**20 + 1)
    with pytest.raises(DataError, match="larger than 16 MiB"):
        take([file], record.parent, replace=False)
    record.with_suffix(".atr").mkdir()
    with pytest.raises(DataError, match="can't read"):
        take([brought(record, "N")], record.parent, replace=True)
    record.with_suffix(".atr").rmdir()
    record.with_suffix(".labels").mkdir()
    with pytest.raises(DataError, match="can't read"):
        LabelFiles(record).begin(PEAKS)


def test_a_folder_one_stands_in_is_no_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seen to fail with a traceback."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=r"there is no WFDB record \.: give a record's path"):
        LabelFiles(Path())
