"""What a model finds in recordings that nobody has labelled: ``edge predict``.

Each gapless stretch of a lead goes through ``beat_stream`` in chunks, as it would live, and the model says of each beat
what it is, or how unusual it is. Counts come out, and on request an annotation file beside the record that any WFDB
viewer shows.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from edge import whole
from edge.beats.beat_stream import Described, beats_of
from edge.beats.detectors import Detector, Peaks, peaks_by
from edge.beats.masked_beats import UNUSUAL
from edge.findings.alerts import LIMITS
from edge.findings.beat_windows import GAIN
from edge.findings.classifier import BeatClassifier, Runtime, chosen
from edge.findings.model_choice import choose
from edge.record.quality import LEAST, MISSING, MOST, Tally
from edge.record.wfdb_annotations import CODES, Annotation, encode
from edge.sources import reading, wfdb_records
from edge.sources.ecg_beats import CLASSES
from schemas.errors import DataError, PlanError, SettingsError, StateError
from schemas.parameters import Parameters
from schemas.plan import Plan
from schemas.plan_file import find

MASKED: Final = "ecg-masked"
SHOWN: Final = 20  # of a record's most unusual beats, in JSON
POOR: Final = LIMITS["signal"].default  # quality below which it tells of nothing else live
WIDTH: Final = 8  # of a column
ANNOTATOR: Final = "fb"  # the ending of the annotation files
SYMBOLS: Final = {"N": "N", "S": "S", "V": "V", "F": "F", "Q": "Q"}  # of AAMI classes in an annotation file


@dataclass(frozen=True, slots=True)
class Unusual:
    """Scores of a record's beats (``masked_beats.scores``): how many are over ``UNUSUAL``, and how far up they go."""

    beats: int
    median: float
    highest: float
    at_s: tuple[float, ...]  # where the most unusual beats are, the first of them first


@dataclass(frozen=True, slots=True)
class RecordFindings:
    """Of one record: how long it is and how much of that could be used, s; its beats by class; beats a minute.

    Of a model that tells no classes apart the beats are one class, and ``unusual`` says how many it couldn't fill in.
    """

    record: str
    seconds: float
    used_s: float
    beats: dict[str, int]
    rate: float | None
    model: str  # which one says so
    quality: float  # of the lead that is read, 0 to 1 (``edge.record.quality``): beats found in noise are none
    telling: int | None = None  # the minute, from 0, in which it takes most beats for something else than N
    unusual: Unusual | None = None


def examine(
    plan_name: str,
    model: Path | None,
    path: str,
    *,
    annotate: bool,
    state: Path | None = None,
    runtime: Runtime = "auto",
    detector: Detector = "own",
    report: Callable[[str], None] = lambda _: None,
) -> list[RecordFindings]:
    """What ``model``, or the one a device of this state directory uses, finds in each record at ``path``.

    A record that can't be used is told to ``report``, and the others are examined. Raises any ``FedbeatError``.
    """
    file, peaks_of = find(plan_name), peaks_by(detector)
    if annotate and file.plan.data == MASKED:
        raise PlanError(f"plan {file.plan.name!r} gives beats a score and no class to annotate: leave --annotate out")
    if file.plan.data == MASKED:
        if runtime == "onnx":
            raise SettingsError(f"PyTorch alone runs plan {file.plan.name!r}: leave --runtime onnx out")
        chosen("torch")
        own, name = choose(file, model, state)
    else:
        classifier = BeatClassifier.of(plan_name, model, runtime, state)
    with reading(path):
        records = wfdb_records.records_at(path)
    if not records:
        raise DataError(f"there is no WFDB record at {path}: give a folder of them, or one's name")
    found = []
    for record, signal, rate, beats in _usable(records, peaks_of, report):
        if file.plan.data == MASKED:
            one = _findings(record, signal, rate, beats.peaks, {file.plan.classes[0]: len(beats.peaks)}, name)
            found.append(replace(one, unusual=_unusual(beats, rate, own.parameters, file.plan)))
            continue
        classes = classifier.places(beats)
        if annotate:
            _annotate(record, beats.peaks, classes)
        counts = Counter(CLASSES[place] for place in classes.tolist())
        one = _findings(record, signal, rate, beats.peaks, {of: counts[of] for of in CLASSES}, classifier.name)
        found.append(replace(one, telling=telling_minute(beats.peaks / rate, classes != CLASSES.index("N"))))
    return found


def _usable(
    records: Sequence[Path], find_peaks: Peaks | None, report: Callable[[str], None]
) -> Iterator[tuple[Path, NDArray[np.float64], float, Described]]:
    """Each record that can be used, its lead in mV, its rate in Hz, and its beats; the others are told to ``report``.

    Raises ``DataError`` where there are no others.
    """
    left_out: list[str] = []
    for record in records:
        try:
            signal, rate = wfdb_records.read_lead(record)
            beats = beats_of(signal, rate, find_peaks)
        except DataError as error:
            left_out.append(f"record {record.name}: {error}")
        else:
            yield record, signal, rate, beats
    if len(left_out) == len(records):
        raise DataError("; ".join(left_out))
    for text in left_out:
        report(f"left out: {text}")


def lines(found: list[RecordFindings]) -> Iterator[str]:
    """The findings for people."""
    scored = any(one.unusual for one in found)
    heads = ("unusual", "median", "highest") if scored else CLASSES
    yield f"{'record':16}  minutes  used quality  rate    beats  " + "".join(f"{name:>{WIDTH}}" for name in heads)
    for one in found:
        rate = "   -" if one.rate is None else f"{one.rate:4.0f}"
        used = f"{one.used_s / one.seconds:.0%}" if one.seconds else "-"
        cells: tuple[float, ...] = tuple(one.beats.get(name, 0) for name in CLASSES)
        if one.unusual:
            cells = one.unusual.beats, one.unusual.median, one.unusual.highest
        numbers = "".join(f"{cell:{WIDTH}}" for cell in cells)
        whence = f"{one.record:16} {one.seconds / 60:8.1f} {used:>5} {one.quality:7.2f}"
        yield f"{whence}  {rate} {sum(one.beats.values()):8}  {numbers}"
    if scored:
        yield f"unusual: a score over {UNUSUAL:g}, the logarithm of a beat's error over what is usual in its record"
    for one in found:
        if one.quality < POOR:
            yield f"{one.record} is mostly noise, or no ECG: what is found in it isn't to be believed"
    for one in found:
        if one.telling is not None and one.seconds > 60 and one.quality >= POOR:  # noqa: PLR2004 - there is but one minute else
            yield f"worth labelling first in {one.record}: minute {one.telling + 1}"
    for name in dict.fromkeys(one.model for one in found):
        yield f"model: {name}"
    yield "a model's opinion, and no diagnosis"


def json_lines(found: list[RecordFindings]) -> Iterator[str]:
    """The findings for machines."""
    return (json.dumps(asdict(one)) for one in found)


def _unusual(beats: Described, rate: float, parameters: Parameters, plan: Plan) -> Unusual:
    if not len(beats.peaks):
        return Unusual(0, 0.0, 0.0, ())
    from edge.findings.anomaly import score_beats  # noqa: PLC0415 - PyTorch, which who only classifies may be without

    scores = score_beats(parameters, plan, beats)
    most = np.sort(np.argsort(-scores, kind="stable")[:SHOWN])
    return Unusual(
        int((scores > UNUSUAL).sum()),
        round(float(np.median(scores)), 2),
        round(float(scores.max()), 2),
        tuple(round(at, 1) for at in (beats.peaks[most[scores[most] > UNUSUAL]] / rate).tolist()),
    )


def _findings(
    record: Path,
    signal: NDArray[np.float64],
    rate: float,
    peaks: NDArray[np.int64],
    counts: dict[str, int],
    model: str,
) -> RecordFindings:
    intervals = np.diff(peaks) / rate
    return RecordFindings(
        record.name,
        round(len(signal) / rate, 1),
        round(float(np.isfinite(signal).sum()) / rate, 1),
        counts,
        round(60 / float(np.median(intervals)), 1) if len(intervals) else None,
        model,
        round(_quality(signal, rate), 3),
    )


def _quality(signal: NDArray[np.float64], rate: float) -> float:
    """The quality index of a lead in mV; what is missing, NaN, isn't good."""
    each = max(1, round(rate))
    tally, minute = Tally(each, GAIN), 60 * each  # of a day at once the lists would take a gigabyte
    for start in range(0, len(signal), minute):
        part = signal[start : start + minute]
        steps = np.nan_to_num(np.clip(np.round(part * GAIN), LEAST, MOST), nan=MISSING)
        tally = tally.add(steps.astype(np.int16).tolist())
    return tally.total.index


def telling_minute(at: NDArray[np.float64], other: NDArray[np.bool_]) -> int | None:
    """The minute, from 0, with most of the ``other`` beats, the earliest of equals; ``at`` (n,) is when each is, in s.

    Labelled by hand it teaches a personal model most: a minute of usual beats alone shows it nothing new.
    """
    counts = np.bincount((at[other] // 60).astype(np.int64))
    return int(counts.argmax()) if len(counts) else None


def _annotate(record: Path, peaks: NDArray[np.int64], classes: NDArray[np.int64]) -> None:
    """Raises ``StateError``; then what was there stays. ``wfdb.wrann`` doesn't hear that a disk is full."""
    if not len(peaks):
        return
    codes = [CODES[SYMBOLS[CLASSES[place]]] for place in classes.tolist()]
    place = record.with_name(f"{record.name}.{ANNOTATOR}")
    try:
        with whole.replacing(place, durable=False, mode=0o666) as file:  # less the umask: for any viewer
            file.write(encode(map(Annotation, peaks.tolist(), codes)))
    except OSError as error:
        raise StateError(f"can't write {place}: {error.strerror}; see to its folder, and to the disk") from None
