"""What the quality index of recordings makes of MIT-BIH, by its experts' marks and by noise that is added.

    python benchmarks/signal_quality.py PATH_TO_MITDB

Seconds of both leads of all records are sorted by the signal-quality marks in their annotations (`~`), and by what
``edge.record.quality`` says of them. Then white noise is added to the first lead of every record, at a ratio to the
record's own power, and what is left of the index is told. Prints tables.
"""

from __future__ import annotations

import argparse
from array import array
from collections import Counter
from pathlib import Path
from typing import Any, Final

import numpy as np
import wfdb
from broker import machine

from edge.record.quality import WINDOW, Quality, Tally, judge, measure

GAIN: Final = 200.0  # steps a mV of every record
RATE: Final = 360
MARKS: Final = ("none", "noisy", "unreadable")
RATIOS_DB: Final = (24, 18, 12, 6, 0, -6)


def marked(annotation: Any, lead: int, seconds: int) -> list[int]:
    """For each second the worst mark that holds in it: an index of ``MARKS``."""
    marks = [0] * (seconds + 1)
    begun, mark = 0, 0
    changes = [
        (s, t) for s, y, t in zip(annotation.sample, annotation.symbol, annotation.subtype, strict=True) if y == "~"
    ]
    for sample, kind in [*changes, (seconds * RATE, 0)]:
        for second in range(begun // RATE, min(seconds, sample // RATE) + 1):
            marks[second] = max(marks[second], mark)
        begun = sample
        mark = 2 if kind == -1 or kind & (0x10 << lead) else 1 if kind & (1 << lead) else 0
    return marks[:seconds]


def windows(lead: Any) -> list[Quality]:
    """What each window of a lead comes to."""
    whole = [
        measure(array("h", second.tolist()), RATE) for second in lead[: len(lead) // RATE * RATE].reshape(-1, RATE)
    ]
    return [judge(whole[start : start + WINDOW], GAIN) for start in range(0, len(whole), WINDOW)]


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, metavar="PATH_TO_MITDB", help="the MIT-BIH records")
    folder = parser.parse_args().data
    counts: Counter[tuple[int, str]] = Counter()
    left: dict[int, list[float]] = {ratio: [] for ratio in RATIOS_DB}
    draw = np.random.default_rng(1)
    for header in sorted(folder.glob("*.hea")):
        record = wfdb.rdrecord(str(header.with_suffix("")), physical=False)
        annotation = wfdb.rdann(str(header.with_suffix("")), "atr")
        for lead in range(2):
            found = windows(record.d_signal[:, lead])
            marks = marked(annotation, lead, record.sig_len // RATE)
            for number, quality in enumerate(found):
                for mark in (0, 1, 2):
                    share = marks[number * WINDOW : (number + 1) * WINDOW].count(mark)
                    total = quality.good_s + quality.poor_s + quality.off_s
                    counts[mark, "seconds"] += share
                    counts[mark, "not good"] += round(share * (1 - quality.good_s / total))
        first = record.d_signal[:, 0].astype(float)
        for ratio in RATIOS_DB:
            noise = draw.normal(0.0, first.std() * 10 ** (-ratio / 20), len(first))
            samples = np.clip(np.rint(first + noise), -32767, 32767).astype(int)
            left[ratio].append(Tally(RATE, GAIN).add(samples.tolist()).total.index)
    print(machine(), "\n\n| experts' mark | seconds | of them poor or off, % |\n|---|---|---|")
    for mark, name in enumerate(MARKS):
        seconds = counts[mark, "seconds"]
        print(f"| {name} | {seconds} | {100 * counts[mark, 'not good'] / max(1, seconds):.1f} |")
    print("\n| white noise, dB | index, median over records | least |\n|---|---|---|")
    for ratio, indices in left.items():
        print(f"| {ratio} | {np.median(indices):.3f} | {min(indices):.3f} |")


if __name__ == "__main__":
    main()
