"""Hostile inputs for every decoder, in child processes whose memory is limited: `make fuzz SECONDS=600 SEED=1`.

A decoder may end in its documented error and in nothing else. Running out of memory, more than ``CPU_S`` of one
processor for one input, a crash of the process and any other exception are findings. An input follows from the seed,
the decoder's name and a number, so a finding names all it takes to see it again:
`python -m tests.hostile.fuzz --only NAME --seed SEED --first NUMBER --inputs 1`.
"""

from __future__ import annotations

import argparse
import collections
import importlib
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final

from schemas.errors import WireError
from tests.hostile.chance import draw
from tests.hostile.target import Target

GROUPS: Final = {  # module and name of the targets, and the MiB they may take beyond what importing them took
    "wire": ("wire_targets", "WIRE", 192),
    "tensors": ("tensor_targets", "TENSORS", 192),
    "files": ("file_targets", "FILES", 256),
    "recordings": ("recording_targets", "RECORDINGS", 384),
}
CPU_S: Final = 2.0  # for one input, none of which is longer than 1 MiB
_HANG_S: Final = 60  # of one processor after which the kernel ends a child
_ROOT: Final = Path(__file__).parents[2]
_SHOWN: Final = 10  # findings that are kept with their traceback


@dataclass
class Report:
    """What became of one group's inputs."""

    group: str
    seed: str
    inputs: int = 0
    seconds: float = 0.0
    outcomes: dict[str, int] = field(default_factory=dict)  # "target: outcome" -> inputs
    slowest_s: float = 0.0
    slowest: str = ""
    peak_mib: float = 0.0  # of memory that decoding added to what the imports took
    findings: list[str] = field(default_factory=list)


def _memory(name: str) -> float:
    """A figure of this process in MiB."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1]) / 1024


def targets(group: str) -> Sequence[Target]:
    """The decoders of a group."""
    module, name, _ = GROUPS[group]
    found: Sequence[Target] = getattr(importlib.import_module(f"tests.hostile.{module}"), name)
    return found


def one(target: Target, seed: str, number: int) -> tuple[str, float]:
    """Have a decoder take one input: how it ended, with ``!`` before it where it must not end so, and CPU seconds."""
    data = target.make(draw(seed, target.name, number))
    before = time.process_time()
    try:
        target.read(data)
    except target.errors as error:
        outcome = error.reason.value if isinstance(error, WireError) else type(error).__name__
    except BaseException as error:  # noqa: BLE001 - that is what is looked for
        where = traceback.format_exc(limit=-3).splitlines()[1:-1]
        outcome = f"!{type(error).__name__}: {str(error)[:200]} {' | '.join(map(str.strip, where))[-600:]}"
    else:
        outcome = "taken"
    spent = time.process_time() - before
    return outcome if spent <= CPU_S else f"!{spent:.1f} s for {len(data)} bytes, then {outcome}", spent


def child(group: str, seed: str, seconds: float, inputs: int, first: int, only: str, progress: Path) -> Report:
    """Fuzz until either runs out; ``progress`` always says what is being done, for when that is the end of us."""
    chosen = [target for target in targets(group) if only in {"", target.name}]
    report = Report(group, seed)
    counts: collections.Counter[str] = collections.Counter()
    for target in chosen:  # what a decoder imports or sets up once is not an input's fault
        one(target, "warm", 0)
    base = _memory("VmHWM")
    limit = int((_memory("VmSize") + GROUPS[group][2]) * 2**20)
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
    order = [target for target in chosen for _ in range(target.share)]
    draw(seed, group).shuffle(order)
    started = time.monotonic()
    handle = os.open(progress, os.O_WRONLY | os.O_CREAT)
    number = first
    while report.inputs < inputs and (seconds <= 0 or time.monotonic() - started < seconds):
        target = order[number % len(order)]
        os.pwrite(handle, f"{target.name} {number}".encode().ljust(80), 0)
        resource.setrlimit(resource.RLIMIT_CPU, (int(time.process_time()) + _HANG_S, resource.RLIM_INFINITY))
        outcome, spent = one(target, seed, number)
        if spent > report.slowest_s:
            report.slowest_s, report.slowest = spent, f"{target.name} {number}"
        if outcome.startswith("!"):
            report.findings.append(f"{target.name} {number}: {outcome[1:]}")
            outcome = outcome.partition(":")[0]
        counts[f"{target.name}: {outcome}"] += 1
        report.inputs, number = report.inputs + 1, number + 1
    resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    report.seconds = time.monotonic() - started
    report.outcomes = dict(sorted(counts.items()))
    report.peak_mib = max(0.0, _memory("VmHWM") - base)
    return report


def run(group: str, seed: str, *, seconds: float = 0.0, inputs: int = 2**60, first: int = 0, only: str = "") -> Report:
    """Fuzz one group in a child process; a child that dies is a finding, and tells which input killed it."""
    with tempfile.TemporaryDirectory() as folder:
        progress = Path(folder) / "progress"
        command = [sys.executable, "-m", "tests.hostile.fuzz", "--child", group, "--seed", seed, "--only", only]
        command += ["--seconds", str(seconds), "--inputs", str(inputs), "--first", str(first)]
        environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1", "PYTHONPATH": str(_ROOT)}
        done = subprocess.run(
            [*command, "--progress", str(progress)],
            cwd=_ROOT,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=None if seconds <= 0 else seconds + 120,
        )
        if done.returncode == 0:
            return Report(**json.loads(done.stdout.splitlines()[-1]))
        at = progress.read_text().strip() if progress.exists() else "its imports"
        how = signal.Signals(-done.returncode).name if done.returncode < 0 else f"exit {done.returncode}"
        return Report(group, seed, findings=[f"{at}: the process ended by {how}: {done.stderr[-800:]}"])


def main() -> int:
    """Run all groups, or be one group's child; 1 where there are findings."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="for all groups together")
    parser.add_argument("--seed", default="1")
    parser.add_argument("--inputs", type=int, default=2**60, help="of each group")
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--only", default="", help="one decoder's name")
    parser.add_argument("--child", default="", choices=("", *GROUPS))
    parser.add_argument("--progress", type=Path, default=Path(os.devnull))
    given = parser.parse_args()
    if given.child:
        report = child(given.child, given.seed, given.seconds, given.inputs, given.first, given.only, given.progress)
        print(json.dumps(asdict(report)))  # noqa: T201 - to the parent
        return 0
    groups = [group for group in GROUPS if not given.only or any(t.name == given.only for t in targets(group))]
    bad = 0
    for group in groups:
        report = run(
            group,
            given.seed,
            seconds=given.seconds / len(groups),
            inputs=given.inputs,
            first=given.first,
            only=given.only,
        )
        bad += len(report.findings)
        _show(report)
    return 1 if bad else 0


def _show(report: Report) -> None:
    rate = report.inputs / report.seconds if report.seconds else 0.0
    print(f"{report.group}: {report.inputs} inputs, {rate:.0f} a second, seed {report.seed}")  # noqa: T201 - output, as below
    print(f"  slowest {report.slowest_s:.2f} s ({report.slowest}), at most {report.peak_mib:.0f} MiB more")  # noqa: T201
    print(f"  {len(report.findings)} findings")  # noqa: T201
    for outcome, count in report.outcomes.items():
        print(f"  {count:9} {outcome}")  # noqa: T201
    for finding in report.findings[:_SHOWN]:
        print(f"  FINDING {finding}")  # noqa: T201
    print(json.dumps(asdict(report)))  # noqa: T201


if __name__ == "__main__":
    sys.exit(main())
