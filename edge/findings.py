"""What a model finds in recordings that nobody has labelled: ``edge predict``.

Each gapless stretch of a lead goes through ``beat_stream`` in chunks, as it would live, and the model says of each beat
what it is. Counts come out, and on request an annotation file beside the record that any WFDB viewer shows.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from edge.beat_stream import BeatStream, Described
from edge.classifier import BeatClassifier, Runtime
from edge.sources import wfdb_records
from edge.sources.ecg_beats import CLASSES
from schemas.errors import DataError, StateError

CHUNK_S: Final = 60  # of a lead at a time
ANNOTATOR: Final = "fb"  # the ending of the annotation files
SYMBOLS: Final = {"N": "N", "S": "S", "V": "V", "F": "F", "Q": "Q"}  # of AAMI classes in an annotation file


@dataclass(frozen=True, slots=True)
class Findings:
    """Of one record: how long it is and how much of that could be used, s; its beats by class; beats a minute."""

    record: str
    seconds: float
    used_s: float
    beats: dict[str, int]
    rate: float | None
    model: str  # which one says so
    telling: int | None  # the minute, from 0, in which it takes most beats for something else than N; None without any


def examine(
    plan_name: str,
    model: Path | None,
    path: str,
    *,
    annotate: bool,
    state: Path | None = None,
    runtime: Runtime = "auto",
) -> list[Findings]:
    """What ``model``, or the one a device of this state directory uses, finds in each record at ``path``.

    Raises any ``FedbeatError``.
    """
    classifier = BeatClassifier.of(plan_name, model, runtime, state)
    records = wfdb_records.records_at(path)
    if not records:
        raise DataError(f"there is no WFDB record at {path}: give a folder of them, or one's name")
    found = []
    for record in records:
        signal, rate = wfdb_records.read_lead(record)
        beats = [_shifted(start, described) for start, described in _described(signal, rate)]
        peaks, classes = _classified(beats, classifier)
        if annotate:
            _annotate(record, peaks, classes)
        found.append(_findings(record, signal, rate, peaks, classes, classifier.name))
    return found


def lines(found: list[Findings]) -> Iterator[str]:
    """The findings for people."""
    yield f"{'record':16}  minutes  used  rate    beats  " + "".join(f"{name:>7}" for name in CLASSES)
    for one in found:
        rate = "   -" if one.rate is None else f"{one.rate:4.0f}"
        used = f"{one.used_s / one.seconds:.0%}" if one.seconds else "-"
        counts = "".join(f"{one.beats.get(name, 0):7}" for name in CLASSES)
        yield f"{one.record:16} {one.seconds / 60:8.1f} {used:>5}  {rate} {sum(one.beats.values()):8}  {counts}"
    for one in found:
        if one.telling is not None and one.seconds > 60:  # noqa: PLR2004 - there is but one minute else
            yield f"worth labelling first in {one.record}: minute {one.telling + 1}"
    for name in dict.fromkeys(one.model for one in found):
        yield f"model: {name}"
    yield "a model's opinion, and no diagnosis"


def json_lines(found: list[Findings]) -> Iterator[str]:
    """The findings for machines."""
    return (json.dumps(asdict(one)) for one in found)


def _described(signal: NDArray[np.float64], rate: float) -> Iterator[tuple[int, Described]]:
    """The beats of each gapless stretch, and where it begins; a flat stretch has none."""
    there = np.isfinite(signal)
    edges = np.flatnonzero(np.diff(np.concatenate([[False], there, [False]])))
    for start, stop in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True):
        stream, chunk = BeatStream(rate), int(CHUNK_S * rate)
        try:
            for at in range(start, stop, chunk):
                yield start, stream.feed(signal[at : min(at + chunk, stop)])
            yield start, stream.finish()
        except DataError:
            continue


def _shifted(start: int, beats: Described) -> Described:
    return Described(beats.peaks + start, beats.rhythm, beats.shape)


def _classified(beats: list[Described], classifier: BeatClassifier) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """All R peaks (n,) and what the model takes each beat for (n,), a place in ``CLASSES``."""
    peaks, rhythm, shape = (
        np.concatenate([getattr(one, name) for one in beats]) for name in ("peaks", "rhythm", "shape")
    )
    return peaks, classifier.places(Described(peaks, rhythm, shape))


def _findings(
    record: Path,
    signal: NDArray[np.float64],
    rate: float,
    peaks: NDArray[np.int64],
    classes: NDArray[np.int64],
    model: str,
) -> Findings:
    counts = Counter(CLASSES[place] for place in classes.tolist())
    intervals = np.diff(peaks) / rate
    return Findings(
        record.name,
        round(len(signal) / rate, 1),
        round(float(np.isfinite(signal).sum()) / rate, 1),
        {name: counts[name] for name in CLASSES},
        round(60 / float(np.median(intervals)), 1) if len(intervals) else None,
        model,
        telling_minute(peaks / rate, classes != CLASSES.index("N")),
    )


def telling_minute(at: NDArray[np.float64], other: NDArray[np.bool_]) -> int | None:
    """The minute, from 0, with most of the ``other`` beats, the earliest of equals; ``at`` (n,) is when each is, in s.

    Labelled by hand it teaches a personal model most: a minute of usual beats alone shows it nothing new.
    """
    counts = np.bincount((at[other] // 60).astype(np.int64))
    return int(counts.argmax()) if len(counts) else None


def _annotate(record: Path, peaks: NDArray[np.int64], classes: NDArray[np.int64]) -> None:
    import wfdb  # noqa: PLC0415  - half a second of imports that only who annotates pays

    if not len(peaks):
        return
    symbols = [SYMBOLS[CLASSES[place]] for place in classes.tolist()]
    try:
        wfdb.wrann(record.name, ANNOTATOR, peaks, symbol=symbols, write_dir=str(record.parent))
    except OSError as error:
        raise StateError(f"can't write {record}.{ANNOTATOR}: {error.strerror}; see to its folder") from None
