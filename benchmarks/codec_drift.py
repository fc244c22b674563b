"""How far a codec leaves the model from where it would be without loss, over rounds: what ``--codec auto`` goes by.

    python benchmarks/codec_drift.py --data ../shared/data/mitdb --kept /tmp/deltas

The updates are those of 22 devices in the first 25 rounds of ``ecg-beats`` in float32, trained in this process and kept
in a folder. Each codec encodes them in turn, what it leaves out being fed back to the same device's next, and their
means add up; every device takes part in every round. Drift is the distance of the sum over the length of the
sum without loss, the mean over the rounds. Prints a table. Training takes ten minutes of a core.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path

import numpy as np
from broker import machine
from numpy.typing import NDArray
from updates import all_deltas

from schemas import compression
from schemas.parameters import Manifest, Parameters

CODECS = ("int8", "eden4", "eden3", "int4", "eden2", "topk10", "eden1", "topk")


def drift(name: str, manifest: Manifest, deltas: NDArray[np.float32]) -> tuple[float, float, float, float]:
    """Mean and largest bytes of an update, mean drift, and that after the last round."""
    left = np.zeros(deltas.shape[1:], np.float32)
    lossy, exact = np.zeros(manifest.size), np.zeros(manifest.size)
    sizes, drifts = [], []
    for number, row in enumerate(deltas):
        for index, delta in enumerate(row):
            total = Parameters(manifest, delta + left[index])
            payload = compression.encode(name, total, np.random.default_rng((number, index)))
            decoded = compression.decode(payload, manifest).flat
            if compression.TABLE[name].FEEDBACK:
                left[index] = total.flat - decoded
            sizes.append(len(payload))
            lossy += decoded
            exact += delta
        drifts.append(float(np.linalg.norm(lossy - exact) / np.linalg.norm(exact)))
    return statistics.mean(sizes), max(sizes), statistics.mean(drifts), drifts[-1]


def main() -> None:
    """Try every codec asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the MIT-BIH records")
    parser.add_argument("--kept", type=Path, default=Path(tempfile.gettempdir()) / "fedbeat-deltas")
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--codecs", nargs="*", default=CODECS)
    given = parser.parse_args()
    manifest, deltas = all_deltas(given.data, given.kept, given.rounds)
    print(f"# {machine()}; {given.rounds} rounds, {deltas.shape[1]} devices")
    print("| codec | kB, mean | most | drift, mean over rounds | after the last |\n|---|---|---|---|---|")
    for name in given.codecs:
        mean, most, drifted, last = drift(name, manifest, deltas)
        print(f"| {name} | {mean / 1e3:.2f} | {most / 1e3:.2f} | {drifted:.4f} | {last:.4f} |", flush=True)


if __name__ == "__main__":
    main()
