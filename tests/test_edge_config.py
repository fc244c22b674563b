from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.config import (
    KEPT_S,
    MOST_THREADS,
    DeviceSettings,
    EdgeSettings,
    FleetSettings,
    fitting_idle_s,
    fitting_threads,
    memory_mb,
)
from schemas.errors import SettingsError
from schemas.settings import load
from tests.running_commands import EDGE, finished


@pytest.mark.parametrize(
    ("machine", "mb", "seconds"),
    [("Pi Zero 2", 440.0, 5.0), ("Pi 3", 950.0, 5.0), ("Pi 4, 2 GB", 1900.0, 30.0), ("Pi 5, 4 GB", 4100.0, KEPT_S)],
)
def test_a_small_pi_has_its_memory_back_soon_and_a_large_one_keeps_its_trainer(
    machine: str, mb: float, seconds: float
) -> None:
    assert fitting_idle_s(mb) == seconds, machine


def test_a_machine_that_does_not_tell_its_memory_is_taken_for_a_small_one() -> None:
    assert fitting_idle_s(None) == fitting_idle_s(1.0)


@given(st.integers(1, 512))
def test_a_trainer_never_has_more_threads_than_half_of_the_cores(cores: int) -> None:
    threads = fitting_threads(cores)
    assert 1 <= threads <= MOST_THREADS
    assert threads == 1 or 2 * threads <= cores


def test_the_machine_decides_what_is_not_given(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seen to fail with numbers in place of the factories."""
    monkeypatch.setattr("edge.config.memory_mb", lambda: 440.0)
    monkeypatch.setattr("os.sched_getaffinity", lambda _pid: range(4))
    settings = EdgeSettings()
    assert (settings.trainer_idle, settings.trainer_threads, settings.trainer_nice) == (5.0, 2, 10)


def test_flag_environment_and_file_say_how_the_trainer_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "edge.toml").write_text("trainer_threads = 3\ntrainer_idle = 7\n")
    monkeypatch.setenv("FEDBEAT_TRAINER_IDLE", "8")
    settings, _ = load(EdgeSettings, {"trainer_nice": 4}, tmp_path / "edge.toml")
    assert (settings.trainer_idle, settings.trainer_threads, settings.trainer_nice) == (8.0, 3, 4)


@pytest.mark.parametrize("kind", [EdgeSettings, FleetSettings])
def test_a_word_that_is_no_choice_is_answered_with_those_there_are(kind: type[DeviceSettings]) -> None:
    """Seen to fail with a union, of which pydantic tells each half, one after the other."""
    with pytest.raises(SettingsError) as told:
        load(kind, {"personal": "bogus"}, None)
    choices = "choose 'off', 'fine-tune', 'ditto' or 'local-layers'"
    assert str(told.value) == f"personal = 'bogus' (from flag): {choices}"


def test_this_machine_tells_its_memory() -> None:
    assert (memory_mb() or 0) > 100


def test_the_trainers_settings_are_shown_with_their_source(tmp_path: Path) -> None:
    shown = finished(
        *(*EDGE, "run", "--show-config", "--trainer-threads", "2"),
        cwd=tmp_path,
        env={"FEDBEAT_TRAINER_NICE": "3"},
    )
    lines = [line.split() for line in shown.out.splitlines()]
    assert ["trainer_threads", "2", "flag"] in lines
    assert ["trainer_nice", "3", "environment"] in lines
    assert [line[0] for line in lines if line[-1] == "default" and line[0].startswith("trainer")] == ["trainer_idle"]
