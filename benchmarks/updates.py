"""What the benchmarks of codecs share: updates to measure them on, and how a core's time is taken.

Real ones are what 22 devices make of their own patient's beats in one round of ``ecg-beats``. They train in this
process, with the plan's own settings, as ``coordinator start --virtual 22`` would have them.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # one core's time is what is measured

import numpy as np
from numpy.typing import NDArray

from coordinator.aggregation import mean
from edge.dataspec import DataSpec
from edge.sources import prepare
from edge.training.plan_fit import fit
from schemas import compression
from schemas.parameters import Manifest, Parameters, TensorSpec
from schemas.plan_file import find

PLAN = "ecg-beats"
DEVICES = 22
SPREAD = 1e-3  # standard deviation of the normal vectors: any would do


def normal(size: int) -> list[Parameters]:
    """One update of normal values."""
    manifest = Manifest((TensorSpec("values", (size,)),))
    values = np.random.default_rng(0).standard_normal(size, np.float32) * np.float32(SPREAD)
    return [Parameters(manifest, values)]


def seconds(action: Callable[[], object], repeats: int) -> float:
    """The median of the core's time that ``action`` takes."""
    taken = []
    for _ in range(repeats):
        began = time.process_time()
        action()
        taken.append(time.process_time() - began)
    return statistics.median(taken)


def read_through(payloads: list[bytes], manifest: Manifest) -> None:
    """Judge the payloads and look at their values, a block at a time."""
    for payload in payloads:
        for _ in compression.read(payload, manifest).blocks():
            pass


def deltas(data: Path, kept: Path, rounds: int) -> list[Parameters]:
    """Each device's delta of round ``rounds``; read from the folder ``kept`` where they are, and else put there."""
    path = kept / f"{PLAN}-round-{rounds}.npy"
    if not path.is_file():
        *_, last = _trained(data, rounds)
        kept.mkdir(parents=True, exist_ok=True)
        np.save(path, last)
    manifest = find(PLAN).plan.manifest()
    return [Parameters(manifest, flat) for flat in np.load(path, allow_pickle=False)]


def all_deltas(data: Path, kept: Path, rounds: int) -> tuple[Manifest, NDArray[np.float32]]:
    """The deltas of every round, (rounds, devices, values), likewise."""
    path = kept / f"{PLAN}-{rounds}-rounds.npy"
    if not path.is_file():
        made = np.stack(list(_trained(data, rounds)))
        kept.mkdir(parents=True, exist_ok=True)
        np.save(path, made)
    return find(PLAN).plan.manifest(), np.load(path, allow_pickle=False)


def _trained(data: Path, rounds: int) -> Iterator[NDArray[np.float32]]:
    """Each round's deltas, (devices, values)."""
    import torch  # noqa: PLC0415 - only where they aren't kept yet

    from edge.training.loop import train  # noqa: PLC0415 - torch comes with it

    torch.set_num_threads(1)
    file = find(PLAN)
    plan, model = file.plan, file.initial(0)
    specs = (DataSpec(path=str(data), devices=DEVICES, index=index) for index in range(DEVICES))
    datasets = [fit(prepare(spec, plan.data).train, plan) for spec in specs]
    for number in range(rounds):
        print(f"training round {number + 1} of {rounds}", file=sys.stderr, flush=True)
        total = mean.init(model.manifest, plan.strategy, 1)
        made = []
        for index, dataset in enumerate(datasets):
            done = train(model, dataset, plan, plan.train, np.random.default_rng((number, index)))
            made.append(done.delta.flat)
            mean.fold(total, done.delta, done.examples)
        yield np.stack(made)
        model = model.add(mean.finish(total).scale(plan.strategy.learning_rate))
