"""What a federation adds to its devices' training: rounds of real training beside the same training alone.

    python benchmarks/overhead.py

Five devices, 2,000 windows (6 x 150) each, one epoch of a 1-D CNN of 30,000 parameters. Alone: five processes with
PyTorch, the data and the model in memory train at the same moment, and the slowest is what counts. Federated:
mosquitto, ``coordinator start`` and five ``edge run`` with warm trainers, from one commit to the next. Both have the
same cores, threads, nice level and settings of malloc, which matter. Prints JSON and a table.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from broker import end_together, machine, mosquitto

from coordinator.plan_export import export, load_class
from edge.trainer.pool import child_environment
from schemas import plan_file

DEVICES = 5
WINDOWS = 2000
SHAPE = (6, 150)
CLASSES = tuple("abcdefg")
NICE = 10
MODULE = """
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv1d(6, 40, 7, stride=2, padding=3), nn.ReLU(),
            nn.Conv1d(40, 64, 5, stride=2, padding=2), nn.ReLU(),
            nn.Conv1d(64, 72, 3, padding=1), nn.ReLU(),
            nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(72, 7),
        )

    def forward(self, x):
        return self.layers(x)
"""


def prepare(folder: Path) -> Path:
    """The plan's file; each device's windows are beside it."""
    source, path = folder / "net.py", folder / "net.plan"
    source.write_text(MODULE)
    plan_file.write(export(load_class(f"{source}:Net"), "net", {"x": SHAPE}, classes=CLASSES, seeded=True), path)
    for number in range(DEVICES):
        rng = np.random.default_rng(number)
        labels = np.array([CLASSES[label] for label in rng.integers(0, len(CLASSES), WINDOWS)])
        np.savez(folder / f"{number}.npz", x=rng.standard_normal((WINDOWS, *SHAPE)).astype(np.float32), y=labels)
    return path


def alone(folder: Path, times: int) -> list[float]:
    """Seconds until the slowest of five trainings has ended, each of ``times`` times."""
    with ExitStack() as stack:
        trainers = [
            stack.enter_context(
                subprocess.Popen(
                    [sys.executable, __file__, "--be-alone", str(folder), str(number)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                    env={**os.environ, **child_environment(1)},
                    start_new_session=True,  # as the trainers have, which the kernel may share processors out by
                )
            )
            for number in range(DEVICES)
        ]
        instants = []
        for _ in range(times + 1):
            for trainer in trainers:
                assert trainer.stdout is not None
                trainer.stdout.readline()
            instants.append(time.perf_counter())
            for trainer in trainers:
                assert trainer.stdin is not None
                trainer.stdin.write("go\n")
                trainer.stdin.flush()
        for trainer in trainers:
            trainer.kill()
    return [after - before for before, after in itertools.pairwise(instants)]


def be_alone(folder: Path, number: str) -> None:
    """Train once for each line on standard input, and say when ready for the next."""
    import torch  # noqa: PLC0415 - of this process alone

    from edge.dataspec import DataSpec  # noqa: PLC0415
    from edge.sources import prepare as read  # noqa: PLC0415
    from edge.training.loop import train  # noqa: PLC0415
    from edge.training.plan_fit import fit  # noqa: PLC0415

    os.nice(NICE)
    torch.set_num_threads(1)
    found = plan_file.find(str(folder / "net.plan"))
    data = fit(read(DataSpec(path=str(folder / f"{number}.npz"), held_out="none"), found.plan.data).train, found.plan)
    settings = found.plan.train.model_copy(update={"epochs": 1, "local_steps": None})
    train(found.initial(0), data, found.plan, settings, np.random.default_rng(0))
    print("ready", flush=True)
    for _ in sys.stdin:
        train(found.initial(0), data, found.plan, settings, np.random.default_rng(0))
        print("ready", flush=True)


def federated(folder: Path, times: int) -> list[float]:
    """Seconds from one commit to the next; the first round warms up and doesn't count."""
    with ExitStack() as stack:
        address = stack.enter_context(mosquitto())
        common = ("--broker", address)
        for number in range(DEVICES):
            options = {
                "--device": f"bench-{number}",
                "--data": folder / f"{number}.npz",
                "--held-out": "none",
                "--trainer-idle": 600,
                "--trainer-threads": 1,
                "--trainer-nice": NICE,
                "--state": folder / f"edge-{number}",
            }
            flat = [str(text) for pair in options.items() for text in pair]
            device = subprocess.Popen([sys.executable, "-m", "edge", "run", *common, *flat], stderr=subprocess.DEVNULL)
            stack.callback(device.wait)
            stack.callback(device.terminate)
        command = [sys.executable, "-m", "coordinator", "start", *common, "--json", "--no-evaluate"]
        command += ["--plan", str(folder / "net.plan"), "--epochs", "1", "--rounds", str(times + 2)]
        command += ["--devices-min", str(DEVICES), "--goal", str(DEVICES), "--state", str(folder / "coordinator")]
        coordinator = stack.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        assert coordinator.stdout is not None
        events = [json.loads(line) for line in coordinator.stdout]
    closed = [event for event in events if event["event"] == "round_closed"]
    if any(event["summary"]["outcome"] != "committed" for event in closed):
        raise SystemExit(f"a round was not committed: {closed[0]['summary']}")
    commits = [event["at"] for event in closed]
    return [after - before for before, after in itertools.pairwise(commits)][1:]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=5)
    parser.add_argument("--be-alone", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.be_alone:
        be_alone(Path(given.be_alone[0]), given.be_alone[1])
        return
    end_together()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder)
        pure, rounds = alone(folder, given.times), federated(folder, given.times)
    print(json.dumps({"alone": pure, "federated": rounds}), file=sys.stderr)
    before, after = statistics.median(pure), statistics.median(rounds)
    print(f"# {machine()}; medians of {given.times}")
    print("| alone, s | federated, s | more |")
    print("|---|---|---|")
    print(f"| {before:.2f} | {after:.2f} | {after / before - 1:.0%} |")


if __name__ == "__main__":
    main()
