"""Flower (``flwr`` from PyPI) in a virtual environment of its own, for the benchmarks that stand beside it.

torch is not installed a second time: a ``.pth`` file puts our own packages behind Flower's on its path.
"""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from broker import free_port, wait_for

ROOT: Final = Path(__file__).parents[1]
START_S: Final = 60.0
END_S: Final = 15.0

PYPROJECT: Final = """
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "watch-app"
version = "1.0.0"
dependencies = []

[tool.hatch.build.targets.wheel]
packages = ["."]

[tool.flwr.app]
publisher = "benchmark"

[tool.flwr.app.components]
serverapp = "server_app:app"
clientapp = "client_app:app"

[tool.flwr.app.config]
rounds = {rounds}
"""
SERVER: Final = """
from flwr.app import ArrayRecord, ConfigRecord, Context
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

from coordinator.plans.watch import Watch

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    strategy = FedAvg(fraction_train=1.0, fraction_evaluate=0.0, min_train_nodes=1, min_available_nodes=1)
    strategy.start(grid=grid, initial_arrays=ArrayRecord(Watch().state_dict()), num_rounds=context.run_config["rounds"])
"""
CLIENT: Final = """
import numpy as np
import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from coordinator.plans.watch import Watch

app = ClientApp()
torch.set_num_threads(1)


@app.train()
def train(message: Message, context: Context) -> Message:
    model = Watch()
    model.load_state_dict(message.content["arrays"].to_torch_state_dict())
    with np.load(context.node_config["data"]) as file:
        windows = torch.from_numpy(file["x"].astype(np.float32))
        labels = torch.from_numpy(np.unique(file["y"], return_inverse=True)[1])
    optimiser = torch.optim.Adam(model.parameters(), lr=0.003)
    for _ in range(5):
        for batch in torch.randperm(len(labels)).split(32):
            optimiser.zero_grad()
            torch.nn.functional.cross_entropy(model(windows[batch]), labels[batch]).backward()
            optimiser.step()
    metrics = MetricRecord({"num-examples": len(labels)})
    content = RecordDict({"arrays": ArrayRecord(model.state_dict()), "metrics": metrics})
    return Message(content=content, reply_to=message)
"""


@dataclass
class Node:
    """A SuperNode at work."""

    pid: int
    ready: bool = False  # the SuperLink has given it a number


@dataclass(frozen=True)
class Flower:
    """An installed Flower."""

    folder: Path
    version: str

    @property
    def environment(self) -> dict[str, str]:
        """What its programs are to see: one another on the path, and a home of their own."""
        path = f"{self.folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
        home = {"FLWR_HOME": str(self.folder / "home"), "FLWR_TELEMETRY_ENABLED": "0", "PYTHONPATH": str(ROOT)}
        return {**os.environ, **home, "PATH": path}

    @contextmanager
    def superlink(self) -> Iterator[int]:
        """A SuperLink; its port."""
        port = free_port()
        with self._started("flower-superlink", "--insecure", "--port", str(port)):
            wait_for(port, START_S)
            yield port

    @contextmanager
    def supernode(self, port: int, data: Path | None = None) -> Iterator[Node]:
        """A SuperNode that looks for its SuperLink on ``port``."""
        config = ("--node-config", f'data="{data}"') if data else ()
        node_port = ("--port", str(free_port()))
        with self._started(
            "flower-supernode", "--insecure", "--superlink", f"127.0.0.1:{port}", *node_port, *config
        ) as one:
            node = Node(one.pid)

            def listen() -> None:
                assert one.stdout is not None
                for line in one.stdout:
                    node.ready = node.ready or "SuperNode ID" in line

            threading.Thread(target=listen, daemon=True).start()
            yield node

    @contextmanager
    def run(self, port: int, folder: Path, rounds: int) -> Iterator[subprocess.Popen[str]]:
        """``flwr run`` of an app that trains like the plan ``watch``; it ends with the run."""
        app = folder / "watch-app"
        app.mkdir()
        (app / "pyproject.toml").write_text(PYPROJECT.format(rounds=rounds))
        (app / "server_app.py").write_text(SERVER)
        (app / "client_app.py").write_text(CLIENT)
        home = self.folder / "home"
        home.mkdir(exist_ok=True)
        (home / "config.toml").write_text(
            f'[superlink]\ndefault = "here"\n\n[superlink.here]\naddress = "127.0.0.1:{port}"\ninsecure = true\n'
        )
        with self._started("flwr", "run", str(app), "here", "--stream") as running:
            threading.Thread(target=lambda: [None for _ in running.stdout or ()], daemon=True).start()
            yield running

    @contextmanager
    def _started(self, program: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
        command = [str(self.folder / "bin" / program), *arguments]
        child = subprocess.Popen(
            command, env=self.environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        if program == "flower-superlink":
            threading.Thread(target=lambda: [None for _ in child.stdout or ()], daemon=True).start()
        try:
            yield child
        finally:
            child.terminate()
            try:
                child.wait(END_S)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()


def install(folder: Path) -> Flower | None:
    """Flower, installed in a virtual environment in ``folder``; None, with a message, where that can't be."""
    python = folder / "bin" / "python"
    try:
        if not (folder / "bin" / "flower-supernode").exists():
            subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
            subprocess.run([str(python), "-m", "pip", "install", "--quiet", "flwr"], check=True)
        ask = [
            str(python),
            "-c",
            "import flwr, sysconfig; print(flwr.__version__); print(sysconfig.get_paths()['purelib'])",
        ]
        version, packages = subprocess.run(ask, check=True, capture_output=True, text=True).stdout.split()[-2:]
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"Flower is left out: it can't be installed into {folder} ({error})", file=sys.stderr)
        return None
    Path(packages, "behind.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    return Flower(folder, version)
