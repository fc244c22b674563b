"""How well ``ecg-beats`` does on people it has never seen: de Chazal's DS1 trains, DS2 tests.

    python benchmarks/ecg_beats.py --data ../shared/data/mitdb --seeds 0 1 2 --beside

Runs the command of the README for each seed: 22 virtual devices, one patient each, 25 rounds. Prints the last model's
accuracy, macro-F1 over N, S and V, and each class's sensitivity and PPV, beat by beat on DS2. Some minutes a
seed.

With ``--beside`` also the F1 of the classes with intervals over draws of DS2's patients, without record 202, whose
person is in DS1 too, and without 232, which has three in four of DS2's S beats; and beside it, in this process, the
same model trained centrally for 8 epochs, each DS1 patient's own for 25, and a rule with thresholds chosen on DS1;
then means and standard deviations over the seeds.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from broker import end_together, machine
from ecg_patients import FILE, chosen, confusion, figures, interval, patients, ruled, score
from people import Confusion, central

from coordinator.models import ModelStore
from edge.sources.wfdb_records import DS1, DS2
from schemas.parameters import Parameters

SHOWN = ("N", "S", "V")


def measure(
    data: Path,
    seed: int,
    rounds: int,
    *more: str,
    models: dict[int, Parameters] | None = None,
    plan: str = "ecg-beats",
    devices: int = 22,
) -> dict[str, Any]:
    """One run's last metrics, and the bytes of a device and round; ``more`` are options of the command.

    The last model is added to ``models`` by its seed.
    """
    with tempfile.TemporaryDirectory() as state:
        options = {"--plan": plan, "--virtual": devices, "--data": data, "--rounds": rounds, "--seed": seed}
        flat = [str(text) for pair in {**options, "--state": state}.items() for text in pair]
        command = [sys.executable, "-m", "coordinator", "start", "--json", *flat, *more]
        began = time.monotonic()
        ended = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
        if ended.returncode:  # its own words are on standard error
            raise SystemExit(f"the coordinator ended with exit code {ended.returncode}")
        lines = ended.stdout.splitlines()
        steps = step_sizes(Path(state))
        store = ModelStore(Path(state) / "models")
        if models is not None:
            models[seed] = store.load(store.versions()[-1]).parameters
    events = [json.loads(line) for line in lines]
    evaluated = [event for event in events if event["event"] == "model_evaluated"]
    updates = [event for event in events if event["event"] == "update_accepted" and event["task"] == "train"]
    uplink = statistics.mean(update["size"] for update in updates)
    return {
        "seed": seed,
        "seconds": round(time.monotonic() - began),
        "uplink_kb": round(uplink / 1e3, 3),
        "step_kb": round(statistics.mean(steps) / 1e3, 3) if steps else 0.0,
        "rounds": [[round(e["metrics"]["accuracy"], 4), round(e["metrics"]["macro_f1"] or 0.0, 4)] for e in evaluated],
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
    figures = (
        f"{classes[name]['sensitivity']:.3f} / {_or_none(classes[name]['ppv'])} / {classes[name]['f1']:.3f}"
        for name in SHOWN
    )
    head = f"| {run['seed']} | {metrics['accuracy']:.3f} | {metrics['macro_f1']:.3f} | "
    return head + " | ".join(figures) + f" | {run['uplink_kb']} | {run['step_kb']} | {run['seconds']} |"


def _or_none(value: float | None) -> str:
    """A PPV as a cell; nothing is predictive where nothing was predicted."""
    return "none" if value is None else f"{value:.3f}"


def spread(values: Iterable[float], digits: int) -> str:
    """Mean and standard deviation over seeds."""
    found = list(values)
    deviation = f" ± {statistics.stdev(found):.{digits}f}" if len(found) > 1 else ""
    return f"{statistics.mean(found):.{digits}f}{deviation}"


def beside(data: Path, models: dict[int, Parameters]) -> None:
    """The table of ``--beside``: the runs' models, and what was made of the same patients in other ways."""
    people = patients(data)
    devices, tested = [people[name] for name in DS1], {name: people[name] for name in DS2}

    def tables(model: Parameters) -> dict[str, Confusion]:
        return {name: confusion(model, beats) for name, beats in tested.items()}

    found: dict[str, list[Sequence[float]]] = {}

    def line(way: str, seed: int | None, each: dict[str, Confusion], without: str = "") -> None:
        kept = {name: table for name, table in each.items() if name != without}
        found.setdefault(way, []).append(values := figures(score(np.sum(list(kept.values()), axis=0))))
        bounds = zip(values, *interval(kept), strict=True)
        named = way if seed is None else f"{way}, seed {seed}"
        print(f"| {named} | {' | '.join(f'{v:.3f} ({low:.2f}-{high:.2f})' for v, low, high in bounds)} |", flush=True)

    head = f"| way | accuracy | macro-F1 (N, S, V) | {' | '.join(f'{name} F1' for name in SHOWN)} |\n{'|---' * 6}|"
    print(head)
    for seed, model in models.items():
        federated = tables(model)
        line("federated", seed, federated)
        for record in ("202", "232"):
            line(f"federated, without {record}", seed, federated, record)
        line("central", seed, tables(central(FILE, devices, 8, seed)))
    rule = chosen(devices)
    line("rule", None, {name: ruled(rule, beats) for name, beats in tested.items()})
    for seed in models:
        alone = [
            figures(score(np.sum(list(tables(central(FILE, [own], 25, seed)).values()), axis=0))) for own in devices
        ]
        found.setdefault("a patient's own, median of 22", []).append(np.median(alone, axis=0).tolist())
    print(f"\nMeans and standard deviations over the seeds:\n\n{head}")
    for way, runs in found.items():
        print(f"| {way} | {' | '.join(spread(column, 3) for column in zip(*runs, strict=True))} |")


def main() -> None:
    """Run the seeds asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the MIT-BIH records")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--beside", action="store_true", help="compare with other ways of training")
    given = parser.parse_args()
    end_together()
    models: dict[int, Parameters] = {}
    print(f"# {machine()}; {given.rounds} rounds")
    columns = " | ".join(f"{name} Se / PPV / F1" for name in SHOWN)
    print(f"| seed | accuracy | macro-F1 (N, S, V) | {columns} | kB up a device and round | kB down | s |")
    print("|---|---|---|---|---|---|---|---|---|")
    for seed in given.seeds:
        run = measure(given.data, seed, given.rounds, models=models)
        print(json.dumps(run), file=sys.stderr)
        print(row(run), flush=True)
    if given.beside:
        beside(given.data, models)


if __name__ == "__main__":
    main()
