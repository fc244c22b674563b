"""A state directory's name: as long-lived as the directory, whatever a power cut leaves of its file."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.identity import FILE, instance_of
from schemas.errors import DiskFull, StateError

NAME = re.compile(r"[0-9a-f]{16}")


def test_a_directory_keeps_its_name_and_no_other_has_it(tmp_path: Path) -> None:
    directories = [tmp_path / "runs" / str(number) for number in range(8)]
    names = [instance_of(directory) for directory in directories]
    assert all(NAME.fullmatch(name) for name in names)
    assert len(set(names)) == len(names)
    assert [instance_of(directory) for directory in directories] == names


@given(st.one_of(st.integers(0, 15).map(lambda kept: b"0123456789abcdef"[:kept]), st.binary(max_size=40)))
@settings(deadline=None, max_examples=50)
def test_what_a_power_cut_left_of_a_name_is_replaced_once_and_for_good(left: bytes) -> None:
    """A file's name may be on disk before its content: then it is empty, cut short or full of zeros.

    Seen to fail where whatever the file holds is taken for the name.
    """
    with TemporaryDirectory() as folder:
        state = Path(folder)
        (state / FILE).write_bytes(left)
        name = instance_of(state)
        assert NAME.fullmatch(name)
        assert instance_of(state) == name


def test_a_name_is_on_disk_before_anybody_hears_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seen to fail without the fsync: coordinators are told apart by it, so it may not change over a power cut."""
    synced: list[bytes] = []
    monkeypatch.setattr(os, "fsync", lambda _: synced.append((tmp_path / FILE).read_bytes()))
    name = instance_of(tmp_path)
    assert synced == [f"{name}\n".encode()]


@pytest.mark.parametrize(
    ("number", "kind"), [(errno.ENOSPC, DiskFull), (errno.EDQUOT, DiskFull), (errno.EROFS, StateError)]
)
def test_a_disk_that_will_not_is_told_and_a_full_one_can_be_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, kind: type[StateError]
) -> None:
    """Seen to fail where a name stays that the disk has refused: it would be taken, and lost with a power cut."""

    def refuse(_: int) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as refusing:
        refusing.setattr(os, "fsync", refuse)
        with pytest.raises(StateError, match="Check the --state directory") as told:
            instance_of(tmp_path)
    assert type(told.value) is kind
    assert not (tmp_path / FILE).exists()
    name = instance_of(tmp_path)
    assert NAME.fullmatch(name)
    assert instance_of(tmp_path) == name


def test_a_state_directory_that_is_a_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "state").touch()
    with pytest.raises(StateError, match="Check the --state directory"):
        instance_of(tmp_path / "state")
