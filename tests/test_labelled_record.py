"""What is shown, and suggested, to whoever labels a record's beats: each beat's own, whatever its neighbours have."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import numpy as np
import pytest
import wfdb
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.beats.dominant_beat import BLOCK
from edge.beats.synthetic_ecg import person, record
from edge.findings.classifier import BeatClassifier, Related
from edge.label.labelled_record import SAME_S, LabelledRecord
from edge.record.wfdb_annotations import CODES, Annotation, encode
from schemas.errors import DataError

RATE = 250.0
SECONDS = 240.0
MADE = record(person(3), SECONDS, RATE, 0)
PEAKS: list[int] = MADE.peaks.tolist()
SAME = int(SAME_S * RATE)  # samples


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A made-up person's record, whose beats are twice as high in its second half."""
    folder = tmp_path_factory.mktemp("record")
    signal = MADE.signal.astype(np.float64)
    signal[len(signal) // 2 :] *= 2
    wfdb.wrsamp("one", RATE, ["mV"], ["MLII"], signal[:, None], fmt=["16"], write_dir=str(folder))
    return folder / "one"


@given(st.data())
@settings(deadline=None, max_examples=20)
def test_a_class_told_before_is_suggested_for_the_beat_it_was_told_of_and_no_other(
    written: Path, data: st.DataObject
) -> None:
    """Annotations within 150 ms are of one beat (EC57). Seen to fail where the nearest one counts however far it is."""
    told = data.draw(st.lists(st.sampled_from(["N", "A", "V", ""]), min_size=20, max_size=20))
    off = data.draw(st.lists(st.integers(-SAME, SAME), min_size=20, max_size=20))
    peaks = [1000 + place * 4 * SAME for place in range(20)]
    marks = [Annotation(peak + by, CODES[symbol]) for peak, by, symbol in zip(peaks, off, told, strict=True) if symbol]
    written.with_name("one.fb").write_bytes(encode(marks))
    suggested = LabelledRecord(written).suggestions(peaks, None)
    assert suggested == tuple({"A": "S"}.get(symbol, symbol) for symbol in told)


def test_nothing_is_suggested_where_nothing_was_told(written: Path) -> None:
    written.with_name("one.fb").unlink(missing_ok=True)
    assert LabelledRecord(written).suggestions(PEAKS[:4], None) == ("",) * 4


def test_what_a_model_says_is_suggested_for_the_beat_it_says_it_of(written: Path) -> None:
    """A beat at the record's edge has no features, so no answer. Seen to fail where answers are given in turn."""

    inside = PEAKS[1:-1]

    def classifier(beats: Related) -> list[str]:
        assert len(beats.rhythm) == len(beats.looks) == len(inside)
        return [f"the one at {peak}" for peak in inside]

    peaks = [3, *inside, len(MADE.signal) - 3]
    suggested = LabelledRecord(written).suggestions(peaks, cast("BeatClassifier", classifier))
    assert suggested == ("", *(f"the one at {peak}" for peak in inside), "")


def test_each_picture_has_its_beat_s_own_intervals_and_the_beat_that_was_usual_then(written: Path) -> None:
    """Seen to fail with the first block's dominant beat for all, and with no interval after the last but one."""
    pictures = LabelledRecord(written).pictures(PEAKS)
    shown = [pictures[place] for place in range(len(PEAKS))]
    between = np.diff(PEAKS) / RATE
    np.testing.assert_allclose([one.before_s for one in shown[1:]], between)
    np.testing.assert_allclose([one.after_s for one in shown[:-1] if one.after_s], between)
    assert shown[-1].after_s is None
    early, late = shown[BLOCK], shown[-1]
    assert np.ptp(late.dominant) == pytest.approx(2 * np.ptp(early.dominant), rel=0.2)
    assert np.ptp(late.beat) == pytest.approx(np.ptp(late.dominant), rel=0.3)


def test_the_beats_that_are_there_are_found(written: Path) -> None:
    found = np.array(LabelledRecord(written).peaks())
    missed = [peak for peak in PEAKS[2:-2] if np.abs(found - peak).min() > SAME]
    assert len(missed) <= len(PEAKS) // 100


def test_a_record_with_gaps_is_refused_by_name(tmp_path: Path) -> None:
    signal = np.sin(np.arange(1000.0))[:, None]
    signal[400:500] = np.nan
    wfdb.wrsamp("torn", RATE, ["mV"], ["MLII"], signal, fmt=["16"], write_dir=str(tmp_path))
    with pytest.raises(DataError, match="torn has gaps"):
        LabelledRecord(tmp_path / "torn")
