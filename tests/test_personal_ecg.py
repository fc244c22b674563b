"""What an owner has labelled of an ECG goes with the model that is made of it, from the child to what is predicted."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
import wfdb

from edge import model_file
from edge.beats import ecg
from edge.beats.beat_features import LOOK, looks
from edge.beats.synthetic_ecg import Recording, person, record
from edge.core.jobs import Personalise, Personalised, Train, Trained
from edge.core.personal_settings import Origin, PersonalSettings
from edge.dataspec import DataSpec
from edge.findings.model_choice import choose
from edge.sources.ecg_beats import label_beats
from edge.store import Store
from edge.trainer.child import Trainer
from edge.trainer.inbox import Inbox
from schemas import compression
from schemas.messages import TrainSettings
from schemas.plan_file import find
from tests.trainer_ends import unheard

FILE = find("ecg-beats")
MODEL = FILE.initial(0)
RUN = TrainSettings(learning_rate=0.01, batch_size=32)
RATE = 250.0
SEED = 0  # somebody with beats of all three kinds
torch.set_num_threads(1)


def made() -> Recording:
    return record(person(SEED), 240.0, RATE, SEED)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A made-up person's labelled record."""
    folder, drawn = tmp_path_factory.mktemp("ecg"), made()
    signal = drawn.signal.astype(np.float64)[:, None]
    wfdb.wrsamp("one", RATE, ["mV"], ["MLII"], signal, fmt=["16"], write_dir=str(folder))
    wfdb.wrann("one", "atr", drawn.peaks, symbol=drawn.symbols.tolist(), write_dir=str(folder))
    return folder


def answer(job: Personalise | Train) -> object:
    return Trainer(Inbox(unheard(), leave=lambda _code: None), threads=1, report=lambda _progressed: None).answer(job)


def job(data: Path, method: PersonalSettings) -> Personalise:
    blob = compression.encode("float32", MODEL, np.random.default_rng(0))
    about = {"plan": FILE.plan.to_bytes(), "model": blob, "settings": RUN, "how": method, "seed": 5}
    return Personalise.model_validate({"key": "p", "data": DataSpec(path=str(data), held_out="none"), **about})


def test_labelled_beats_go_with_the_model_into_what_a_device_uses(data: Path, tmp_path: Path) -> None:
    """Seen to fail where the child answers with the model alone, and where that is what is chosen."""
    how = PersonalSettings(method="ditto", steps=20)
    own = answer(job(data, how))
    assert isinstance(own, Personalised), own
    assert own.verdict.personal
    origin = Origin(run="r", version=1, model=MODEL.digest(), plan="0" * 64, data="", how=how, verdict=own.verdict)
    Store(tmp_path, print).keep_personal(origin, own.model)
    chosen = choose(FILE, None, tmp_path).own
    assert chosen.neighbours is not None
    kinds = {FILE.plan.classes[kind] for kind in chosen.neighbours.kinds}
    assert {"N", "V"} <= kinds
    assert "S" not in kinds


def test_rounds_take_the_layers_of_a_model_that_has_labelled_beats_with_it(data: Path) -> None:
    """Seen to fail where such a file is taken for a damaged one."""
    how = PersonalSettings(method="local-layers", steps=20, layers=("layers.7",))
    asked = job(data, how)
    own = answer(asked)
    assert isinstance(own, Personalised), own
    parameters, labelled = model_file.own_from_bytes(own.model, FILE.plan)
    assert labelled is not None
    about = {"key": "k", "plan": asked.plan, "model": asked.model, "data": asked.data, "local": ("layers.7",)}
    payloads = []
    for layers in (own.model, model_file.to_bytes(parameters), b""):
        trained = answer(Train.model_validate({**about, "own": layers, "settings": RUN, "seed": 3, "codec": "int8"}))
        assert isinstance(trained, Trained), trained
        payloads.append(trained.payload)
    assert payloads[0] == payloads[1] != payloads[2]


def test_each_labelled_beat_has_its_own_looks_beside_others_that_are_not() -> None:
    """Seen to fail with those of the first so many beats."""
    drawn = made()
    signal = drawn.signal.astype(np.float64)
    symbols = np.where(np.arange(len(drawn.peaks)) % 3 == 0, "", drawn.symbols)
    found = label_beats("ada", signal, RATE, drawn.peaks, symbols, Counter())
    whole = ecg.relate_beats(signal, RATE, drawn.peaks)
    assert found.looks is not None
    assert np.array_equal(found.looks, whole.looks[symbols[whole.kept] != ""])


def test_looks_know_no_baseline() -> None:
    """What breathing moves isn't the beat's; an artefact has bounds. Seen to fail with the waves as they are."""
    waves = np.random.default_rng(0).normal(0, 0.3, (4, ecg.WINDOW)).astype(np.float32)
    np.testing.assert_allclose(looks(waves + np.float32(1.5)), looks(waves), atol=1e-5)
    assert np.isfinite(looks(np.full((1, ecg.WINDOW), np.inf, np.float32))).all()
    assert looks(waves).shape == (4, len(range(ecg.WINDOW)[LOOK]))
