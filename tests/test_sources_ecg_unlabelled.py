"""Recordings without annotations: what plans without labels make of them, and what others say of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import wfdb

from edge.beats.masked_beats import MASKS
from edge.data_show import describe, show
from edge.dataspec import DataSpec
from edge.sources import ecg_unlabelled, load, prepare
from schemas.errors import DataError
from tests.running_commands import MITDB
from tests.unlabelled_records import SAMPLES, unlabelled


def test_beats_are_labelled_by_rule_as_their_annotations_have_them(tmp_path: Path) -> None:
    """Record 119 has many ventricular beats. Seen to fail where the rule's places are taken for AAMI's, in reverse."""
    report = describe(str(unlabelled(tmp_path, "119")), "ecg-weak")
    unsure = report.rejected.get("beats that the rule isn't sure of", 0)
    annotated = wfdb.rdann(str(MITDB / "119"), "atr", sampto=SAMPLES).symbol
    assert annotated.count("V") > 50
    assert report.classes["V"] == pytest.approx(annotated.count("V"), abs=5)
    assert report.classes["N"] == pytest.approx(annotated.count("N"), abs=unsure + 5)
    assert (report.classes["F"], report.classes["Q"]) == (0, 0)
    assert any("labels are a rule's" in note for note in report.notes)


def test_annotations_are_not_looked_at(tmp_path: Path) -> None:
    without = load(str(unlabelled(tmp_path, "119")), "ecg-weak")
    wfdb.wrann("119", "atr", np.arange(1, 400) * 300, ["V"] * 399, write_dir=str(tmp_path))
    with_them = load(str(tmp_path), "ecg-weak")
    np.testing.assert_array_equal(with_them.labels, without.labels)
    np.testing.assert_array_equal(with_them.inputs[0], without.inputs[0])


def test_masked_beats_have_each_mask_and_are_thinned_evenly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = load(str(unlabelled(tmp_path, "119")), "ecg-masked")
    assert whole.shapes == ((128,), (128,), (128,))
    third = len(whole) / 3
    assert [int((whole.inputs[2] == mask).all(axis=1).sum()) for mask in MASKS] == pytest.approx([third] * 3, abs=1)
    monkeypatch.setattr(ecg_unlabelled, "MOST_MASKED", 200)
    few = describe(str(tmp_path), "ecg-masked")
    assert few.examples == 200
    assert sum(few.rejected.values()) == len(whole) - 200
    thinned = load(str(tmp_path), "ecg-masked").inputs[0]
    places = [int(np.flatnonzero((whole.inputs[0] == wave).all(axis=1))[0]) for wave in thinned[[0, 100, -1]]]
    assert places == pytest.approx([0, len(whole) / 2, len(whole) - 1], abs=4)


def test_a_device_of_one_record_keeps_its_newest_fifth_to_evaluate_itself(tmp_path: Path) -> None:
    prepared = prepare(DataSpec(path=str(unlabelled(tmp_path, "119"))), "ecg-masked")
    assert len(prepared.held_out) == int(0.2 * (len(prepared.train) + len(prepared.held_out)))


def test_a_plan_that_needs_labels_says_which_need_none(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="a plan that needs no labels: ecg-masked, ecg-weak"):
        load(str(unlabelled(tmp_path, "119")), "ecg-beats")


def test_shown_without_a_recipe_they_are_what_masked_beats_would_train_on(tmp_path: Path) -> None:
    text = show(str(unlabelled(tmp_path, "119")), None, as_json=False)
    assert "prepared as ecg-masked" in text
    assert "has no annotations (119.atr)" in text


def test_a_record_without_a_heart_is_named_and_a_gap_is_not_filled(tmp_path: Path) -> None:
    options = {"fs": 360, "units": ["mV"], "sig_name": ["ECG"], "write_dir": str(tmp_path), "fmt": ["16"]}
    wfdb.wrsamp("flat", p_signal=np.zeros((36_000, 1)), adc_gain=[200.0], baseline=[0], **options)
    signal = wfdb.rdrecord(str(MITDB / "119"), channels=[0]).p_signal[:72_000]
    signal[36_000:40_000] = np.nan
    wfdb.wrsamp("gap", p_signal=signal, adc_gain=[200.0], baseline=[0], **options)
    report = describe(str(tmp_path), "ecg-masked")
    assert report.owners == {"gap": pytest.approx(204, abs=12)}
    assert any(reason.startswith("record flat: has no beat that can be found") for reason in report.rejected)


def test_made_up_people_serve_too() -> None:
    assert load("synthetic-ecg:1", "ecg-weak").class_counts()["N"] > 300
    assert len(load("synthetic-ecg:1", "ecg-masked")) > 400
