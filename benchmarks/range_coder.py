"""Whether a range coder should take zstd's place behind int8 and int4: bytes of real ECG updates, and speed.

    venv/bin/python benchmarks/range_coder.py --data ../shared/data/mitdb --kept /tmp/deltas

The coder is the package ``constriction`` (``pip install constriction``; no dependency of ours: without it this says so
and measures nothing). It codes each tensor's levels by a Laplace distribution whose scale takes a byte, which costs no
table. Levels are rounded at random once more, so bytes differ from the payload's by chance as well. Prints a table.
"""

from __future__ import annotations

import argparse
import math
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from broker import machine
from int4_steps import RULES, WIDTH, steps
from updates import deltas, normal

from schemas import compression
from schemas.compression import grid
from schemas.compression.dither import SEEDS
from schemas.parameters import Flat, Parameters

FARTHEST = 127


def levels(codec: str, update: Parameters, seed: int) -> list[Flat]:
    """Each tensor's, rounded at random."""
    if codec == "int4":
        each, _ = steps(update, *RULES[f"{WIDTH} of their geometric mean"])
    else:
        by_tensor = grid.steps(update, FARTHEST, codec)
        each = np.repeat(by_tensor, [where.stop - where.start for where in update.manifest.slices()])
    rounded = np.floor(update.flat / each + np.random.default_rng(seed).random(each.size, np.float32))
    return [rounded[where].astype(np.int32) for where in update.manifest.slices()]


def scale(tensor: Flat) -> float:
    """Of a Laplace distribution, from one of 256, each 5 % more than the last."""
    byte = round(math.log(max(float(np.abs(tensor).mean()), 1e-3) / 1e-3, 1.05))
    return 1e-3 * 1.05 ** min(byte, 255)


def coded(constriction: Any, tensors: list[Flat]) -> bytes:
    """By the range coder, without the scales."""
    encoder = constriction.stream.queue.RangeEncoder()
    for tensor in tensors:
        far = max(FARTHEST, int(np.abs(tensor).max(initial=0)))
        encoder.encode(tensor, constriction.stream.model.QuantizedLaplace(-far, far, 0.0, scale(tensor)))
    return encoder.get_compressed().tobytes()  # type: ignore[no-any-return]  # constriction has no types


def row(constriction: Any, codec: str, updates: list[Parameters]) -> str:
    """Mean bytes of an update either way, and MB of float32 that the range coder takes in a second of a core."""
    tensors, step = len(updates[0].manifest.tensors), 2 if codec == "int4" else 4
    front = compression.HEADER.size + (step + 1) * tensors + SEEDS.itemsize * (codec == "int4")  # and scales
    ours, theirs, spent = [], [], 0.0
    for seed, update in enumerate(updates):
        ours.append(len(compression.encode(codec, update, np.random.default_rng(seed))))
        rounded = levels(codec, update, seed)
        began = time.process_time()
        theirs.append(front + len(coded(constriction, rounded)))
        spent += time.process_time() - began
    zstd, coder = statistics.mean(ours), statistics.mean(theirs)
    speed = sum(update.flat.nbytes for update in updates) / spent / 1e6
    return f"{zstd:.0f} | {coder:.0f} | {100 * (1 - coder / zstd):.1f} | {speed:.0f}"


def main() -> None:
    """Measure both codecs on every round asked for, and on normal values."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the MIT-BIH records")
    parser.add_argument("--kept", type=Path, default=Path(tempfile.gettempdir()) / "fedbeat-deltas")
    parser.add_argument("--rounds", type=int, nargs="*", default=[3, 12], help="whose updates")
    given = parser.parse_args()
    try:
        import constriction  # type: ignore[import-not-found]  # noqa: PLC0415 - not a dependency of ours
    except ImportError:
        raise SystemExit("skipped: it takes the package constriction (pip install constriction)") from None
    print(f"# {machine()}")
    print("| values | codec | zstd, bytes | range coder | less, % | MB/s |\n|---|---|---|---|---|---|")
    for number in given.rounds:
        for codec in ("int8", "int4"):
            found = row(constriction, codec, deltas(given.data, given.kept, number))
            print(f"| ECG, round {number} | {codec} | {found} |", flush=True)
    for codec in ("int8", "int4"):
        print(f"| normal | {codec} | {row(constriction, codec, normal(1_000_000))} |", flush=True)


if __name__ == "__main__":
    main()
