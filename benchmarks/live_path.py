"""A day of ECG through the live path: recorded as it comes, its beats described as they come, beside the offline path.

    python benchmarks/live_path.py --data ../shared/data/mitdb

The 48 records of MIT-BIH, 30 minutes each, are 24 hours. Each is played as fast as it can be read to an ``edge record``
process of its own, which writes segments (``replay`` reads with wfdb, which takes most of its memory and time). Then
one process reads the segments and feeds the first lead, a second at a time, to a ``BeatStream``, begun anew for each
record. Reported are processor seconds, how many times faster than the heart that is on one core, and the most memory
each process had. The same record goes through the offline path (``condition``, R peaks of the whole lead,
``relate_beats``) in another process: how far its beats and its features are from the live ones, at most. Prints a
table; JSON with ``--json``.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

from broker import end_together, machine

ASKED: Final = 100.0  # times real time
ASKED_MB: Final = 120.0
LATEST: Final = ("--of", "--from")  # what a child of this program is told by


@dataclass(frozen=True)
class Result:
    """Hours of ECG through the live path; seconds are of one core, memory is the most that one process had."""

    hours: float = 0.0
    record_s: float = 0.0
    record_mb: float = 0.0
    features_s: float = 0.0
    features_mb: float = 0.0
    beats: int = 0
    beats_apart: int = 0  # more than a sample from their offline beat, or without one
    features_apart: float = 0.0  # the largest difference of a feature

    @property
    def speed(self) -> float:
        """Times real time on one core, recording and describing together."""
        return 3600 * self.hours / (self.record_s + self.features_s)


def ran(*command: str) -> tuple[float, float, str]:
    """A process's seconds of processor time, its most MB of memory, and what it printed."""
    with tempfile.TemporaryFile("w+") as out:
        process = subprocess.Popen(command, stdout=out, env={**os.environ, "OMP_NUM_THREADS": "1"})
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
        out.seek(0)
        return usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, out.read()


def measure(records: list[Path], folder: Path) -> Result:
    """Record all, then describe all, then compare."""
    result = Result()
    for record in records:
        source = f"replay:{record}?speed=max"
        seconds, mb, _ = ran(
            sys.executable,
            "-m",
            "edge",
            "record",
            "--source",
            source,
            "--to",
            str(folder / record.name),
            "--sync",
            "10",
        )
        result = replace(result, record_s=result.record_s + seconds, record_mb=max(result.record_mb, mb))
    seconds, mb, said = ran(sys.executable, __file__, LATEST[0], *(str(folder / record.name) for record in records))
    live = json.loads(said)
    _, _, said = ran(sys.executable, __file__, LATEST[1], *map(str, records))
    apart, features = 0, 0.0
    for one, other in zip(live["records"], json.loads(said)["records"], strict=True):
        apart += _apart(one["peaks"], other["peaks"])
        features = max(features, _furthest(one, other))
    return replace(
        result,
        hours=live["hours"],
        features_s=seconds,
        features_mb=mb,
        beats=sum(len(one["peaks"]) for one in live["records"]),
        beats_apart=apart,
        features_apart=features,
    )


def _apart(some: list[int], others: list[int]) -> int:
    if len(some) != len(others):
        return abs(len(some) - len(others)) + sum(min(abs(one - other) for other in others) > 1 for one in some)
    return sum(abs(one - other) > 1 for one, other in zip(some, others, strict=True))


def _furthest(one: dict[str, Any], other: dict[str, Any]) -> float:
    import numpy as np  # noqa: PLC0415  - the parent needs no arrays before

    some, others = (np.load(each["features"]) for each in (one, other))
    return float(np.abs(some - others).max()) if some.shape == others.shape else float("inf")


def live(folders: list[Path]) -> dict[str, Any]:
    """The child that describes what was recorded, a second at a time."""
    import numpy as np  # noqa: PLC0415

    from edge.beats.beat_stream import BeatStream  # noqa: PLC0415

    records, seconds_read = [], 0.0
    for folder in folders:
        parts, stream = [], None
        for second, rate in _seconds(folder):
            stream = BeatStream(rate) if stream is None else stream
            parts.append(stream.feed(second))
            seconds_read += len(second) / rate
        assert stream is not None
        parts.append(stream.finish())
        features = np.concatenate([np.hstack([part.rhythm, part.shape]) for part in parts])
        np.save(folder / "live.npy", features)
        peaks = np.concatenate([part.peaks for part in parts])
        records.append({"peaks": peaks.tolist(), "features": str(folder / "live.npy")})
    return {"hours": seconds_read / 3600, "records": records}


def offline(records: list[Path], folder: Path) -> dict[str, Any]:
    """The child that has each record whole."""
    import numpy as np  # noqa: PLC0415
    import wfdb  # noqa: PLC0415

    from edge.beats import ecg  # noqa: PLC0415
    from edge.signals.filters import ecg_band  # noqa: PLC0415
    from edge.signals.r_peaks import RPeaks  # noqa: PLC0415
    from edge.signals.resampling import Resampler  # noqa: PLC0415

    done = []
    for record in records:
        read = wfdb.rdrecord(str(record), channels=[0])
        signal, rate = read.p_signal[:, 0], float(read.fs)
        ahead = np.full(int(ecg.AHEAD * rate), signal[-1])
        found = RPeaks(ecg.RATE).feed(ecg_band(ecg.RATE).feed(Resampler(rate, ecg.RATE).feed(np.append(signal, ahead))))
        peaks = np.rint(found * (rate / ecg.RATE)).astype(np.int64)
        peaks = peaks[peaks < len(signal)]
        beats = ecg.relate_beats(signal, rate, peaks)
        np.save(folder / f"{record.name}.npy", np.hstack([beats.rhythm, beats.shape]))
        done.append({"peaks": peaks[beats.kept].tolist(), "features": str(folder / f"{record.name}.npy")})
    return {"records": done}


def _seconds(folder: Path) -> Iterator[tuple[Any, float]]:
    """Each second of the first lead, in mV, and its rate; read without wfdb, which no sensor needs."""
    import numpy as np  # noqa: PLC0415  - which the parent needs none of

    from edge.record.wfdb_header import parse  # noqa: PLC0415

    for header in sorted(folder.glob("*.hea")):
        about = parse(header.read_text()).signal
        steps = np.memmap(header.with_suffix(".dat"), "<i2", "r").reshape(-1, len(about.leads))[:, 0]
        for at in range(0, len(steps), round(about.rate)):
            second = steps[at : at + round(about.rate)].astype(np.float64)
            yield (second - about.leads[0].baseline) / about.leads[0].gain, about.rate


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of WFDB records")
    parser.add_argument("--records", type=int, default=None, help="only so many of them")
    parser.add_argument("--json", action="store_true")
    parser.add_argument(LATEST[0], nargs="+", type=Path, default=None, help=argparse.SUPPRESS)
    parser.add_argument(LATEST[1], nargs="+", type=Path, default=None, dest="whole", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.of:
        print(json.dumps(live(given.of)))
        return
    if given.whole:
        print(json.dumps(offline(given.whole, Path(os.environ["TMPDIR"]))))
        return
    end_together()
    began = time.monotonic()
    records = sorted(path.with_suffix("") for path in given.data.resolve().glob("*.hea"))[: given.records]
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TMPDIR"] = folder
        result = measure(records, Path(folder))
    took = time.monotonic() - began
    if given.json:
        print(json.dumps({**asdict(result), "speed": result.speed, "machine": machine(), "took_s": took}))
        return
    print(f"{machine()}; {took:.0f} s in all")
    print(
        f"{result.hours:.2f} h of ECG, {result.beats} beats: {result.speed:.0f} times real time on one core "
        f"(asked: {ASKED:g})"
    )
    print(f"edge record, wfdb{result.record_s:7.1f} s   {result.record_mb:6.1f} MB at most")
    print(f"beats, features  {result.features_s:7.1f} s   {result.features_mb:6.1f} MB at most (asked: {ASKED_MB:g})")
    print(
        f"beside the offline path: {result.beats_apart} beats more than a sample apart, features at most "
        f"{result.features_apart:.1e} apart"
    )


if __name__ == "__main__":
    main()
