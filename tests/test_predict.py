"""``edge predict``: beats of recordings that nobody has labelled, and what a model takes them for."""

from __future__ import annotations

import json
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import wfdb
from safetensors.numpy import load_file, save_file

from edge.beats.synthetic_ecg import person, record
from edge.findings.classifier import BeatClassifier, Runtime
from edge.findings.predict import RecordFindings, Unusual, examine, json_lines, lines, telling_minute
from schemas.errors import DataError, PlanError, SettingsError, StateError, TrainingError
from schemas.plan_file import find
from tests.full_disks import small_disk
from tests.locked_folder import locked_folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that takes every beat for V."""
    arrays = {name: array.copy() for name, array in find("ecg-beats").initial(1).arrays().items()}
    last = [name for name, array in arrays.items() if array.shape == (5,)][-1]
    arrays[last] = np.array([0, 0, 1e3, 0, 0], np.float32)
    path = tmp_path_factory.mktemp("models") / "model.safetensors"
    save_file(arrays, path)
    return path


@pytest.fixture
def records(tmp_path: Path) -> Path:
    """A record of 150 s, one with a gap in its middle, one without a heart, none with annotations."""
    signal = record(person(5), 150, 250, 5).signal.astype(np.float64)
    gap = signal.copy()
    gap[17_000:20_000] = np.nan
    for name, one in (("whole", signal), ("gap", gap), ("flat", np.zeros(5000))):
        options = {"fs": 250, "units": ["mV"], "sig_name": ["ECG"], "write_dir": str(tmp_path)}
        wfdb.wrsamp(name, p_signal=one[:, None], fmt=["16"], adc_gain=[1000.0], baseline=[0], **options)
    return tmp_path


def test_every_record_s_beats_are_found_and_classified(records: Path, model: Path) -> None:
    """Seen to fail where a gap is filled, and where a stretch's beats are counted from its own begin."""
    truth = record(person(5), 150, 250, 5).peaks
    found = {one.record: one for one in examine("ecg-beats", model, str(records), annotate=True)}
    assert sum(found["whole"].beats.values()) == pytest.approx(len(truth), abs=3)
    assert found["whole"].beats["V"] == sum(found["whole"].beats.values())
    assert (found["whole"].seconds, found["whole"].used_s, found["gap"].used_s) == (150, 150, 138)
    assert found["whole"].rate == pytest.approx(60 * 250 / np.median(np.diff(truth)), rel=0.02)
    assert sum(found["flat"].beats.values()) == 0
    assert found["flat"].rate is None
    marks = wfdb.rdann(str(records / "gap"), "fb").sample
    assert not ((marks > 17_000) & (marks < 20_000)).any()
    late = truth[(truth > 20_500) & (truth < 37_000)]
    assert np.abs(marks[:, None] - late).min(axis=0).max() <= 10
    assert not (records / "flat.fb").exists()


def test_beats_that_are_found_in_noise_are_not_told_as_if_they_were_a_heart_s(tmp_path: Path, model: Path) -> None:
    """Seen to fail: two minutes of white noise had 256 beats, 113 of them V, and nothing told them from others."""
    noise = np.random.default_rng(0).normal(size=(250 * 120, 1))
    names = {"fs": 250, "units": ["mV"], "sig_name": ["ECG"], "write_dir": str(tmp_path)}
    wfdb.wrsamp("noise", p_signal=noise, fmt=["16"], **names)
    heart = record(person(5), 120, 250, 5).signal[:, None].astype(float)
    wfdb.wrsamp("heart", p_signal=heart, fmt=["16"], **names)
    wfdb.wrsamp("later", p_signal=np.vstack((heart[: 250 * 75], noise[: 250 * 25])), fmt=["16"], **names)
    found = examine("ecg-beats", model, str(tmp_path), annotate=False)
    assert {one.record: one.quality for one in found} == {"noise": 0.0, "heart": 1.0, "later": 0.75}
    told = list(lines(found))
    assert "noise is mostly noise, or no ECG: what is found in it isn't to be believed" in told
    assert not any(line.startswith("heart is") or "first in noise" in line for line in told)
    assert any("first in heart" in line for line in told)


def test_annotations_that_find_no_room_are_told_and_leave_those_of_before(records: Path, model: Path) -> None:
    """Seen to fail with ``wfdb.wrann``, which left a torn file and said nothing."""
    with small_disk(records / "card", "64k") as card:
        for ending in ("hea", "dat"):
            (card / f"short.{ending}").write_bytes((records / f"whole.{ending}").read_bytes()[:60_000])
        header = (card / "short.hea").read_text().replace("whole", "short").replace(" 37500", " 25000")
        (card / "short.hea").write_text(header)
        (card / "short.dat").write_bytes((records / "whole.dat").read_bytes()[:50_000])
        (card / "short.fb").write_bytes(b"before")
        with suppress(OSError):
            (card / "ballast").write_bytes(bytes(64 * 1024))
        with pytest.raises(StateError, match=r"can't write .*short\.fb: No space left"):
            examine("ecg-beats", model, str(card / "short"), annotate=True)
        assert (card / "short.fb").read_bytes() == b"before"


def broken(model: Path, folder: Path, factor: float | None) -> Path:
    """The model with one value that is none, or all of them times ``factor``."""
    arrays = {name: array.copy() for name, array in load_file(model).items()}
    for array in arrays.values():
        array.flat[slice(1 if factor is None else None)] *= np.float32(np.nan if factor is None else factor)
    path = folder / "broken.safetensors"
    save_file(arrays, path)
    return path


@pytest.mark.parametrize("runtime", ["onnx", "torch"])
def test_a_model_whose_numbers_are_none_says_nothing_of_a_beat(
    records: Path, tmp_path: Path, model: Path, runtime: Runtime
) -> None:
    """Seen to fail: it found every beat normal, since the first class seems the largest among NaN."""
    if runtime == "onnx":
        pytest.importorskip("onnxruntime")
    with pytest.raises(StateError, match="is damaged, since its values aren't finite"):
        examine("ecg-beats", broken(model, tmp_path, None), str(records), annotate=False, runtime=runtime)
    with pytest.raises(TrainingError, match="isn't finite: it is damaged or has diverged"):
        examine("ecg-beats", broken(model, tmp_path, 1e30), str(records), annotate=False, runtime=runtime)


def test_a_model_of_another_type_of_numbers_is_told(records: Path, tmp_path: Path, model: Path) -> None:
    """Seen to fail with a traceback where NumPy knows no such type."""
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_file as save_torch  # noqa: PLC0415 - it imports torch

    path = tmp_path / "half.safetensors"
    save_torch({name: torch.from_numpy(array).bfloat16() for name, array in load_file(model).items()}, path)
    with pytest.raises(StateError, match=r"half\.safetensors is no model"):
        examine("ecg-beats", path, str(records), annotate=False)


def test_words_and_json_have_the_same_counts(records: Path, model: Path) -> None:
    found = examine("ecg-beats", model, str(records / "whole"), annotate=False)
    assert [json.loads(line)["record"] for line in json_lines(found)] == ["whole"]
    text = "\n".join(lines(found))
    assert str(found[0].beats["V"]) in text
    assert "no diagnosis" in text
    assert "worth labelling first in whole: minute" in text
    assert "model: model.safetensors" in text
    assert not (records / "whole.fb").exists()


def test_people_read_counts_by_class_or_scores_under_their_heads() -> None:
    """Seen to fail with the classes' counts, none, in the place of the scores."""
    seen = RecordFindings("a", 120.0, 60.0, {"N": 100, "V": 7}, 71.6, "m", 0.5, telling=1)
    head, row, telling, model, _ = (line.split() for line in lines([seen]))
    assert head == ["record", "minutes", "used", "quality", "rate", "beats", "N", "S", "V", "F", "Q"]
    assert row == ["a", "2.0", "50%", "0.50", "72", "107", "100", "0", "7", "0", "0"]
    assert (telling[-2:], model) == (["minute", "2"], ["model:", "m"])
    assert not any("worth labelling" in line for line in lines([replace(seen, seconds=60.0)]))
    scored = replace(seen, beats={"beat": 107}, telling=None, unusual=Unusual(9, 0.25, 3.5, (1.0,)))
    head, row, *_ = (line.split() for line in lines([scored]))
    assert head[-4:] == ["beats", "unusual", "median", "highest"]
    assert row[-4:] == ["107", "9", "0.25", "3.5"]


def test_a_record_that_can_not_be_used_is_named_and_the_others_are_examined(records: Path, model: Path) -> None:
    """Seen to fail where the first such record ends it all, without its name."""
    (records / "broken.hea").write_text("broken 2 360 1000\n")
    told: list[str] = []
    found = examine("ecg-beats", model, str(records), annotate=False, report=told.append)
    assert {one.record for one in found} == {"whole", "gap", "flat"}
    assert [text.split(": ")[1] for text in told] == ["record broken"]
    with pytest.raises(DataError, match=r"^record broken: has no signals"):
        examine("ecg-beats", model, str(records / "broken"), annotate=False)


def test_a_folder_that_may_not_be_read_is_not_said_to_be_empty() -> None:
    """Seen to fail with ``glob``, which finds nothing there and says no more."""
    with locked_folder() as folder, pytest.raises(DataError, match="Permission denied; see to its permissions"):
        examine("ecg-beats", None, str(folder), annotate=False)


def test_what_is_no_ecg_is_told(tmp_path: Path, model: Path) -> None:
    with pytest.raises(DataError, match="no WFDB record"):
        examine("ecg-beats", model, str(tmp_path), annotate=False)
    with pytest.raises(PlanError, match="plan 'ecg-masked' tells no classes of beats apart: choose ecg-beats"):
        BeatClassifier.of("ecg-masked", None, "onnx")
    with pytest.raises(PlanError, match="not for ECGs"):
        examine("watch", model, str(tmp_path), annotate=False)


LACKING = r"PyTorch isn't installed here: .*fedbeat\[edge\]"  # not that nothing runs models: ONNX Runtime does


@pytest.mark.parametrize(
    ("runtime", "says"),
    [("onnx", "leave --runtime onnx out"), ("torch", LACKING), ("auto", LACKING)],
)
def test_where_beats_can_not_be_scored_that_is_said_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runtime: Runtime, says: str
) -> None:
    """Seen to fail where the records are looked at first, and where the runtime is passed over."""
    monkeypatch.setattr("edge.findings.classifier.find_spec", lambda name: None if name == "torch" else object())
    with pytest.raises(SettingsError, match=says):
        examine("ecg-masked", None, str(tmp_path), annotate=False, runtime=runtime)


def test_a_runtime_that_is_installed_and_does_not_load_is_told(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen to fail with a traceback, and the exit code of a bug."""
    (tmp_path / "onnxruntime.py").write_text("raise ImportError('no such C library')")
    monkeypatch.delitem(sys.modules, "onnxruntime", raising=False)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(SettingsError, match=r"is installed and can't be loaded .* to use PyTorch"):
        examine("ecg-beats", model, str(tmp_path), annotate=False, runtime="onnx")


def test_the_minute_worth_labelling_is_the_first_with_most_beats_that_are_not_usual() -> None:
    """Seen to fail with the last of equals, and with all beats counted."""
    at = np.array([1.0, 59.9, 60.0, 61.0, 62.0, 119.0, 121.0, 130.0, 131.0])
    other = np.array([1, 0, 0, 1, 0, 1, 1, 1, 0], bool)
    assert telling_minute(at, other) == 1
    assert telling_minute(at, np.zeros(9, bool)) is None
