"""How well ``ecg-beats`` does on people it has never seen: de Chazal's DS1 trains, DS2 tests.

    python benchmarks/ecg_beats.py --data ../shared/data/mitdb --seeds 0 1 2

Runs the command of the README for each seed: 22 virtual devices, one patient each, 25 rounds. Prints the last model's
accuracy, macro-F1 over N, S and V, and each class's sensitivity and PPV, beat by beat on DS2. Some minutes a
seed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from broker import machine

from coordinator.models import ModelStore

SHOWN = ("N", "S", "V")


def measure(data: Path, seed: int, rounds: int, *more: str) -> dict[str, Any]:
    """One run's last metrics, and the bytes of a device and round; ``more`` are options of the command."""
    with tempfile.TemporaryDirectory() as state:
        options = {"--plan": "ecg-beats", "--virtual": 22, "--data": data, "--rounds": rounds, "--seed": seed}
        flat = [str(text) for pair in {**options, "--state": state}.items() for text in pair]
        command = [sys.executable, "-m", "coordinator.cli", "start", "--json", *flat, *more]
        began = time.monotonic()
        lines = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines()
        steps = step_sizes(Path(state))
    events = [json.loads(line) for line in lines]
    evaluated = [event for event in events if event["event"] == "model_evaluated"]
    closed = [event["summary"] for event in events if event["event"] == "round_closed"]
    uplink = sum(summary["uplink_bytes"] for summary in closed) / rounds / 22
    return {
        "seed": seed,
        "seconds": round(time.monotonic() - began),
        "uplink_kb": round(uplink / 1e3, 2),
        "step_kb": round(statistics.mean(steps) / 1e3, 2) if steps else 0.0,
        "rounds": [[round(e["metrics"]["accuracy"], 4), round(e["metrics"]["macro_f1"], 4)] for e in evaluated],
        "metrics": evaluated[-1]["metrics"],
    }


def step_sizes(state: Path) -> list[int]:
    """Bytes of the steps to the versions that are still on disk."""
    models = ModelStore(state / "models")
    return [len(step) for step in (models.load(version).step for version in models.versions()) if step]


def row(run: dict[str, Any]) -> str:
    """One run as a line of the table."""
    metrics = run["metrics"]
    classes = {each["name"]: each for each in metrics["classes"]}
    figures = (f"{classes[name]['sensitivity']:.3f} / {classes[name]['ppv'] or 0:.3f}" for name in SHOWN)
    head = f"| {run['seed']} | {metrics['accuracy']:.3f} | {metrics['macro_f1']:.3f} | "
    return head + " | ".join(figures) + f" | {run['uplink_kb']} | {run['step_kb']} | {run['seconds']} |"


def main() -> None:
    """Run the seeds asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the MIT-BIH records")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--rounds", type=int, default=25)
    given = parser.parse_args()
    print(f"# {machine()}; {given.rounds} rounds")
    columns = " | ".join(f"{name} Se / PPV" for name in SHOWN)
    print(f"| seed | accuracy | macro-F1 (N, S, V) | {columns} | kB up a device and round | kB down | s |")
    print("|---|---|---|---|---|---|---|---|---|")
    for seed in given.seeds:
        run = measure(given.data, seed, given.rounds)
        print(json.dumps(run), file=sys.stderr)
        print(row(run), flush=True)


if __name__ == "__main__":
    main()
