"""A day of ECG recorded by a recorder that is killed at random instants: what each kill costs.

    sudo nice -n -5 python benchmarks/recording_kills.py --data ../shared/data/mitdb --speed 400
    sudo nice -n -5 python benchmarks/recording_kills.py --data ../shared/data/mitdb --speed 1 --hours 0.07

The 48 records of MIT-BIH, both leads, end to end are the source. ``edge record`` replays them at ``--speed`` times
their own, is killed with SIGKILL at ``--kills`` instants drawn over the whole length, and started again each time; the
source waits meanwhile and goes on with the sample it would have given next. At the end every sample on disk is
compared with the source's.

A kill's loss is what the source had given when it came and isn't on disk. It is told in seconds of signal and in
seconds of the recorder's clock, ``--speed`` times fewer: ``--sync`` is of the latter, and at a sensor both are the
same. The source's clock begins with the line by which the recorder says that it is open, so a loss is known to some
milliseconds of the recorder's clock. What a busy machine has the recorder read too late counts as lost too: run it with
the priority that its unit gives it (``nice -n -5``, as root). Samples that wait are written after 120 s of signal at
the latest, which at 400 times their speed comes before ``--sync``.

Exits with 1 where a kill costs more than ``--sync`` and ``SLACK_S``, or where a sample or a note isn't what it should
be. Prints a table; JSON with ``--json``.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
import wfdb
from broker import end_together, machine
from numpy.typing import NDArray

from edge.record.segment_files import numbered
from edge.record.wfdb_header import Header, checksum, parse

RATE: Final = 360  # Hz
LEADS: Final = ("first", "second")
GAIN: Final = 200  # of all records of MIT-BIH
BASELINE: Final = 1024
SLACK_S: Final = 0.1  # of the recorder's clock: how often it looks, and how late we hear of it

Frames = NDArray[np.int16]  # (samples, leads)


@dataclass
class Life:
    """A recorder from its start to its kill, or to the end of the source."""

    offset: int  # the source's first sample for it
    given: int = 0  # samples that the source had given when it ended
    kept: int = 0  # of which are on disk
    segments: list[str] = field(default_factory=list)
    killed: bool = True

    @property
    def lost_s(self) -> float:
        """Of signal."""
        return (self.given - self.kept) / RATE


def day(data: Path, samples: int) -> Frames:
    """So many samples of the records one after the other."""
    parts: list[Frames] = []
    for header in sorted(data.glob("*.hea")):
        if sum(map(len, parts)) < samples:
            parts.append(wfdb.rdrecord(str(header.with_suffix("")), physical=False).d_signal.astype(np.int16))
    return np.concatenate(parts)[:samples]


def source(folder: Path, offset: int, length: int) -> Path:
    """A record that is the day from sample ``offset`` on."""
    skipped = offset * len(LEADS) * 2
    lines = [f"rest {len(LEADS)} {RATE} {length - offset}"]
    lines += [f"day.dat 16+{skipped} {GAIN}({BASELINE})/mV 16 0 0 0 0 {name}" for name in LEADS]
    (folder / "rest.hea").write_text("\n".join(lines) + "\n")
    return folder / "rest"


def live(life: Life, record: Path, place: Path, stop_at: int | None, options: argparse.Namespace) -> None:
    """Record, until ``stop_at`` samples of the whole day were given, or to its end where that is None."""
    before = {path.stem for path in numbered(place, ".dat")}
    setting = f"replay:{record}?speed={options.speed:g}"
    command = [sys.executable, "-m", "edge", "record", "--source", setting, "--to", str(place), "--json"]
    command += ["--sync", f"{options.sync:g}", "--keep", "none"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as recorder:
        assert recorder.stdout is not None
        for line in recorder.stdout:
            if json.loads(line)["event"] == "source":
                break
        began, pace = time.monotonic(), RATE * options.speed
        if stop_at is not None:
            time.sleep(max(0.0, began + (stop_at - life.offset) / pace - time.monotonic()))
            recorder.kill()
            life.given = round((time.monotonic() - began) * pace)
        recorder.stdout.read()
    if stop_at is None and recorder.returncode:
        raise SystemExit(f"the recorder ended with {recorder.returncode}")
    life.segments = [path.stem for path in numbered(place, ".dat") if path.stem not in before]


def on_disk(place: Path, name: str) -> tuple[Header, Frames]:
    """A whole segment."""
    header = parse((place / f"{name}.hea").read_text())
    return header, np.fromfile(place / f"{name}.dat", "<i2").reshape(-1, len(LEADS))


def compare(lives: list[Life], place: Path, truth: Frames) -> list[str]:
    """What isn't as it should be; fills in what each life has kept."""
    wrong = [f"{path.name} was left open" for path in place.glob("*.open")]
    for life in lives:
        at = life.offset
        for name in life.segments:
            if not (place / f"{name}.hea").exists():
                continue  # it had no sample, and was cleared away
            header, frames = on_disk(place, name)
            wrong += [f"{name}: {what}" for what in _wrong_with(header, frames, truth[at : at + len(frames)])]
            wrong += [f"{name}: {what}" for what in _misplaced(header, life, name)]
            at += len(frames)
        life.kept = at - life.offset
        if not life.killed:
            life.given = len(truth) - life.offset
        if life.kept > life.given or (life.kept < life.given and not life.killed):
            wrong.append(f"from sample {life.offset} on {life.kept} of {life.given} samples are there")
    return wrong


def _wrong_with(header: Header, frames: Frames, truth: Frames) -> list[str]:
    """A segment beside what it should be."""
    sums = tuple(checksum(int(total)) for total in frames.sum(axis=0, dtype=np.int64))
    told = header.samples == len(frames) and header.checksums == sums
    wrong = [] if told else ["its header tells of other samples"]
    return wrong if np.array_equal(frames, truth) else [*wrong, "samples differ from the source's"]


def _misplaced(header: Header, life: Life, name: str) -> list[str]:
    """A segment's notes on how it ended and what it comes after, where they aren't those of its place in a life."""
    ends = {"length"} if name != life.segments[-1] else {"crash", "length"} if life.killed else {"end"}
    after = "start" if name == life.segments[0] else "length"
    return [
        f"{key} is {header.notes.get(key)!r}"
        for key, right in (("after", {after}), ("ended", ends))
        if header.notes.get(key) not in right
    ]


def measure(options: argparse.Namespace, folder: Path) -> tuple[list[Life], list[str], float]:
    """The lives, what is wrong, and how long all of it took in s."""
    truth = day(options.data, round(options.hours * 3600 * RATE))
    truth.astype("<i2").tofile(folder / "day.dat")
    place = folder / "recordings"
    place.mkdir()
    draw = random.Random(options.seed)  # noqa: S311 - any instants will do
    stops: list[int | None] = [*sorted(draw.randrange(len(truth)) for _ in range(options.kills)), None]
    lives: list[Life] = []
    began, offset = time.monotonic(), 0
    for stop in stops:
        life = Life(offset, killed=stop is not None)
        live(life, source(folder, offset, len(truth)), place, stop, options)
        lives.append(life)
        offset = min(offset + life.given, len(truth) - 1)
        print(f"at {offset / RATE / 3600:.2f} h", end="\r", file=sys.stderr)
    took = time.monotonic() - began
    return lives, compare(lives, place, truth), took


def main() -> None:
    """Measure, print, and say whether it is as it should be."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of MIT-BIH")
    parser.add_argument("--hours", type=float, default=24.0)
    parser.add_argument("--speed", type=float, default=400.0, help="times real time")
    parser.add_argument("--sync", type=float, default=1.0, help="as for `edge record`")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    end_together()
    with tempfile.TemporaryDirectory() as folder:
        lives, wrong, took = measure(options, Path(folder))
    killed = [life for life in lives if life.killed]
    most_s = max((life.lost_s for life in killed), default=0.0)
    if most_s / options.speed > options.sync + SLACK_S:
        wrong.append(f"a kill cost {most_s / options.speed:.2f} s of the recorder's clock")
    if options.json:
        about = {name: getattr(options, name) for name in ("hours", "speed", "sync", "seed")}
        told = [asdict(life) | {"lost_s": life.lost_s} for life in lives]
        print(json.dumps({"machine": machine(), "took_s": took, **about, "lives": told, "wrong": wrong}))
        sys.exit(bool(wrong))
    segments, kept_s = sum(len(life.segments) for life in lives), sum(life.kept for life in lives) / RATE
    lost_s = sum(life.lost_s for life in killed)
    print(f"{machine()}; {options.hours:g} h of ECG at {options.speed:g} times its speed in {took:.0f} s")
    print(f"--sync {options.sync:g}, {len(killed)} kills, seed {options.seed}; {segments} segments of {kept_s:.1f} s\n")
    print("| kill at, h | lost, s of signal | lost, s of the recorder's clock |\n|---|---|---|")
    for life in killed:
        at = (life.offset + life.given) / RATE / 3600
        print(f"| {at:.3f} | {life.lost_s:.2f} | {life.lost_s / options.speed:.3f} |")
    print(f"| all | {lost_s:.1f} | {lost_s / options.speed:.2f} |")
    print(f"| at most | {most_s:.2f} | {most_s / options.speed:.3f} |\n")
    print("\n".join(wrong) or "every sample on disk is the source's, and every kill is noted")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
