"""``coordinator evaluate``: a global model out of the state directory, on recordings that lie on this machine.

Reading recordings and running a plan are a device's work, so ``edge evaluate`` does it as a child process.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from coordinator.config import CoordinatorSettings
from coordinator.export import export_model, plan_of_run
from schemas.command_line import stopping_on_signals
from schemas.errors import FedbeatError, SettingsError


def assess(settings: CoordinatorSettings, version: int | None, people: str, page: Path | None, *, as_json: bool) -> str:
    """The figures of ``version``, or of the newest model, by the settings' plan, or else by the run's.

    Raises any ``FedbeatError``, the child's included.
    """
    if not settings.data:
        raise SettingsError("where recordings with labels are must be said: add --data PATH")
    with tempfile.TemporaryDirectory() as folder:
        written = Path(folder) / "model.safetensors"
        name = export_model(settings.state, version, written).partition(" written")[0]
        model = written.rename(written.with_stem(name.replace(" ", "-")))  # page and JSON say which version it was
        plan = settings.plan or plan_of_run(settings.state)
        options = ["--plan", plan, "--model", str(model), "--data", settings.data, "--people", people]
        options += ["--page", str(page)] if page else []
        options += ["--json"] if as_json else []
        command = [sys.executable, "-m", "edge", "evaluate", *options]
        done = _run(command)
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        if done.returncode < 0:
            lines = [f"`edge evaluate` was killed ({_killed_by(-done.returncode)}): see that there is memory enough"]
        said = lines[-1].removeprefix("error: ") if lines else f"edge evaluate: exit {done.returncode}"
        error = FedbeatError(said.replace(str(model), name))  # that file is gone
        error.exit_code = max(done.returncode, FedbeatError.exit_code)
        raise error
    return done.stdout.rstrip() if as_json else f"{name}\n{done.stdout.rstrip()}"


def _run(command: list[str]) -> subprocess.CompletedProcess[str]:
    """Run our own program. A signal that ends us ends it, and is raised, so that no model stays in a folder of ours."""
    child: subprocess.Popen[str] | None = None
    stopped = False

    def stop() -> None:
        nonlocal stopped
        stopped = True
        if child is not None:
            child.terminate()

    with stopping_on_signals(stop):
        child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)  # noqa: S603
        if stopped:  # while it was started
            child.terminate()
        out, said = child.communicate()
    if stopped:
        raise KeyboardInterrupt
    return subprocess.CompletedProcess(command, child.returncode, out, said)


def _killed_by(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
