from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import onnx
import pytest

from coordinator.export import export_model, export_onnx
from coordinator.journal import Journal
from coordinator.models import Checkpoint, ModelStore
from coordinator.round import SETTLE_S
from schemas.errors import DiskFull, PlanError, SettingsError, StateError
from schemas.messages import BlobRef, PlanRef, RunSettings
from schemas.plan_file import PlanFile, find, write
from tests.full_disks import Ballast, small_disk
from tests.plan_examples import tiny
from tests.running_coordinator import RunningCoordinator
from tests.scripted_device import Script


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """A run of two rounds, and a third model that a crash left before it was committed."""
    directory = tmp_path / "state"
    running = RunningCoordinator(directory, rounds=2, goal=2, quorum=2, evaluate=False)
    for name in ("dev-a", "dev-b"):
        running.device(name, Script())
    with running:
        running.skip(SETTLE_S)
        assert running.result().version == 2
    models = ModelStore(directory / "models")
    models.save(replace(models.load(2), version=3))
    return directory


def test_the_newest_model_is_the_newest_that_was_committed(state: Path, tmp_path: Path) -> None:
    """Seen to fail with the newest file."""
    assert export_model(state, None, tmp_path / "out").startswith("model 2 written to ")
    assert export_model(state, 1, tmp_path / "out").startswith("model 1 written to ")
    with pytest.raises(StateError, match=r"there is no model 7 .* 0, 1, 2, 3"):
        export_model(state, 7, tmp_path / "out")


@pytest.mark.parametrize(
    "name", ["journal.db", "journal.db-wal", "models/v000000002.safetensors", "models/../journal.db"]
)
def test_what_a_run_goes_on_from_is_not_written_over(state: Path, name: str) -> None:
    """Seen to fail: the model was written in the journal's place, and the run was lost."""
    before = {file: file.read_bytes() for file in state.rglob("*") if file.is_file()}
    with pytest.raises(StateError, match=r"the coordinator's own.*give another file"):
        export_model(state, None, state / name)
    assert {file: file.read_bytes() for file in before} == before
    export_model(state, None, state / "model.safetensors")


def test_a_run_that_is_going_on_can_be_asked_for_its_model(tmp_path: Path) -> None:
    """Its journal is locked, and read all the same."""
    directory = tmp_path / "state"
    with RunningCoordinator(directory) as running:
        running.handled()
        assert export_model(directory, None, tmp_path / "out").startswith("model 0 written to ")


def test_models_without_a_journal_are_exported_by_their_files(state: Path, tmp_path: Path) -> None:
    for file in state.glob("journal.db*"):
        file.unlink()
    assert export_model(state, None, tmp_path / "out").startswith("model 3 written to ")


def test_a_model_is_exported_for_onnx_with_its_plan(tmp_path: Path) -> None:
    file, path, target = PlanFile(tiny(), {}), tmp_path / "tiny.plan", tmp_path / "model.onnx"
    write(file, path)
    model = file.initial(1)
    ModelStore(tmp_path / "models").save(Checkpoint("run-1", 4, None, model, {}))
    assert export_onnx(tmp_path, None, str(path), target).startswith("model 4 written to ")
    about = {one.key: one.value for one in onnx.load(str(target)).metadata_props}
    assert about == {"name": "tiny", "classes": '["calm", "brisk", "wild"]', "digest": model.digest()}
    with pytest.raises(PlanError, match="of another plan than 'watch': choose its own with --plan"):
        export_onnx(tmp_path, None, "watch", target)
    with pytest.raises(SettingsError, match="add --plan PLAN"):
        export_onnx(tmp_path, None, None, target)  # there is no journal to tell it


def test_a_full_disk_keeps_the_onnx_model_of_before(tmp_path: Path) -> None:
    """Seen to fail where the file was opened for writing first: a torn one was left."""
    file, path = PlanFile(tiny(), {}), tmp_path / "tiny.plan"
    write(file, path)
    ModelStore(tmp_path / "models").save(Checkpoint("run-1", 4, None, file.initial(1), {}))
    with small_disk(tmp_path / "disk", "64k") as disk:
        target = disk / "model.onnx"
        target.write_bytes(b"before")
        Ballast(disk).fill()
        with pytest.raises(DiskFull, match=r"model\.onnx: No space left"):
            export_onnx(tmp_path, None, str(path), target)
        assert target.read_bytes() == b"before"


def test_a_folder_is_no_place_for_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seen to fail with a traceback of "."."""
    ModelStore(tmp_path / "models").save(Checkpoint("run-1", 4, None, PlanFile(tiny(), {}).initial(1), {}))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StateError, match="Check the directory"):
        export_model(tmp_path, None, Path())
    assert [path.name for path in tmp_path.iterdir()] == ["models"]


@pytest.mark.parametrize(
    ("name", "digest", "told"),
    [
        ("ecg-beats", find("ecg-beats").plan.digest, True),
        ("ecg-beats", "0" * 64, False),  # somebody's own of that name, or another release's
        ("mine", "0" * 64, False),
    ],
)
def test_a_run_s_plan_needs_no_naming_where_it_is_a_bundled_one(
    tmp_path: Path, name: str, digest: str, *, told: bool
) -> None:
    """Seen to fail where every plan had to be named, and where its name alone was looked at."""
    model = find("ecg-beats").initial(1)
    journal = Journal(tmp_path / "journal.db")
    plan = PlanRef(name=name, blob=BlobRef(digest=digest, size=1, parts=1))
    journal.start_run(RunSettings(run="run-1", rounds=1, plan=plan), model.digest(), "2026-11-28T20:00:00+00:00")
    journal.close()
    ModelStore(tmp_path / "models").save(Checkpoint("run-1", 0, None, model, {}))
    if told:
        assert export_onnx(tmp_path, None, None, tmp_path / "model.onnx").startswith("model 0 written to ")
    else:
        with pytest.raises(
            SettingsError, match=f"of a plan '{name}' that doesn't come with .*add --plan with its file"
        ):
            export_onnx(tmp_path, None, None, tmp_path / "model.onnx")
