"""Annotation files: what PhysioNet's own package writes is read, and it reads what is written."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import wfdb
from hypothesis import example, given, settings
from hypothesis import strategies as st

from edge.record.wfdb_annotations import CODES, LARGEST, MOST, UNLABELLED, Annotation, decode, encode
from schemas.errors import DataError
from tests.running_commands import MITDB, ROOT

ANNOTATIONS = st.lists(
    st.builds(
        Annotation,
        st.integers(0, 3_000_000),
        st.sampled_from([*CODES.values(), 0, 14, 22, 28]),
        subtype=st.integers(0, 3),
        channel=st.integers(0, 3),
        number=st.integers(0, 3),
        note=st.binary(max_size=9).map(lambda raw: raw.replace(b"\0", b"x")),
    ),
    max_size=40,
).map(lambda found: tuple(sorted(found, key=lambda one: one.sample)))


@settings(max_examples=50, deadline=None)
@example((Annotation(0, 0), Annotation(2000, 0), Annotation(2000, 0), Annotation(2000, 1)))
@given(ANNOTATIONS)
def test_what_is_written_is_read_again(annotations: tuple[Annotation, ...]) -> None:
    """Seen to fail with a skip's two halves exchanged, with the even length of notes forgotten, and code 0 like others.

    A word of code 0 that lies no sample behind the one before is the end of the file.
    """
    assert decode(encode(annotations)) == annotations


def test_the_packages_files_and_ours_say_the_same(tmp_path: Path) -> None:
    content = (MITDB / "203.atr").read_bytes()
    ours, theirs = decode(content), wfdb.rdann(str(MITDB / "203"), "atr")
    assert [one.sample for one in ours] == theirs.sample.tolist()
    assert [one.symbol or "-" for one in ours if one.beat] == [one for one in theirs.symbol if one in CODES]
    assert [one.note.decode() for one in ours] == theirs.aux_note
    more = (*ours, Annotation(700_000, CODES["?"], note=UNLABELLED.encode()))
    (tmp_path / "again.atr").write_bytes(encode(more))
    again = wfdb.rdann(str(tmp_path / "again"), "atr")
    assert again.symbol == [*theirs.symbol, "?"]
    assert again.aux_note[-1].rstrip("\0") == UNLABELLED
    assert again.sample.tolist() == [*theirs.sample.tolist(), 700_000]
    assert [again.subtype.tolist()[:-1], again.chan.tolist()[:-1]] == [theirs.subtype.tolist(), theirs.chan.tolist()]


def test_a_file_that_breaks_off_is_told() -> None:
    whole = encode([Annotation(5000, 1), Annotation(9000, 5, note=b"odd")])
    for length in range(len(whole) - 1):
        with pytest.raises(DataError, match=r"breaks off|no annotation file"):
            decode(whole[:length])


def test_the_largest_file_of_hostile_annotations_is_refused_within_256_mib() -> None:
    """Two bytes each: eight million of them. Seen to fail (``MemoryError``) where all are decoded first."""
    code = (
        "import resource\n"
        "from edge.record.wfdb_annotations import LARGEST, decode\n"
        "size = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (size + 256 * 2**20, resource.RLIM_INFINITY))\n"
        "decode(b'\\x01\\x04' * (LARGEST // 2))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert "DataError: it has more than 1000000 annotations: cut the record into days" in done.stderr


def test_a_day_of_the_fastest_heart_that_nobody_has_labelled_is_taken() -> None:
    """Five beats a second, or the longest record with a note at each beat."""
    beats = tuple(Annotation(25 * number, CODES["?"], note=UNLABELLED.encode()) for number in range(1, 101))
    assert MOST >= 5 * 86_400
    assert len(encode(beats)) / len(beats) * MOST < LARGEST
