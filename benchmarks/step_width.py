"""What wider steps of int4 cost ``ecg-beats``, on people held out within DS1: of updates, or of the model's way down.

    python benchmarks/step_width.py --data ../shared/data/mitdb --seeds 0 1 2
    python benchmarks/step_width.py --data ../shared/data/mitdb --seeds 0 1 2 --of updates

As ``ecg_cross_validation.py`` has it, 25 rounds of a patient a device in this process. A width is a multiple of what
``schemas/compression/int4.py`` reckons with. Either each new model goes out as a step of that width, rounded to the
nearest, and what it loses is fed back to the next (``coordinator/downlink.py``), with updates as they are; or updates
have that width, and models go out as they are. ``none`` compresses neither. Bytes are of the payloads alone, without
their message. A minute or two a row.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import cast

import numpy as np
from broker import machine
from ecg_cross_validation import ECTOPIC, Say, held_out
from ecg_patients import FILE, SHOWN, confusion, crowded, figures, patients, score
from people import versions

from coordinator.downlink import intended
from edge.dataset import Dataset
from edge.sources.wfdb_records import DS1
from schemas import compression, steps
from schemas.compression.int4 import UPDATES, Int4
from schemas.parameters import Flat, Parameters


class Updates:
    """What is left of a delta once it has come as an update."""

    def __init__(self, codec: Int4, sizes: list[int]) -> None:
        """Adds each update's bytes to ``sizes``."""
        self._codec, self._sizes = codec, sizes

    def __call__(self, delta: Parameters, rng: np.random.Generator, _index: int) -> Parameters:
        """It, decoded."""
        payload = compression.encode_with(self._codec, delta, rng)
        self._sizes.append(len(payload))
        return compression.decode(payload, delta.manifest)


class Steps:
    """Each model goes out as a step from the one before, and what that loses is fed back to the next."""

    def __init__(self, width: float, sizes: list[int]) -> None:
        """Adds each step's bytes to ``sizes``."""
        self._codec, self._sizes, self._residual = Int4(width, chance=False), sizes, cast("Flat | None", None)

    def __call__(self, model: Parameters, delta: Parameters) -> Parameters:
        """The next model."""
        target = intended(model, self._residual).add(delta)
        step = steps.encode_with(self._codec, model, target)
        self._sizes.append(len(step))
        following = steps.apply(model, step)
        self._residual = target.subtract(following).flat
        return following


def made(rounds: int, seed: int, width: float | None, of: str, sizes: list[int], devices: Sequence[Dataset]) -> Say:
    """What the model after so many rounds says."""
    if of == "updates":
        send = (lambda delta, _rng, _index: delta) if width is None else Updates(Int4(width), sizes)
        *_, model = versions(FILE, devices, rounds, seed, send, Parameters.add)
    else:
        follow = Parameters.add if width is None else Steps(width, sizes)
        *_, model = versions(FILE, devices, rounds, seed, Updates(UPDATES, []), follow)
    return lambda beats: confusion(model, beats)


def main() -> None:
    """Run the widths and seeds asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the MIT-BIH records")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--of", choices=("steps", "updates"), default="steps")
    parser.add_argument("--widths", nargs="*", default=["none", "1.2", "1.6", "2.4"])
    parser.add_argument("--rounds", type=int, default=25)
    given = parser.parse_args()
    people = {name: beats for name, beats in patients(given.data).items() if name in DS1}
    crowds = {name: crowded(given.data, name) for name in ECTOPIC}
    print(f"# {machine()}; means and standard deviations over seeds {given.seeds}")
    print(f"| width | bytes | accuracy | macro-F1 | {' | '.join(f'{name} F1' for name in SHOWN)} |")
    print("|---|---|---|---|---|---|---|")
    for width in given.widths:
        sizes: list[int] = []
        found = []
        for seed in given.seeds:
            make = partial(made, given.rounds, seed, None if width == "none" else float(width), given.of, sizes)
            tables, _ = held_out(people, crowds, make)
            found.append(figures(score(np.sum(list(tables.values()), axis=0))))
        cells = " | ".join(f"{np.mean(each):.3f} ± {np.std(each):.3f}" for each in zip(*found, strict=True))
        print(f"| {width} | {statistics.mean(sizes or [0]):.0f} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
