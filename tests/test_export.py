from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from coordinator.export import export_model
from coordinator.models import ModelStore
from coordinator.round import SETTLE_S
from schemas.errors import StateError
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
