"""``ecg-masked`` from a fleet that nobody has labelled anything for to the scores of beats."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import wfdb
from hypothesis import given
from hypothesis import strategies as st

from coordinator.export import export_model
from edge.beats.beat_stream import NOTHING, beats_of
from edge.beats.masked_beats import MASKS, SPAN, masked, scores, taken_in_turn
from edge.findings.anomaly import errors_of
from edge.findings.assessment import assess
from edge.findings.predict import examine, json_lines, lines
from edge.sources.wfdb_records import read_lead
from schemas.errors import PlanError
from schemas.plan_file import find
from tests.link_mosquitto import Mosquitto
from tests.running_commands import COORDINATOR, MITDB, events, finished
from tests.unlabelled_records import SAMPLES, unlabelled

PLAN = find("ecg-masked").plan
torch.set_num_threads(1)


def test_masks_hide_all_of_a_beat_together_and_one_the_whole_complex() -> None:
    assert (MASKS.sum(axis=1) == SPAN).all()
    assert MASKS.max(axis=0).all()
    assert MASKS[:, 53:79].all(axis=1).any()
    assert list(taken_in_turn(5)) == [0, 1, 2, 0, 1]


def test_what_is_hidden_does_not_reach_the_network(tmp_path: Path) -> None:
    """Otherwise there would be nothing to learn. Seen to fail with the window in place of what is seen of it."""
    parameters, mask = find("ecg-masked").initial(0), 1
    hidden = MASKS[mask] == 1
    beats = beats_of(*read_lead(unlabelled(tmp_path, "119") / "119"))
    changed = beats.waves[:50].copy()
    changed[:, hidden] = beats.usual[:50][:, hidden]
    one, other = (
        errors_of(parameters, PLAN, type(beats)(beats.peaks[:50], beats.rhythm, beats.shape, waves, beats.usual[:50]))
        for waves in (beats.waves[:50], changed)
    )
    window, usual, masks = masked(beats.waves[:50], beats.usual[:50], np.full(50, mask))
    seen = np.where(masks == 1, 0, window - usual)
    inputs = torch.from_numpy(np.stack([seen, masks, usual], axis=1))
    names = find("ecg-masked").initial(0).arrays()
    for layer, dilation in ((0, 1), (2, 2), (4, 4), (6, 1)):
        weight, bias = (torch.from_numpy(names[f"layers.{layer}.{part}"].copy()) for part in ("weight", "bias"))
        inputs = torch.nn.functional.conv1d(inputs, weight, bias, padding=4 * dilation, dilation=dilation)
        inputs = inputs.relu() if layer < 6 else inputs
    made = inputs[:, 0].numpy() + usual
    for errors, waves in ((one, window), (other, np.clip(changed, -4, 4))):
        expected = (np.where(masks == 1, made - waves, 0) ** 2).mean(axis=1)
        np.testing.assert_allclose(errors[:, mask], expected, rtol=1e-3, atol=1e-6)


@given(st.lists(st.floats(1e-3, 10), min_size=1, max_size=60), st.floats(0.1, 10))
def test_scores_do_not_depend_on_how_noisy_a_person_is(errors: list[float], louder: float) -> None:
    one = np.repeat(np.array(errors)[:, None] + 1.0, 3, axis=1)
    a, b = scores(one), scores(one * louder + 5e-4 * (louder - 1))
    np.testing.assert_allclose(a, b, atol=1e-9)
    assert (np.diff(a[np.argsort(errors)]) >= 0).all()
    assert len(scores(np.empty((0, 3)))) == 0


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    """Two rounds of two devices with one unlabelled record each, and an evaluator with a third, on mosquitto."""
    home = tmp_path_factory.mktemp("run")
    (records := home / "records").mkdir()
    unlabelled(records, "119", "208", "233")
    with Mosquitto(home) as broker:
        command = ("start", "--broker", broker.address, "--state", "state", "--rounds", "2", "--json")
        fleet = ("--virtual", "2", "--plan", "ecg-masked", "--data", str(records))
        done = finished(*COORDINATOR, *command, *fleet, cwd=home)
    assert done.code == 0, done.err
    return home, events(done.out)


def test_a_fleet_without_a_label_learns_to_fill_in_beats(run: tuple[Path, list[dict[str, Any]]]) -> None:
    _, seen = run
    trained = [event["summary"]["train_loss"] for event in seen if event["event"] == "round_closed"]
    assert trained[1] < trained[0]
    metrics = [event["metrics"] for event in seen if event["event"] == "model_evaluated"]
    assert [each["macro_f1"] for each in metrics] == [None, None]
    assert all(0 < each["loss"] < 0.05 for each in metrics)


def test_predict_tells_where_the_unusual_beats_are(run: tuple[Path, list[dict[str, Any]]]) -> None:
    """Those of record 119 are its ventricular ones."""
    home, _ = run
    model = home / "model.safetensors"
    export_model(home / "state", None, model)
    found = examine("ecg-masked", model, str(home / "records" / "119"), annotate=False)
    assert found[0].unusual is not None
    marks = wfdb.rdann(str(MITDB / "119"), "atr", sampto=SAMPLES)
    ventricular = marks.sample[np.array(marks.symbol) == "V"] / 360
    assert found[0].unusual.beats == pytest.approx(len(ventricular), rel=0.2)
    assert all(np.abs(ventricular - at).min() < 0.15 for at in found[0].unusual.at_s)
    assert found[0].unusual.highest > found[0].unusual.median
    assert len(found[0].unusual.at_s) == 20
    text = "\n".join(lines(found))
    assert str(found[0].unusual.beats) in text
    assert "no diagnosis" in text
    assert json.loads(next(json_lines(found)))["unusual"]["beats"] == found[0].unusual.beats


def test_a_model_that_tells_no_classes_apart_is_not_judged_by_them() -> None:
    with pytest.raises(PlanError, match="no class to annotate: leave --annotate out"):
        examine("ecg-masked", None, str(MITDB / "119"), annotate=True)
    with pytest.raises(PlanError, match="tells no classes apart: `edge predict`"):
        assess("ecg-masked", None, "synthetic-ecg:1", "all")
    assert errors_of(find("ecg-masked").initial(0), PLAN, NOTHING).shape == (0, 3)
