"""What an update codec costs the model: ``ecg-beats`` on de Chazal's split, by codec and seed.

    python benchmarks/ecg_codecs.py --data ../shared/data/mitdb --codecs float32 int8 int4 topk --seeds 0 1 2

Each run is ``ecg_beats.py``'s: 22 devices, one patient each, 25 rounds of one local epoch, evaluated beat by beat on
DS2. Prints macro-F1 over N, S and V, V's F1, and the bytes of a device and round: its update up, and the step down to
the next model (of the versions kept on disk). Minutes a run.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path
from typing import Any

from broker import machine
from ecg_beats import measure, spread

CODECS = ("float32", "int8", "int4", "eden2", "eden1", "topk10", "topk")


def figures(run: dict[str, Any]) -> dict[str, float]:
    """What the table shows of one run."""
    metrics = run["metrics"]
    v = next(each for each in metrics["classes"] if each["name"] == "V")
    return {
        "macro_f1": metrics["macro_f1"],
        "v_f1": v["f1"] or 0.0,
        "accuracy": metrics["accuracy"],
        "up_kb": run["uplink_kb"],
        "down_kb": run["step_kb"],
    }


def main() -> None:
    """Run the codecs and seeds asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the MIT-BIH records")
    parser.add_argument("--codecs", nargs="*", default=list(CODECS))
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--rounds", type=int, default=25)
    given = parser.parse_args()
    print(f"# {machine()}; {given.rounds} rounds; seeds {', '.join(map(str, given.seeds))}")
    print("| codec | macro-F1 (N, S, V) | V F1 | accuracy | kB up | kB down |")
    print("|---|---|---|---|---|---|")
    for codec in given.codecs:
        runs = []
        for seed in given.seeds:
            run = measure(given.data, seed, given.rounds, "--codec", codec)
            print(json.dumps({"codec": codec, **run}), file=sys.stderr, flush=True)
            runs.append(figures(run))
        scores = (spread((run[name] for run in runs), 3) for name in ("macro_f1", "v_f1", "accuracy"))
        sizes = (f"{statistics.mean(run[name] for run in runs):.3f}" for name in ("up_kb", "down_kb"))
        print(f"| {codec} | {' | '.join((*scores, *sizes))} |", flush=True)


if __name__ == "__main__":
    main()
