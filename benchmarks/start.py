"""From the command to the first committed round, and what an idle device costs.

    python benchmarks/start.py

Starts mosquitto, then ``coordinator start`` and two ``edge run`` at the same moment, each device with one person's real
smartwatch windows; the clock runs until the first round is committed. Afterwards, with the coordinator gone and the
trainer child ended, reads the device's memory. Prints JSON and a table.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from broker import end_together, machine, memory, mosquitto

from edge.sources import load

PEOPLE = ("person-01", "person-02")
IDLE_LIMIT_S = 60.0


def recordings(folder: Path) -> list[Path]:
    """One person's windows in a file each, as a device would have them."""
    watch = load("watch", "watch")
    paths = []
    for person in PEOPLE:
        own = watch.take(np.flatnonzero(watch.owners == person))
        paths.append(folder / f"{person}.npz")
        np.savez(paths[-1], x=own.inputs[0], y=np.array([own.classes[k] for k in own.labels]))
    return paths


@contextmanager
def process(*arguments: object, **options: Any) -> Iterator[subprocess.Popen[str]]:
    """One of our commands, ended with the block."""
    command = [sys.executable, *(str(argument) for argument in arguments)]
    child = subprocess.Popen(command, text=True, **options)
    try:
        yield child
    finally:
        child.terminate()
        child.wait()


def measure(folder: Path) -> dict[str, float]:
    """One start, from nothing."""
    with ExitStack() as stack:
        broker = stack.enter_context(mosquitto())
        files = recordings(folder)
        began = time.monotonic()
        devices = [
            stack.enter_context(
                process(
                    *("-m", "edge", "run", "--broker", broker, "--device", f"bench-{number}", "--data", path),
                    *("--held-out", "none", "--trainer-idle", "1", "--state", folder / f"edge-{number}"),
                    stderr=subprocess.DEVNULL,
                )
            )
            for number, path in enumerate(files)
        ]
        options = ("--plan", "watch", "--rounds", 1, "--devices-min", 2, "--goal", 2, "--no-evaluate", "--json")
        coordinator = stack.enter_context(
            process(
                *("-m", "coordinator", "start", "--broker", broker, "--state", folder / "coordinator", *options),
                stdout=subprocess.PIPE,
            )
        )
        assert coordinator.stdout is not None
        events = (json.loads(line)["event"] for line in coordinator.stdout)
        if "round_closed" not in events:
            raise SystemExit("the coordinator ended without a round: run it by hand to see why")
        seconds = time.monotonic() - began
        coordinator.wait()
        idle = [wait_until_idle(device.pid) for device in devices]
    return {"first_round_s": round(seconds, 2), "idle_mb": round(max(idle), 1)}


def wait_until_idle(pid: int) -> float:
    """A device's memory in MB once its trainer child has ended."""
    device = psutil.Process(pid)
    deadline = time.monotonic() + IDLE_LIMIT_S
    while device.children():
        if time.monotonic() > deadline:
            raise SystemExit(f"the trainer child of process {pid} is still there after {IDLE_LIMIT_S:g} s")
        time.sleep(0.05)
    return memory(pid, "VmRSS")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=5)
    given = parser.parse_args()
    end_together()
    runs = []
    for _ in range(given.times):
        with tempfile.TemporaryDirectory() as folder:
            runs.append(measure(Path(folder)))
            print(json.dumps(runs[-1]), file=sys.stderr)
    print(f"# {machine()}; medians of {given.times}")
    print("| first round committed, s | min | max | idle edge run, MB |")
    print("|---|---|---|---|")
    seconds = [run["first_round_s"] for run in runs]
    idle = statistics.median(run["idle_mb"] for run in runs)
    print(f"| {statistics.median(seconds)} | {min(seconds)} | {max(seconds)} | {idle} |")


if __name__ == "__main__":
    main()
