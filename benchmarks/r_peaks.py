"""How many beats the R peak detector finds, and how long a day takes it.

    python benchmarks/r_peaks.py --data ../shared/data/mitdb [--detector sleepecg]

All records of a folder from beginning to end, one lead each, as a device hears them: in chunks of a second, or at once
with SleepECG's detector, which takes no chunks. A peak within 150 ms of an annotated beat is true (AAMI EC57);
stretches of ventricular flutter are left out, as there. Prints the worst records, the totals, and the seconds of one
core that 24 hours of ECG take, with resampling and filters; JSON with ``--json``.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import get_args

import numpy as np
import wfdb
from broker import machine
from numpy.typing import NDArray

from edge.beats.detectors import Detector, peaks_by
from edge.beats.ecg import AAMI_OF_SYMBOL
from edge.signals.filters import ecg_band
from edge.signals.r_peaks import RPeaks
from edge.signals.resampling import Resampler

RATE = 180
TOLERANCE_S = 0.15
PACED = "/"
FLUTTER = ("[", "]")


@dataclass(frozen=True)
class Result:
    """One record's counts; ``cpu_s`` for ``hours`` of ECG."""

    record: str
    true: int
    false: int
    missed: int
    shift_ms: float  # median, of the true ones from their annotation
    hours: float
    cpu_s: float


def live_peaks(signal: NDArray[np.float64], rate: float) -> NDArray[np.float64]:
    """The R peaks that a device hears while the signal comes, in s."""
    resampler, band, detector = Resampler(rate, RATE), ecg_band(RATE), RPeaks(RATE)
    second = round(rate)
    parts = [signal[at : at + second] for at in range(0, len(signal), second)]
    return np.concatenate([detector.feed(band.feed(resampler.feed(part))) for part in parts]) / RATE


def measure(header: Path, name: Detector) -> Result:
    """Detect and compare one record."""
    record = header.with_suffix("")
    read = wfdb.rdrecord(str(record), channels=[0])
    marks = wfdb.rdann(str(record), "atr")
    signal = read.p_signal[:, 0]
    find = peaks_by(name)
    began = time.process_time()
    peaks = live_peaks(signal, read.fs) if find is None else find(signal, read.fs) / read.fs
    cpu_s = time.process_time() - began
    symbols = np.array(marks.symbol)
    beats = marks.sample[np.isin(symbols, [*AAMI_OF_SYMBOL, PACED])] / read.fs
    for start, stop in zip(*(marks.sample[symbols == mark] / read.fs for mark in FLUTTER), strict=True):
        beats, peaks = (one[(one < start - TOLERANCE_S) | (one > stop + TOLERANCE_S)] for one in (beats, peaks))
    shifts = match(peaks, beats)
    return Result(
        record.name,
        len(shifts),
        len(peaks) - len(shifts),
        len(beats) - len(shifts),
        round(1000 * float(np.median(shifts)), 1),
        len(signal) / read.fs / 3600,
        cpu_s,
    )


def match(peaks: NDArray[np.float64], beats: NDArray[np.float64]) -> list[float]:
    """From each beat with a peak of its own to that peak, in seconds; each peak serves one beat."""
    shifts: list[float] = []
    peak = beat = 0
    while peak < len(peaks) and beat < len(beats):
        shift = float(peaks[peak] - beats[beat])
        if abs(shift) <= TOLERANCE_S:
            shifts.append(shift)
        peak += shift <= TOLERANCE_S
        beat += shift >= -TOLERANCE_S
    return shifts


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--detector", choices=get_args(Detector), default="own")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    results = [measure(header, options.detector) for header in sorted(options.data.glob("*.hea"))]
    true, false, missed = (sum(getattr(one, name) for one in results) for name in ("true", "false", "missed"))
    day = 24 * sum(one.cpu_s for one in results) / sum(one.hours for one in results)
    total = {"se": true / (true + missed), "ppv": true / (true + false), "cpu_s_a_day": round(day, 1)}
    if options.json:
        print(
            json.dumps(
                {
                    "machine": machine(),
                    "detector": options.detector,
                    **total,
                    "records": [asdict(one) for one in results],
                }
            )
        )
        return
    print("| record | true | false | missed | Se | PPV | shift, ms |\n|---|---|---|---|---|---|---|")
    for one in sorted(results, key=lambda one: -one.false - one.missed)[:8]:
        se, ppv = one.true / (one.true + one.missed), one.true / (one.true + one.false)
        print(f"| {one.record} | {one.true} | {one.false} | {one.missed} | {se:.4f} | {ppv:.4f} | {one.shift_ms:g} |")
    print(f"| all {len(results)} | {true} | {false} | {missed} | {total['se']:.4f} | {total['ppv']:.4f} | |")
    print(f"\n{day:.1f} s of one core for 24 h; {machine()}")


if __name__ == "__main__":
    main()
