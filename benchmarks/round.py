"""Seconds a round costs without training: the same bytes and the same programs, devices that answer at once.

    python benchmarks/round.py                      # 1 and 20 MB models, 2, 10 and 50 devices, float32 and int4
    python benchmarks/round.py --mb 1 --devices 10 --codec int4

Runs mosquitto, ``coordinator start`` and processes of real device agents, whose trainer has its answer ready. A
round's time is from one commit to the next, downloads of the new model included. The coordinator's state is on disk,
with every update in its journal; the devices' is in memory, since fifty devices don't share one disk. Prints JSON and
a table.
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
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from broker import end_together, machine, memory, mosquitto

from edge.agent import MakeLink
from edge.core.jobs import Describe, Described, Failure, Job, Merge, Merged, Result, Train, Trained
from edge.fleet import Fleet, VirtualFleet
from edge.model_reader import ModelReader
from schemas import compression, plan_file
from schemas.link.address import BrokerAddress
from schemas.link.link import Link, Sink, Will
from schemas.link.mqtt import MqttLink
from schemas.link.mqtt_settings import MqttSettings
from schemas.parameters import Parameters
from schemas.plan import Plan
from schemas.topics import Topics

FEDERATION = "benchmark"
WIDTH = 128
MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None  # noqa: S108 - fifty devices have fifty cards, not our one disk
MODULE = """
from torch import nn

class Wide(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear({width}, {hidden}), nn.ReLU(), nn.Linear({hidden}, 2))

    def forward(self, x):
        return self.layers(x)
"""


class ReadyTrainer:
    """Answers each job at once with the same random delta, encoded once."""

    def __init__(self) -> None:
        self._payload = b""
        self._lock = threading.Lock()

    def submit(self, job: Job, on_result: Callable[[Result | Failure], None]) -> None:
        """Answer ``job`` on the caller's thread."""
        if isinstance(job, Describe):
            on_result(Described(key=job.key, examples=100, held_out=0, class_counts={"0": 100}))
        elif isinstance(job, Train):
            answer = Trained(key=job.key, examples=100, train_loss=1.0, seconds=0.0)
            on_result(answer.with_blobs((self._delta(job), b"")))
        elif isinstance(job, Merge):
            model = ModelReader().read(job.model, Plan.from_bytes(job.plan).manifest())
            whole = compression.encode("float32", model, np.random.default_rng(0))
            on_result(Merged(key=job.key, model=whole))
        else:
            on_result(Failure(key=job.key, kind="data", message="nothing is held out"))

    def cancel(self, key: str) -> None:
        """Every answer has already been given."""

    def suspend(self, key: str) -> None:
        """No training takes any time."""

    def warm(self) -> None:
        """It always is."""

    def _delta(self, job: Train) -> bytes:
        with self._lock:
            if not self._payload:
                rng = np.random.default_rng(0)
                manifest = Plan.from_bytes(job.plan).manifest()
                delta = Parameters(manifest, rng.normal(0, 1e-3, manifest.size).astype(np.float32))
                self._payload = compression.encode(job.codec, delta, rng)
            return self._payload


def be_the_fleet(broker: str, devices: int, state: Path) -> None:
    """A process of devices: runs until standard input closes."""
    fleet = Fleet(devices=devices, data="benchmark", state=state, held_out="none", prefix=state.name)
    virtual = VirtualFleet(fleet, Topics(FEDERATION), links(broker), ReadyTrainer())
    with virtual:
        sys.stdin.read()


def links(broker: str) -> MakeLink:
    """How the agents connect."""
    address = BrokerAddress.parse(broker)

    def make(client_id: str, sink: Sink, will: Will) -> Link:
        return MqttLink(MqttSettings(address, client_id), sink, will)

    return make


def make_plan(mb: float, folder: Path) -> Path:
    """A plan of ``mb`` MB of float32 parameters."""
    from coordinator.plan_export import export, load_class  # noqa: PLC0415 - only the parent needs torch

    hidden = int(mb * 250_000 / (WIDTH + 3))
    source = folder / f"wide_{hidden}.py"  # a name of its own: Python's cache of bytecode goes by seconds
    source.write_text(MODULE.format(width=WIDTH, hidden=hidden))
    path = folder / "wide.plan"
    module = load_class(f"{source}:Wide")
    plan_file.write(export(module, "wide", {"x": (WIDTH,)}, classes=("a", "b"), seeded=True), path)
    return path


def measure(mb: float, devices: int, codec: str, rounds: int) -> dict[str, Any]:
    """One run's figures."""
    with tempfile.TemporaryDirectory() as name, mosquitto() as broker:
        folder = Path(name)
        with fleets(broker, devices) as processes:
            command = [sys.executable, "-m", "coordinator", "start", "--json", "--no-evaluate"]
            options = {
                "--broker": broker,
                "--federation": FEDERATION,
                "--plan": make_plan(mb, folder),
                "--rounds": rounds,
                "--devices-min": devices,
                "--goal": devices,
                "--codec": codec,
                "--state": folder / "coordinator",
            }
            command += [text for name, value in options.items() for text in (name, str(value))]
            with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as coordinator:
                assert coordinator.stdout is not None
                figures = watch(coordinator.stdout, coordinator.pid, processes, devices)
    return {"mb": mb, "devices": devices, "codec": codec, **figures}


@contextmanager
def fleets(broker: str, devices: int) -> Iterator[list[int]]:
    """Processes that share the devices, one a core, so that Python's lock isn't what fifty devices share; their ids."""
    count = min(devices, os.cpu_count() or 1)
    with ExitStack() as stack:
        cards = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=MEMORY)))
        children = []
        for number in range(count):
            share = str(devices // count + (number < devices % count))
            command = [sys.executable, __file__, "--be-the-fleet", broker, share, str(cards / f"fleet-{number}")]
            children.append(stack.enter_context(subprocess.Popen(command, stdin=subprocess.PIPE)))
        yield [child.pid for child in children]
        for child in children:
            assert child.stdin is not None
            child.stdin.close()
            child.wait()


def watch(lines: Iterable[str], coordinator: int, fleets: list[int], devices: int) -> dict[str, Any]:
    """The figures of a run, from the coordinator's events; the first round warms up and doesn't count."""
    commits: list[float] = []
    peak = fleet_peak = uplink = 0.0
    for line in lines:
        event = json.loads(line)
        if event["event"] == "round_closed" and event["summary"]["outcome"] == "committed":
            commits.append(event["at"])
            uplink = event["summary"]["uplink_bytes"] / devices
            peak = max(peak, memory(coordinator))
            fleet_peak = max(fleet_peak, sum(memory(pid) for pid in fleets))
    seconds = [after - before for before, after in itertools.pairwise(commits)]
    return {
        "seconds": round(statistics.median(seconds), 3),
        "seconds_min": round(min(seconds), 3),
        "seconds_max": round(max(seconds), 3),
        "coordinator_mb": round(peak, 1),
        "devices_mb": round(fleet_peak, 1),
        "uplink_kb": round(uplink / 1e3, 1),
    }


def main() -> None:
    """Run the cases asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mb", type=float, nargs="*", default=[1.0, 20.0])
    parser.add_argument("--devices", type=int, nargs="*", default=[2, 10, 50])
    parser.add_argument("--codec", nargs="*", default=["float32", "int4"])
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--be-the-fleet", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.be_the_fleet:
        broker, devices, state = given.be_the_fleet
        be_the_fleet(broker, int(devices), Path(state))
        return
    end_together()
    print(f"# {machine()}; medians of {given.rounds - 1} rounds")
    print("| model | codec | devices | s a round | min | max | coordinator MB | all devices MB | kB up a device |")
    print("|---|---|---|---|---|---|---|---|---|")
    for mb in given.mb:
        for codec in given.codec:
            for devices in given.devices:
                f = measure(mb, devices, codec, given.rounds)
                print(json.dumps(f), file=sys.stderr)
                times = f"{f['seconds']} | {f['seconds_min']} | {f['seconds_max']}"
                sizes = f"{f['coordinator_mb']} | {f['devices_mb']} | {f['uplink_kb']}"
                print(f"| {mb:g} MB | {codec} | {devices} | {times} | {sizes} |", flush=True)


if __name__ == "__main__":
    main()
