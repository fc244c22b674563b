"""Removing segments, and what their headers' notes are worth; `test_recordings` has how they are made and pruned."""

from __future__ import annotations

import math
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.record.segment_files import finite, prune, remove, segments

ENDINGS = ("dat", "atr", "fb", "labels")


def put(folder: Path, number: int, ended_s: str, endings: tuple[str, ...] = ENDINGS) -> Path:
    """The header of a segment of 100 samples, one second."""
    header = folder / f"ecg_{number:06d}_20260102T030405.hea"
    header.write_text(f"{header.stem} 1 100 100\n{header.stem}.dat 16 200 16 0 0 0 0 MLII\n# ended_s: {ended_s}\n")
    for ending in endings:
        header.with_suffix(f".{ending}").write_bytes(bytes(200))
    return header


@given(st.integers(0, len(ENDINGS)), st.randoms())
@settings(deadline=None, max_examples=20)
def test_a_crash_while_a_segment_is_removed_leaves_no_file_that_is_never_found_again(
    crash: int, random: Random
) -> None:
    """Seen to fail where the header goes first: what is left then takes room, and no ``prune`` knows of it."""
    with TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patching:
        folder, unlink, done = Path(name), Path.unlink, 0
        header = put(folder, 1, "10.0", tuple(random.sample(ENDINGS, len(ENDINGS))))

        def unlinking(path: Path, *, missing_ok: bool = False) -> None:
            nonlocal done
            if done == crash:
                raise OSError(5, "power cut")
            done += 1
            unlink(path, missing_ok=missing_ok)

        patching.setattr(Path, "unlink", unlinking)
        with pytest.raises(OSError, match="power cut"):
            remove(header)
        patching.undo()
        assert [segment.path for segment in segments(folder)] == [header]
        assert [segment.path for segment in prune(folder, 0, None, 0.0, print)] == [header]
        assert not list(folder.iterdir())


Notes = st.one_of(st.text(st.characters(codec="ascii", exclude_characters="\n\r"), max_size=12), st.floats().map(str))


@given(Notes, st.floats(0, 1e9))
@settings(deadline=None)
def test_a_damaged_note_is_no_time_at_all(note: str, otherwise: float) -> None:
    """Seen to fail where any float is believed: a segment that ended at ``inf`` would never be old enough to go."""
    value = finite(note, otherwise)
    assert value >= 0
    assert math.isfinite(value)
    assert finite(None, otherwise) == otherwise


@pytest.mark.parametrize("damaged", ["inf", "nan", "-inf", "1e999", "soon"])
def test_a_segment_whose_end_is_damaged_goes_when_it_is_old(tmp_path: Path, damaged: str) -> None:
    """It then counts as ended when it began and its length had passed: at 1 s here."""
    header = put(tmp_path, 1, damaged)
    assert prune(tmp_path, None, 50.0, 51.0, print) == ()
    assert [segment.path for segment in prune(tmp_path, None, 50.0, 52.0, print)] == [header]
