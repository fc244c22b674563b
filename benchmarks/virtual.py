"""Examples a second that virtual devices train on: one by one, and together in each trainer.

    python benchmarks/virtual.py --data ../shared/data/mitdb              # 8, 64 and 512 devices, ecg-beats
    python benchmarks/virtual.py --data ../shared/data/mitdb --devices 64 --batch-size 8 1
    python benchmarks/virtual.py --data ../shared/data/mitdb --accelerator cuda   # together on a GPU, in one trainer

The trainer pool of ``edge fleet`` with its child processes does a round's trainings of all devices: DS1's beats, by
patient where there are patients enough, else evenly. Recordings are read and children warm before the clock starts;
the two ways take turns. Beside the wall's clock stand the children's CPU seconds, which other work on the machine
disturbs less. The answers of both are compared. With a GPU the one by one are on the CPU still, and MB are the
machine's, not the GPU's. Prints JSON and a table.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from broker import end_together, machine, memory

from edge.core.jobs import Accelerator, Describe, Described, Failure, Job, Progressed, Result, Train, Trained
from edge.dataspec import DataSpec
from edge.start import check_accelerator
from edge.trainer.pool import TrainerPool
from edge.trainer.stacking import Stacking
from schemas import compression
from schemas.errors import SettingsError
from schemas.messages import TrainSettings
from schemas.plan_file import find

TICKS = os.sysconf("SC_CLK_TCK")


class Fleet:
    """The trainings of one round, and a pool that does them."""

    def __init__(
        self, plan: str, data: Path, devices: int, settings: TrainSettings, workers: int, stacking: Stacking | None
    ) -> None:
        file = find(plan)
        self.manifest = file.plan.manifest()
        self._specs = [DataSpec(path=str(data), devices=devices, index=index) for index in range(devices)]
        model = compression.encode("float32", file.initial(0), np.random.default_rng(0))
        about = {"plan": file.plan.to_bytes(), "model": model, "settings": settings, "codec": "float32"}
        self._recipe = file.plan.data
        self._jobs = [
            Train.model_validate({**about, "key": f"train-{number}", "data": spec, "seed": number})
            for number, spec in enumerate(self._specs)
        ]
        self.pool = TrainerPool(workers, idle_s=3600, nice=0, stacking=stacking)
        self._children: list[int] = []

    def prepare(self) -> int:
        """Read the recordings, train once; how many examples there are."""
        before = set(children())
        jobs = [Describe(key=f"data-{n}", data=spec, recipe=self._recipe) for n, spec in enumerate(self._specs)]
        described = self._do(jobs)
        self.round()
        self._children = sorted(set(children()) - before)
        return sum(each.examples for each in described if isinstance(each, Described))

    def round(self) -> list[Trained]:
        """All trainings, in the devices' order."""
        answers = {answer.key: answer for answer in self._do(self._jobs)}
        trained = [answers[job.key] for job in self._jobs]
        assert all(isinstance(each, Trained) for each in trained), trained
        return trained  # type: ignore[return-value]  # as asserted

    def cpu_s(self) -> float:
        """CPU seconds of its children so far."""
        return sum(_cpu_s(pid) for pid in self._children)

    def peak_mb(self) -> float:
        """Peak memory of its children together."""
        return sum(memory(pid) for pid in self._children)

    def _do(self, jobs: list[Any]) -> list[Result]:
        answers: queue.Queue[Result | Failure] = queue.Queue()

        def hear(answer: Progressed | Result | Failure) -> None:
            if not isinstance(answer, Progressed):
                answers.put(answer)

        job: Job
        for job in jobs:
            self.pool.submit(job, hear)
        results: list[Result] = []
        for _ in jobs:
            answer = answers.get()
            if isinstance(answer, Failure):
                raise SystemExit(answer.message)
            results.append(answer)
        return results


def children() -> list[int]:
    """This process's children."""
    return [int(pid) for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()] + [
        int(pid)
        for task in Path("/proc/self/task").iterdir()
        if task.name != str(os.getpid())
        for pid in (task / "children").read_text().split()
    ]


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def measure(given: argparse.Namespace, devices: int, batch: int) -> dict[str, Any]:
    """One row's figures."""
    settings = find(given.plan).plan.train.model_copy(update={"batch_size": batch})
    accelerator: Accelerator = given.accelerator
    alone = given.width == 1 and accelerator == "cpu"
    together = None if alone else Stacking(given.width or None, accelerator)
    workers = given.workers if accelerator == "cpu" else 1
    ways = {
        "alone": Fleet(given.plan, given.data, devices, settings, given.workers, None),
        "together": Fleet(given.plan, given.data, devices, settings, workers, together),
    }
    figures: dict[str, Any] = {"devices": devices, "batch_size": batch}
    wall: dict[str, list[float]] = {name: [] for name in ways}
    cpu: dict[str, list[float]] = {name: [] for name in ways}
    answers = {}
    try:
        for fleet in ways.values():
            figures["examples"] = fleet.prepare()
        for _ in range(given.repeats):
            for name, fleet in ways.items():
                began, used = time.perf_counter(), fleet.cpu_s()
                answers[name] = fleet.round()
                wall[name].append(time.perf_counter() - began)
                cpu[name].append(fleet.cpu_s() - used)
        for name, fleet in ways.items():
            figures[name] = {
                "examples_s": round(figures["examples"] / statistics.median(wall[name])),
                "seconds": [round(each, 3) for each in wall[name]],
                "examples_cpu_s": round(figures["examples"] / statistics.median(cpu[name])),
                "peak_mb": round(fleet.peak_mb()),
            }
    finally:
        for fleet in ways.values():
            fleet.pool.close()
    figures["speedup"] = round(figures["together"]["examples_s"] / figures["alone"]["examples_s"], 2)
    figures["speedup_cpu"] = round(figures["together"]["examples_cpu_s"] / figures["alone"]["examples_cpu_s"], 2)
    figures["difference"] = difference(answers["alone"], answers["together"], ways["alone"].manifest)
    return figures


def difference(one: list[Trained], other: list[Trained], manifest: Any) -> float:
    """The largest between two answers' deltas, over all devices and parameters."""
    pairs = zip(one, other, strict=True)
    decoded = ([compression.decode(each.payload, manifest).flat for each in pair] for pair in pairs)
    return float(max(np.abs(a - b).max() for a, b in decoded))


def main() -> None:
    """Run the cases asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the recordings")
    parser.add_argument("--plan", default="ecg-beats")
    parser.add_argument("--devices", type=int, nargs="*", default=[8, 64, 512])
    parser.add_argument("--batch-size", type=int, nargs="*", default=[32, 8])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--workers", type=int, default=min(4, os.cpu_count() or 1), help="trainer processes")
    parser.add_argument("--width", type=int, default=0, help="devices in one step; 0 for the plan's own")
    parser.add_argument("--accelerator", choices=("cpu", "cuda"), default="cpu", help="of what trains together")
    given = parser.parse_args()
    end_together()
    try:
        check_accelerator(given.accelerator)
    except SettingsError as error:
        raise SystemExit(str(error)) from None
    trainers = f"{given.workers} trainers" + (", together one on a GPU" if given.accelerator == "cuda" else "")
    print(f"# {machine()}; {given.plan}, {trainers}, medians of {given.repeats} rounds")
    print("| devices | batch | one by one, ex/s | together, ex/s | wall | CPU | MB | MB together | difference |")
    print("|---|---|---|---|---|---|---|---|---|")
    for batch in given.batch_size:
        for devices in given.devices:
            f = measure(given, devices, batch)
            print(json.dumps(f), file=sys.stderr)
            one, many = f["alone"], f["together"]
            rates = f"{one['examples_s']} | {many['examples_s']} | {f['speedup']}x | {f['speedup_cpu']}x"
            print(
                f"| {devices} | {batch} | {rates} | {one['peak_mb']} | {many['peak_mb']} | {f['difference']:.0e} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
