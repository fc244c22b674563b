"""``edge evaluate`` and ``coordinator evaluate`` on recordings that lie here."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import chdir, contextmanager
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from coordinator.models import Checkpoint, ModelStore
from edge.findings.assessment import assess, show
from schemas.errors import PlanError, SettingsError, StateError
from schemas.plan_file import find
from tests.running_commands import COORDINATOR, LIMIT_S, Running
from tests.waiting import until

DATA = "synthetic-ecg:6"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that takes every beat for V."""
    arrays = {name: array.copy() for name, array in find("ecg-beats").initial(1).arrays().items()}
    last = max((name for name, array in arrays.items() if array.shape == (5,)), key=list(arrays).index)
    arrays[last] = np.array([0, 0, 1e3, 0, 0], np.float32)
    path = tmp_path_factory.mktemp("models") / "model.safetensors"
    save_file(arrays, path)
    return path


def test_a_model_s_figures_are_those_of_what_it_takes_beats_for(model: Path) -> None:
    figures = assess("ecg-beats", model, DATA, "all")
    classes = figures["classes"]
    assert classes["V"]["Se"][0] == 1
    assert classes["N"]["Se"][0] == 0
    assert classes["V"]["PPV"][0] == pytest.approx(classes["V"]["examples"] / figures["examples"])
    assert len(figures["patients"]) == 6
    assert sum(map(sum, figures["confusion"])) == figures["examples"]


def test_people_are_chosen_by_rule_or_by_name(model: Path) -> None:
    held_out, chosen = (
        assess("ecg-beats", model, DATA, people) for people in ("held-out", "synthetic-0001, synthetic-0003")
    )
    assert list(held_out["patients"]) == ["synthetic-0005"]
    assert list(chosen["patients"]) == ["synthetic-0001", "synthetic-0003"]
    with pytest.raises(SettingsError, match="nobody is chosen to judge by"):
        assess("ecg-beats", model, DATA, " ,")
    with pytest.raises(SettingsError, match="nobody here is called zoe: choose among synthetic-0000"):
        assess("ecg-beats", model, DATA, "zoe")


def test_who_may_have_been_trained_on_and_who_is_alone_is_said(model: Path) -> None:
    """Seen to fail with people that are chosen by name, or are too few for any to be held out."""
    alone = show("ecg-beats", model, "synthetic-ecg:1", "held-out", None, as_json=False)
    assert "examples of 1 person\n" in alone
    assert "no brackets: of one person" in alone
    assert "nobody here is held out from training" in alone
    some = assess("ecg-beats", model, DATA, "synthetic-0001, synthetic-0005")["notes"]
    assert any(note.startswith("not everybody here is held out") for note in some)
    assert not any("held out" in note for note in assess("ecg-beats", model, DATA, "held-out")["notes"])


def test_a_model_that_is_none_or_of_another_plan_is_told(model: Path, tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="is of another plan than 'watch'"):
        assess("watch", model, "watch", "all")
    with pytest.raises(StateError, match="can't read the model"):
        assess("ecg-beats", tmp_path / "none", DATA, "all")
    (tmp_path / "rubbish").write_bytes(b"rubbish")
    with pytest.raises(StateError, match="is no model"):
        assess("ecg-beats", tmp_path / "rubbish", DATA, "all")


def test_words_and_json_say_the_same_and_a_page_shows_each_person(model: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    text = show("ecg-beats", model, DATA, "all", page, as_json=False)
    figures = json.loads(show("ecg-beats", model, DATA, "all", None, as_json=True))
    assert f"accuracy      {figures['accuracy'][0]:.3f}" in text
    assert "VEB detection" in text
    assert "says nothing about patients" in text
    assert figures["classes"]["Q"]["Se"][0] is None
    html = page.read_text()
    assert all(f"<td>synthetic-000{number}" in html for number in range(6))
    assert "data:image/png;base64," in html
    assert '<meta name="viewport"' in html  # else a phone shows it as wide as a desk, too small to read
    assert "prefers-color-scheme: dark" in html
    assert html.count('<div class="wide"><table>') == html.count("<table>") == 4 + 6
    confusions = re.findall(r"<caption>(\S+): true class down.*?</table>", html, re.DOTALL)
    assert confusions == list(figures["patients"])
    wrong = sum(
        sum(map(sum, rows)) - sum(row[at] for at, row in enumerate(rows)) for rows in figures["patients"].values()
    )
    shown = [int(count) for count in re.findall(r'<td class="wrong">(\d+)', html.partition("<details>")[2])]
    assert sum(shown) == wrong > 0
    assert html.count("<img alt=") == 2
    assert "Se: sensitivity" in html
    assert not re.search(r"(src|href)=.(?!data:)", html)  # nothing is fetched from elsewhere
    with pytest.raises(StateError, match=r"can't write the page .*choose another --page"):
        show("ecg-beats", model, DATA, "all", tmp_path / "no" / "page.html", as_json=False)
    with chdir(tmp_path), pytest.raises(StateError, match=r"can't write the page \.: "):  # seen to fail by a traceback
        show("ecg-beats", model, DATA, "all", Path(), as_json=False)


def test_the_coordinator_evaluates_a_version_of_its_own(tmp_path: Path) -> None:
    """What a run says of its last model and what ``evaluate`` says of it are one."""
    state = str(tmp_path / "state")
    program = [sys.executable, "-m", "coordinator"]
    run = [*program, "start", "--rounds", "1", "--virtual", "2", "--plan", "ecg-beats", "--state", state, "--json"]
    told = subprocess.run([*run, "--data", DATA], stdout=subprocess.PIPE, text=True, check=True)
    events = [json.loads(line) for line in told.stdout.splitlines()]
    metrics = next(event for event in events if event["event"] == "model_evaluated")["metrics"]
    command = [*program, "evaluate", "--state", state, "--data", DATA]
    asked = subprocess.run([*command, "--plan", "ecg-beats", "--json"], stdout=subprocess.PIPE, text=True, check=True)
    figures = json.loads(asked.stdout)
    assert figures["model"] == "model-1.safetensors"
    assert figures["accuracy"][0] == pytest.approx(metrics["accuracy"])
    assert figures["macro_f1"][0] == pytest.approx(metrics["macro_f1"])
    of_run = subprocess.run([*command, "--version", "1", "--json"], stdout=subprocess.PIPE, text=True, check=True)
    assert json.loads(of_run.stdout) == figures  # by the run's own plan; seen to fail where it had to be named
    lost = subprocess.run([*command[:-2], "--plan", "ecg-beats"], capture_output=True, text=True, check=False)
    assert lost.returncode == SettingsError.exit_code
    assert "--data PATH" in lost.stderr
    wrong = subprocess.run([*command, "--plan", "watch"], capture_output=True, text=True, check=False)
    assert wrong.returncode == PlanError.exit_code
    assert "model 1 is of another plan than 'watch'" in wrong.stderr
    assert "Traceback" not in wrong.stderr


@contextmanager
def assessing(folder: Path) -> Iterator[tuple[Running, int]]:
    """`coordinator evaluate` at work, and the process that does it; its temporary files lie in ``folder / "tmp"``."""
    (folder / "tmp").mkdir()
    ModelStore(folder / "state" / "models").save(Checkpoint("run-1", 1, None, find("ecg-beats").initial(1), {}))
    command = ("evaluate", "--state", "state", "--plan", "ecg-beats", "--data", "synthetic-ecg:40")
    with Running(*COORDINATOR, *command, cwd=folder, env={"TMPDIR": str(folder / "tmp")}) as running:
        children = Path(f"/proc/{running.pid}/task/{running.pid}/children")
        until(lambda: bool(children.read_text().split()), "a child", LIMIT_S)
        yield running, int(children.read_text().split()[0])


def test_who_ends_the_coordinator_s_evaluation_ends_all_of_it(tmp_path: Path) -> None:
    """Seen to fail: the child went on, and the model stayed in a temporary folder."""
    with assessing(tmp_path) as (running, child):
        running.send(signal.SIGTERM)
        assert running.end().code == 130
    assert not Path(f"/proc/{child}").exists()
    assert list((tmp_path / "tmp").iterdir()) == []


def test_an_evaluation_that_is_killed_is_told(tmp_path: Path) -> None:
    """As by a machine without memory. Seen to fail with exit code 247."""
    with assessing(tmp_path) as (running, child):
        os.kill(child, signal.SIGKILL)
        running.end().says(1, "was killed (SIGKILL)", "memory enough")
