"""What ``edge bench`` has found, as numbers, and what follows from them. Pure, and without numpy, as the agent is.

MB are 10^6 bytes. Encoding is measured in MB of float32 delta that go in.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Final

from schemas.counted import counted
from schemas.messages import Count, Health, Message, NonNegative, Seconds, TrainSettings

SLOW_DISK_MS: Final = 200.0  # an update kept in more: a worn or a cheap card


class CodecSpeed(Message):
    """How fast one codec encodes a round's real delta, and how small it gets."""

    codec: str
    mb_per_s: NonNegative
    update_bytes: Count


class Prepared(Message):
    """What is about to be trained."""

    plan: str
    parameters: Count
    train: TrainSettings  # as the plan advises
    path: str  # of the recordings, or of what was made up in their place
    made_up: Count = 0  # examples that were; 0: recordings


class Disk(Message):
    """How long it takes to keep something on disk for good: a file's two fsyncs, as for an update."""

    directory: str
    median_ms: NonNegative
    worst_ms: NonNegative
    times: Count


class Report(Message):
    """All of it."""

    software: str
    plan: str
    parameters: Count
    data: str  # where from
    examples: Count  # that a round trains on
    train: TrainSettings
    threads: Count
    nice: Count
    trainer_start_s: Seconds  # Python and PyTorch, until the first batch
    examples_per_s: NonNegative
    codecs: tuple[CodecSpeed, ...]
    disk: Disk
    agent_peak_mb: float | None
    trainer_peak_mb: float | None
    before: Health
    after: Health
    took_s: Seconds

    @property
    def steps(self) -> int:
        """Batches of a round."""
        return steps(self.train, self.examples)

    @property
    def round_s(self) -> float:
        """Seconds a round's training takes here with a trainer that is warm; the network's time comes on top."""
        trained = trained_on(self.train, self.examples, self.steps)
        return trained / self.examples_per_s + self.disk.median_ms / 1e3


def steps(train: TrainSettings, examples: int) -> int:
    """Batches that a round of ``examples`` takes."""
    chosen = min(examples, train.max_examples or examples)
    return train.local_steps or train.epochs * math.ceil(chosen / train.batch_size)


def trained_on(train: TrainSettings, examples: int, number: int) -> int:
    """Examples in the first ``number`` batches, one that comes again counted again; the last of a pass is smaller."""
    chosen = min(examples, train.max_examples or examples)
    passes, rest = divmod(number, math.ceil(chosen / train.batch_size))
    return passes * chosen + rest * train.batch_size


def table(report: Report) -> Iterator[str]:
    """The report for its owner."""
    train = report.train
    much = counted(train.local_steps, "batch", "batches") if train.local_steps else counted(train.epochs, "epoch")
    size, batch = counted(report.parameters, "parameter"), counted(train.batch_size, "example")
    yield f"plan {report.plan}: {size}, {much} a round, {batch} a batch"
    yield f"data: {report.data}"
    yield ""
    disk, batches = report.disk, counted(report.steps, "batch", "batches")
    rows = [
        (
            "training",
            f"{report.examples_per_s:,.0f} examples/s",
            f"{counted(report.threads, 'thread')}, nice {report.nice}",
        ),
        (
            "a round",
            duration(report.round_s),
            f"{batches} of {counted(report.examples, 'example')}, without the network's time",
        ),
        ("trainer's start", duration(report.trainer_start_s), "more, where none is kept warm (trainer_idle)"),
        *_memory(report),
        ("disk", f"{disk.median_ms:.1f} ms", f"to keep an update in {disk.directory}; at most {disk.worst_ms:.1f} ms"),
        *_condition(report),
    ]
    yield from (f"{name:16} {value:>18}  {remark}".rstrip() for name, value, remark in rows)
    yield ""
    yield f"{'codec':16} {'MB/s encoded':>18}  {'kB an update':>12}"
    for each in report.codecs:
        yield f"{each.codec:16} {each.mb_per_s:>18,.1f}  {each.update_bytes / 1e3:>12,.1f}"
    yield from remarks(report)


def remarks(report: Report) -> Iterator[str]:
    """What its owner should see to."""
    if report.before.throttled or report.after.throttled:
        yield "note: the firmware slows this Pi down, for heat or want of voltage: see to its power supply and cooling"
    if report.disk.worst_ms > SLOW_DISK_MS:
        yield f"note: keeping an update took up to {report.disk.worst_ms:.0f} ms: the card may be worn, or busy"
    available, peak = report.before.memory_available_mb, report.trainer_peak_mb
    if available is not None and peak is not None and peak > available:
        yield f"note: the trainer took {peak:.0f} MB, and {available:.0f} MB were free: expect swapping"


def duration(seconds: float) -> str:
    """In the unit that reads best."""
    if seconds < 1:
        return f"{seconds * 1e3:.0f} ms"
    return f"{seconds:.1f} s" if seconds < 90 else f"{seconds / 60:.1f} min"  # noqa: PLR2004 - seconds


def _memory(report: Report) -> Iterator[tuple[str, str, str]]:
    for name, peak in (("agent", report.agent_peak_mb), ("trainer", report.trainer_peak_mb)):
        if peak is not None:
            yield f"memory, {name}", f"{peak:.0f} MB", "at most"


def _condition(report: Report) -> Iterator[tuple[str, str, str]]:
    before, after = report.before, report.after
    if before.temperature_c is not None and after.temperature_c is not None:
        yield "temperature", f"{after.temperature_c:.0f} °C", f"{before.temperature_c:.0f} °C before"
    if before.throttled is not None and after.throttled is not None:
        words = {False: "no", True: "yes"}
        yield "slowed down", words[after.throttled], f"{words[before.throttled]} before"
