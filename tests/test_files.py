from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge import files, whole
from schemas.errors import StateError
from tests.full_disks import largest_file


def test_what_was_written_is_read_back(tmp_path: Path) -> None:
    files.write(tmp_path / "one", {"a": [1, "x"]}, b"\n\x00payload", durable=True)
    assert files.read(tmp_path / "one") == files.Record({"a": [1, "x"]}, b"\n\x00payload")


def test_what_was_learnt_from_recordings_is_nobody_elses_to_read(tmp_path: Path) -> None:
    """Seen to fail with the mode that the umask leaves."""
    files.write(tmp_path / "update", {}, b"delta", durable=False)
    assert (tmp_path / "update").stat().st_mode & 0o777 == 0o600


def test_a_missing_file_is_no_error(tmp_path: Path) -> None:
    assert files.read(tmp_path / "none") is None


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(where=st.integers(0, 10_000), flip=st.integers(1, 255), cut=st.booleans())
def test_any_changed_byte_and_any_lost_tail_is_noticed(tmp_path: Path, where: int, flip: int, cut: bool) -> None:  # noqa: FBT001 - drawn by hypothesis
    path = tmp_path / "one"
    files.write(path, {"nonce": "abc"}, b"payload" * 20, durable=False)
    raw = bytearray(path.read_bytes())
    where %= len(raw)
    if cut:
        del raw[where:]
    else:
        raw[where] ^= flip
    path.write_bytes(raw)
    with pytest.raises(files.Damaged):
        files.read(path)


def test_a_full_disk_keeps_the_file_of_before_and_leaves_no_litter(tmp_path: Path) -> None:
    path = tmp_path / "one"
    files.write(path, {}, b"before", durable=True)
    with largest_file(1000), pytest.raises(StateError, match="free some space"):
        files.write(path, {}, bytes(5000), durable=True)
    record = files.read(path)
    assert record is not None
    assert record.payload == b"before"
    assert os.listdir(tmp_path) == ["one"]  # noqa: PTH208 - names are all we want


def test_an_interrupt_keeps_the_file_of_before_and_leaves_no_litter(tmp_path: Path) -> None:
    """Of `edge data export` to a stick, say. Seen to fail: what was copied by then stayed beside it."""
    path = tmp_path / "one"
    path.write_bytes(b"before")

    def interrupted() -> None:
        with whole.replacing(path, durable=True) as file:
            file.write(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert (path.read_bytes(), os.listdir(tmp_path)) == (b"before", ["one"])  # noqa: PTH208 - names are all we want


def test_a_damaged_file_is_set_aside_under_a_name_nobody_reads(tmp_path: Path) -> None:
    path = tmp_path / "one"
    path.write_bytes(b"garbage")
    assert "set aside as one.damaged" in files.set_aside(path)
    assert files.read(path) is None


def test_a_directory_that_cannot_be_made_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StateError, match="--state"):
        files.make_directory(tmp_path / "file" / "state")


@pytest.mark.parametrize("line", [b"{]", b"[1]", b"7", b"[" * 5000, b"9" * 5000], ids=lambda line: ascii(line[:9]))
def test_a_file_with_the_right_digests_and_no_header_in_it_is_damaged(tmp_path: Path, line: bytes) -> None:
    """Digests tell what a disk did, not what somebody's hand did. Seen to fail with ``json.loads`` alone."""
    line += b"\n"
    digests = "".join(hashlib.sha256(piece).hexdigest() for piece in (line, b"")) + "\n"
    (tmp_path / "one").write_bytes(digests.encode() + line)
    with pytest.raises(files.Damaged):
        files.read(tmp_path / "one")
