"""How wide int4's steps should be, and over what: bytes and error of some rules, on real ECG updates and normal values.

    python benchmarks/int4_steps.py --data ../shared/data/mitdb --kept /tmp/deltas

A rule sets a step for each piece of an update, which is a tensor, or so many neighbouring values of one. Levels, levels
that stand apart, and zstd are int4's own; the error is the squared distance over the squared norm of one update, read
with its draws taken back and as it came, and of the mean over the devices. Prints a table.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from broker import machine
from updates import deltas, normal

from schemas import compression
from schemas.compression import entropy
from schemas.compression.dither import SEEDS
from schemas.compression.int4 import UPDATES
from schemas.parameters import Flat, Parameters

LEVELS = 7
Rule = Callable[[Flat, float], float]  # a piece's values, and the model's root mean square: its step


def _deviation(values: Flat) -> float:
    return float(np.sqrt(np.square(values, dtype=np.float64).mean()))


def _between(piece: Flat, model: float) -> float:
    return float(np.sqrt(_deviation(piece) * model))


WIDTH = UPDATES.width
RULES: dict[str, tuple[Rule, int | None]] = {
    "largest / 7, a tensor": (lambda piece, _: float(np.abs(piece).max()) / LEVELS, None),
    f"{WIDTH} of the tensor's deviation": (lambda piece, _: WIDTH * _deviation(piece), None),
    f"{WIDTH} of the model's deviation": (lambda _, model: WIDTH * model, None),
    f"{WIDTH} of their geometric mean": (lambda piece, model: WIDTH * _between(piece, model), None),
    "1.0 of it": (_between, None),
    "1.3 of it": (lambda piece, model: 1.3 * _between(piece, model), None),
    "2.0 of it": (lambda piece, model: 2.0 * _between(piece, model), None),
    f"{WIDTH} of it, over 1024 values": (lambda piece, model: WIDTH * _between(piece, model), 1024),
    f"{WIDTH} of it, over 256 values": (lambda piece, model: WIDTH * _between(piece, model), 256),
}


def steps(update: Parameters, rule: Rule, width: int | None) -> tuple[Flat, int]:
    """The step of each value, and how many there are."""
    found, count, model = np.empty_like(update.flat), 0, _deviation(update.flat)
    for where in update.manifest.slices():
        for start in range(where.start, where.stop, width or update.manifest.size):
            piece = slice(start, min(start + (width or update.manifest.size), where.stop))
            found[piece] = max(rule(update.flat[piece], model) * (1 + 2.0**-20), 2.0**-126)
            count += 1
    return found, count


def packed(levels: Flat, count: int) -> int:
    """Bytes of the payload."""
    apart = np.abs(levels) > LEVELS
    near = np.zeros(levels.size + levels.size % 2, np.int8)
    near[: levels.size] = np.where(apart, 0, levels)
    nibbles = near.view(np.uint8) & 15
    far = np.flatnonzero(apart).astype("<u2").tobytes() + levels[apart].astype("<i2").tobytes()
    body = (nibbles[1::2] << 4 | nibbles[::2]).tobytes() + far
    _, data = entropy.pack(memoryview(body))
    return compression.HEADER.size + 2 * count + SEEDS.itemsize + len(data)  # steps and seed don't pack


class Figures(NamedTuple):
    """Bytes, and the error of one, of one whose draws aren't taken back, and of the mean."""

    size: float
    error: float
    as_it_came: float
    of_the_mean: float


def measure(updates: list[Parameters], rule: Rule, width: int | None) -> Figures:
    """What a rule makes of the updates."""
    sizes, errors, total = [], [], np.zeros(updates[0].manifest.size)
    for seed, update in enumerate(updates):
        step, count = steps(update, rule, width)
        drawn = np.random.default_rng(seed).random(step.size, np.float32)
        levels = np.floor(update.flat / step + drawn)
        lost = (levels + 0.5 - drawn) * step - update.flat
        sizes.append(packed(levels, count))
        power = np.square(update.flat).sum()
        errors.append([float(np.square(each).sum() / power) for each in (lost, levels * step - update.flat)])
        total += lost
    mean = np.sum([update.flat for update in updates], axis=0, dtype=np.float64)
    error, as_it_came = np.mean(errors, axis=0)
    return Figures(statistics.mean(sizes), error, as_it_came, float(np.square(total).sum() / np.square(mean).sum()))


def main() -> None:
    """Try every rule."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the MIT-BIH records")
    parser.add_argument("--kept", type=Path, default=Path(tempfile.gettempdir()) / "fedbeat-deltas")
    parser.add_argument("--round", type=int, default=3, help="which round's updates")
    given = parser.parse_args()
    print(f"# {machine()}")
    print("| steps | ECG, kB | error | as it came | of the mean | normal, bits a value | error | as it came |")
    print("|---|---|---|---|---|---|---|---|")
    real, drawn = deltas(given.data, given.kept, given.round), normal(1_000_000)
    for name, (rule, width) in RULES.items():
        ecg, values = measure(real, rule, width), measure(drawn, rule, width)
        cells = f"{ecg.size / 1e3:.2f} | {ecg.error:.3f} | {ecg.as_it_came:.3f} | {ecg.of_the_mean:.4f}"
        bits = 8 * values.size / drawn[0].manifest.size
        print(f"| {name} | {cells} | {bits:.2f} | {values.error:.3f} | {values.as_it_came:.3f} |", flush=True)


if __name__ == "__main__":
    main()
