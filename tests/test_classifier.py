"""What beats are taken for, by a model alone and together with what its owner has labelled, whatever runs it."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edge.beats.beat_stream import NOTHING, Described, beats_of
from edge.beats.synthetic_ecg import person, record
from edge.findings import assessment
from edge.findings.classifier import BeatClassifier, Runtime
from edge.findings.newest_model import NewestModel
from edge.model_file import Own, own_to_bytes
from edge.sources.ecg_beats import ALIKE, label_beats
from edge.store import Store
from edge.training.neighbours import Neighbours
from schemas.errors import DataError
from schemas.plan_file import find
from tests.test_finder_child import always, hold, hold_own

PLAN = find("ecg-beats").plan
VENTRICULAR = always([0, 0, 1, 0, 0])  # every beat, but none for sure


@pytest.fixture(scope="module")
def beats() -> Described:
    made = record(person(3), 150.0, 250.0, 0)
    return beats_of(made.signal.astype(np.float64), 250.0)


def labelled(beats: Described) -> Neighbours:
    """A person whose usual beats look like these, and whose V beats are twice as high and upside down."""
    looks = np.concatenate([beats.looks[:40], -2 * beats.looks[:5]])
    return Neighbours(looks, np.array([0] * 40 + [2] * 5), np.array([0, 0, 2, 3, 4]))


@pytest.mark.parametrize("runtime", ["onnx", "torch"])
def test_the_owners_labelled_beats_decide_with_the_model(beats: Described, runtime: Runtime) -> None:
    """Seen to fail with the model alone."""
    own = Own(VENTRICULAR, labelled(beats))
    assert set(BeatClassifier(PLAN, Own(VENTRICULAR), runtime)(beats)) == {"V"}
    assert set(BeatClassifier(PLAN, own, runtime)(beats)) == {"N"}
    inverted = replace(beats, waves=-2 * beats.waves)
    assert set(BeatClassifier(PLAN, own, runtime)(inverted)) == {"V"}
    assert BeatClassifier(PLAN, own, runtime)(NOTHING) == []


def test_evaluate_and_predict_take_a_beat_for_the_same(beats: Described, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seen to fail where each batch is judged by the first one's looks."""
    made = record(person(3), 150.0, 250.0, 0)
    symbols = np.array(["N"] * len(made.peaks))
    data = label_beats("ada", made.signal.astype(np.float64), 250.0, made.peaks, symbols, Counter())
    assert data.alike == ALIKE
    assert data.looks is not None
    own, half = Own(VENTRICULAR, labelled(beats)), len(data) // 2
    monkeypatch.setattr(assessment, "BATCH", 16)
    turned = replace(data, looks=np.concatenate([data.looks[:half], -2 * data.looks[half:]]))
    assert assessment.predict(own, turned, PLAN).tolist() == [0] * half + [2] * (len(data) - half)
    assert set(assessment.predict(own, replace(data, looks=None), PLAN).tolist()) == {2}


def test_labelled_beats_that_another_version_described_are_told_before_any_beat(tmp_path: Path) -> None:
    """And a device goes on with the model it has. Seen to fail where the first beat ends the finder."""
    longer = Neighbours(np.ones((2, 19), np.float32), np.array([0, 2]), np.array([0, 0, 2, 3, 4]))
    with pytest.raises(DataError, match="another version"):
        BeatClassifier(PLAN, Own(VENTRICULAR, longer), "onnx")
    newest = NewestModel(tmp_path, "onnx", personal=True)
    hold(tmp_path)
    assert newest.look()
    hold_own(tmp_path)
    store = Store(tmp_path, print)
    kept = store.personal()
    assert kept is not None
    store.keep_personal(kept[0], own_to_bytes(Own(VENTRICULAR, longer)))
    assert newest.look()
    assert newest.about == {"run": "run-1", "model_version": 3}
    assert "another version" in newest.trouble
