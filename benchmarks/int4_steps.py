"""How wide int4's steps should be, and over what: bytes and error of some rules, on real ECG updates and normal values.

    python benchmarks/int4_steps.py --data ../shared/data/mitdb --kept /tmp/deltas

A rule sets a step for each piece of an update, which is a tensor, or so many neighbouring values of one. Levels, levels
that stand apart, and zstd are int4's own; the error is the squared distance over the squared norm of one update, and of
the mean over the devices. Prints a table.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from broker import machine
from updates import deltas, normal

from schemas import compression
from schemas.compression import entropy
from schemas.parameters import Flat, Parameters

LEVELS = 7
Rule = Callable[[Flat, float], float]  # a piece's values, and the model's root mean square: its step


def _deviation(values: Flat) -> float:
    return float(np.sqrt(np.square(values, dtype=np.float64).mean()))


def _between(piece: Flat, model: float) -> float:
    return float(np.sqrt(_deviation(piece) * model))


RULES: dict[str, tuple[Rule, int | None]] = {
    "largest / 7, a tensor": (lambda piece, _: float(np.abs(piece).max()) / LEVELS, None),
    "the tensor's deviation": (lambda piece, _: _deviation(piece), None),
    "the model's deviation": (lambda _, model: model, None),
    "their geometric mean": (_between, None),
    "0.8 of it": (lambda piece, model: 0.8 * _between(piece, model), None),
    "1.6 of it": (lambda piece, model: 1.6 * _between(piece, model), None),
    "it, over 1024 values": (_between, 1024),
    "it, over 256 values": (_between, 256),
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
    body = bytes(4 * count) + (nibbles[1::2] << 4 | nibbles[::2]).tobytes() + far
    _, data = entropy.pack(memoryview(body))
    return compression.HEADER.size + 4 * count + len(data)  # steps don't pack: the zeros here do


def measure(updates: list[Parameters], rule: Rule, width: int | None) -> tuple[float, float, float]:
    """Bytes, error, and that of the mean."""
    sizes, errors, total = [], [], np.zeros(updates[0].manifest.size)
    for seed, update in enumerate(updates):
        step, count = steps(update, rule, width)
        levels = np.floor(update.flat / step + np.random.default_rng(seed).random(step.size, np.float32))
        lost = levels * step - update.flat
        sizes.append(packed(levels, count))
        errors.append(float(np.square(lost).sum() / np.square(update.flat).sum()))
        total += lost
    mean = np.sum([update.flat for update in updates], axis=0, dtype=np.float64)
    return statistics.mean(sizes), statistics.mean(errors), float(np.square(total).sum() / np.square(mean).sum())


def main() -> None:
    """Try every rule."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the MIT-BIH records")
    parser.add_argument("--kept", type=Path, default=Path(tempfile.gettempdir()) / "fedbeat-deltas")
    parser.add_argument("--round", type=int, default=3, help="which round's updates")
    given = parser.parse_args()
    print(f"# {machine()}")
    print("| steps | ECG, kB | error | of the mean | normal, bits a value | error |\n|---|---|---|---|---|---|")
    real, drawn = deltas(given.data, given.kept, given.round), normal(1_000_000)
    for name, (rule, width) in RULES.items():
        size, error, mean = measure(real, rule, width)
        bits, lost, _ = measure(drawn, rule, width)
        normal_bits = 8 * bits / drawn[0].manifest.size
        print(f"| {name} | {size / 1e3:.2f} | {error:.3f} | {mean:.4f} | {normal_bits:.2f} | {lost:.3f} |", flush=True)


if __name__ == "__main__":
    main()
