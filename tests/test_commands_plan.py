"""A model of one's own, from its file to a committed round, and what the commands print about settings."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

from coordinator.cli import cli as coordinator
from schemas.plan_file import find
from tests.running_commands import COORDINATOR, EDGE, LIMIT_S, QUICK, ROOT, finished, in_process

NET = """
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv1d(6, 8, 5, stride=2), nn.GroupNorm(2, 8), nn.ReLU(), nn.Flatten(), nn.Linear(584, 7)
        )

    def forward(self, signal):
        return self.layers(signal)
"""
MODEL = ("--model", "net.py:Net", "--input", "6x150", "--classes", "PEN,ABD,FEL,IR,ER,TRAP,ROW", "--recipe", "watch")
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("plan")
    (directory / "net.py").write_text(NET)
    (directory / "bad.py").write_text("from torch import nn\nclass Net(nn.Module:\n")
    return directory


def screen(*arguments: str, cwd: Path) -> tuple[int, str]:
    """A command's exit code and all it writes on a terminal of 80 columns."""
    ours, theirs = pty.openpty()
    size = {"COLUMNS": "80", "LINES": "40", "TERM": "xterm", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, *arguments]
    with subprocess.Popen(command, cwd=cwd, env={**os.environ, **size}, stdin=theirs, stdout=theirs) as child:
        os.close(theirs)
        written = b""
        try:
            while chunk := os.read(ours, 65_536):
                written += chunk
        except OSError:  # how Linux says that the other end is closed
            pass
        os.close(ours)
        code = child.wait(LIMIT_S)
    return code, ESCAPES.sub("", written.decode())


def test_a_module_of_ones_own_is_trained_by_virtual_devices_before_ones_eyes(home: Path) -> None:
    code, text = screen(*COORDINATOR, "start", *MODEL, *QUICK, "--rounds", "1", "--state", "own", cwd=home)
    assert code == 0
    last = text[text.rindex("plan net   1 round") :].splitlines()
    row = next(line.split() for line in last if line.strip().startswith("1 "))
    assert row[:4] == ["1", "1", "2", "2397"]
    assert "finished with model 1" in text
    assert "newest model, on held-out examples" in text
    assert all(len(line) <= 80 for line in last)


def test_a_plan_is_exported_shown_and_checked(home: Path) -> None:
    options = ("--input", "6x150", "--classes", "7", "--recipe", "watch", "-o", "net.plan")
    exported = finished(*COORDINATOR, "plan", "export", "net.py:Net", *options, cwd=home)
    assert (exported.code, exported.err) == (0, "")
    assert exported.out.startswith("net.plan: ")
    shown = in_process(coordinator, "plan", "show", "net.plan", cwd=home)
    assert "input input: 6x150" in shown.out
    plain = finished(*COORDINATOR, "plan", "show", "net.plan", "--json", cwd=home)
    (home / "net.json").write_text(plain.out)
    for done in (
        in_process(coordinator, "plan", "check", "net.plan", cwd=home),
        finished(*EDGE, "check-plan", "net.json", cwd=home),
    ):
        assert (done.code, done.err) == (0, "")
        assert done.out.startswith("plan net: ")


def test_a_module_that_branches_is_refused_in_one_sentence_and_nothing_else(home: Path) -> None:
    branching = NET.replace("return self.layers(signal)", "return self.layers(signal if signal.sum() > 0 else -signal)")
    (home / "branching.py").write_text(branching)
    options = ("--input", "6x150", "--classes", "7", "-o", "branching.plan")
    done = finished(*COORDINATOR, "plan", "export", "branching.py:Net", *options, cwd=home)
    done.says(4, "its forward branches on values of its inputs")
    assert len(done.err.splitlines()) == 1


WITHOUT_TORCH = "import sys; sys.modules['torch'] = None; from coordinator.cli import main; main()"
WITHOUT_TORCH_CHECK = """
import sys
sys.modules["torch"] = None
from coordinator.cli import cli
for name in sys.argv[1:]:
    cli.main(["plan", "check", name], standalone_mode=False)
"""


def test_without_pytorch_bundled_plans_work_and_a_module_is_refused_with_what_to_do(home: Path) -> None:
    """As on a machine that only averages. Seen to fail with ``plan_export`` imported unguarded: a traceback."""
    names = ("ecg-beats", "watch", "digits")
    done = finished("-c", WITHOUT_TORCH_CHECK, *names, cwd=home)
    assert done.code == 0
    assert [line.split(":")[0] for line in done.out.splitlines()] == [f"plan {name}" for name in names]
    options = ("--input", "6x150", "--classes", "7")
    model = "net.py:Net"
    for command in (("plan", "export", model, "-o", "x.plan"), ("start", "--virtual", "2", "--model", model)):
        done = finished("-c", WITHOUT_TORCH, *command, *options, cwd=home)
        done.says(4, "exporting a model needs PyTorch", "pip install 'fedbeat[plan]'")


def test_a_file_that_is_no_python_is_a_plan_error_in_one_sentence(home: Path) -> None:
    arguments = ("start", "--virtual", "2", "--model", "bad.py:Net", "--input", "6x150", "--classes", "7")
    in_process(coordinator, *arguments, cwd=home).says(4, "bad.py:Net can't be loaded: SyntaxError")


def test_a_file_that_is_no_plan_is_a_plan_error_in_one_sentence(home: Path) -> None:
    for command in ("show", "check"):
        done = in_process(coordinator, "plan", command, "net.py", cwd=home)
        done.says(4, "net.py is not a plan file: make one with `coordinator plan export`")


@pytest.mark.parametrize("command", [(*COORDINATOR, "start"), (*EDGE, "run"), (*EDGE, "fleet")])
def test_every_setting_is_printed_with_its_value_and_where_it_is_from_and_no_password(
    home: Path, command: tuple[str, ...]
) -> None:
    (home / "some.toml").write_text('federation = "ward"\npassword = "secret"\nbroker = "mqtt://pi:secret@host"\n')
    flags = ("--config", "some.toml", "--show-config", "--data", "here")
    done = finished(*command, *flags, cwd=home, env={"FEDBEAT_ROOT": "lab"})
    assert (done.code, done.err) == (0, "")
    rows = {line.split()[0]: line.split()[1:] for line in done.out.splitlines()}
    assert rows["federation"] == ["ward", "some.toml"]
    assert rows["root"] == ["lab", "environment"]
    assert rows["data"] == ["here", "flag"]
    assert rows["state"][-1] == "default"
    assert rows["broker"] == ["mqtt://pi:***@host", "some.toml"]
    assert "secret" not in done.out


def test_what_the_plan_recommends_is_printed_with_the_settings_and_gives_way_to_them(home: Path) -> None:
    """Seen to fail with the settings alone: nothing told at which rate devices would learn."""
    flags = ("--plan", "watch", "--show-config", "--epochs", "3", "--server-learning-rate", "0.5")
    done = in_process(coordinator, "start", *flags, cwd=home)
    assert (done.code, done.err) == (0, "")
    rows = {line.split()[0]: line.split(maxsplit=2)[1:] for line in done.out.splitlines()}
    shown = find("watch").plan
    assert rows["train.epochs"] == ["3", "flag"]
    assert "train.local_steps" not in rows
    assert rows["strategy.learning_rate"] == ["0.5", "flag"]
    assert rows["train.learning_rate"] == [str(shown.train.learning_rate), "plan watch"]
    assert rows["strategy.name"] == [shown.strategy.name, "plan watch"]
    assert in_process(coordinator, "start", "--plan", "no-such", "--show-config", cwd=home).code == 0
