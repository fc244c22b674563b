"""SleepECG's detector beside the device's own: the same beats where a heart is plain, for recordings alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import wfdb
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.beats import ecg
from edge.beats.beat_stream import beats_of
from edge.beats.detectors import peaks_by, sleepecg_peaks
from edge.beats.synthetic_ecg import person, record
from edge.cli import cli
from edge.label.labelled_record import LabelledRecord
from schemas.errors import DataError, SettingsError

RATE = 250


def plain(seconds: int) -> tuple[np.ndarray, np.ndarray]:
    made = record(person(5), seconds, RATE, 5)
    return made.signal.astype(np.float64), made.peaks


def test_its_beats_are_described_at_its_own_peaks() -> None:
    """Seen to fail with peaks rounded to 180 Hz, and with those of the device's own detector."""
    signal, truth = plain(150)
    peaks = sleepecg_peaks(signal, RATE)
    assert len(peaks) == pytest.approx(len(truth), abs=2)
    beats, other = beats_of(signal, RATE, lambda *_: peaks), ecg.relate_beats(signal, RATE, peaks)
    assert np.array_equal(beats.peaks, peaks[other.kept])
    np.testing.assert_allclose(beats.rhythm, other.rhythm, atol=1e-6)
    np.testing.assert_allclose(beats.shape, other.shape, atol=1e-6)
    assert not np.array_equal(beats.peaks, beats_of(signal, RATE).peaks)


def test_each_stretch_between_gaps_is_asked_for_on_its_own() -> None:
    """Seen to fail where peaks are counted from the stretch's own begin."""
    signal, truth = plain(120)
    signal[12_000:15_000] = np.nan
    found = beats_of(signal, RATE, peaks_by("sleepecg")).peaks
    assert not ((found > 12_000) & (found < 15_000)).any()
    late = truth[(truth > 15_500) & (truth < 29_500)]
    assert np.abs(found[:, None] - late).min(axis=0).max() <= 10


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 800), st.integers(0, 800), st.sampled_from([76.0, 250.0]))
def test_a_lead_shorter_than_it_reads_is_never_given_to_it(flat: int, seconds: int, rate: float) -> None:
    """Its C code reads two seconds past a lead's first change. Seen to fail (``ValueError``, or beats) without that."""
    signal = np.concatenate([np.zeros(flat), np.sin(np.arange(min(seconds, int(2 * rate))))])
    assert len(sleepecg_peaks(signal, rate)) == 0


def test_where_it_is_missing_that_is_said_before_anything_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge.beats.detectors.find_spec", lambda _: None)
    with pytest.raises(SettingsError, match=r"pip install 'fedbeat\[sleepecg\]'"):
        peaks_by("sleepecg")
    assert peaks_by("own") is None
    options = ["predict", "--model", str(tmp_path / "none"), "--data", str(tmp_path), "--detector", "sleepecg"]
    assert isinstance(CliRunner().invoke(cli, options).exception, SettingsError)


def test_a_live_signal_can_not_have_it() -> None:
    options = ["predict", "--model", "m", "--live", "replay:x", "--detector", "sleepecg"]
    error = CliRunner().invoke(cli, options).exception
    assert isinstance(error, SettingsError)
    assert "whole recording" in str(error)


def test_a_record_is_labelled_at_its_peaks_and_a_coarse_one_is_refused(tmp_path: Path) -> None:
    signal, _ = plain(60)
    for name, rate in (("fine", RATE), ("coarse", 50)):
        options = {"units": ["mV"], "sig_name": ["ECG"], "write_dir": str(tmp_path)}
        wfdb.wrsamp(name, fs=rate, p_signal=signal[:, None], fmt=["16"], adc_gain=[1000.0], baseline=[0], **options)
    fine = LabelledRecord(tmp_path / "fine")
    kept = set(fine.peaks(sleepecg_peaks))
    assert kept
    assert kept <= set(sleepecg_peaks(fine._signal, RATE).tolist())
    with pytest.raises(DataError, match="too coarse"):
        LabelledRecord(tmp_path / "coarse").peaks(sleepecg_peaks)
