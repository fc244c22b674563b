"""WFDB records (PhysioNet's format): a folder of them, or one. Each record is one owner's.

What was recorded here is the exception: a day of one person is 48 segments of ``edge record``, so all segments in a
folder are one owner's, ``RECORDED``. Taken for people of their own they would part one person into training and
held-out, and a model would look better than it is for somebody new.

On the MIT-BIH Arrhythmia Database the field's agreement holds: the four records with paced beats are left out (AAMI
EC57), and de Chazal et al. (2004) part the other patients into DS1 to train and DS2 to test. Records 201 (DS1) and 202
(DS2) are of one person; de Chazal's split is kept as published, so that figures can be compared.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge.dataset import Dataset, concatenate
from edge.plain_files import plain
from edge.record.label_files import annotations_in
from edge.record.segment_files import number_of
from edge.record.wfdb_annotations import CODES
from edge.record.wfdb_header import characters, check_rate
from edge.sources.ecg_beats import label_beats
from edge.sources.ecg_unlabelled import MAKE, NOTES, Lead, none_of
from edge.sources.source import Form, Reader, Reading, Source
from schemas.counted import counted
from schemas.errors import DataError

NO_LABELS = "annotate its beats first, or have the coordinator choose a plan that needs no labels: ecg-masked, ecg-weak"
_MV = {"V": 1e3, "uV": 1e-3}  # in one of a lead's units; others count as mV, as one that nobody gave does
_BITS = {"80": 8, "212": 12, "16": 16, "61": 16, "24": 24, "32": 32}  # of a sample, by WFDB's number of the format
PACED = ("102", "104", "107", "217")
DS1 = (
    "101",
    "106",
    "108",
    "109",
    "112",
    "114",
    "115",
    "116",
    "118",
    "119",
    "122",
    "124",
    "201",
    "203",
    "205",
    "207",
    "208",
    "209",
    "215",
    "220",
    "223",
    "230",
)
DS2 = (
    "100",
    "103",
    "105",
    "111",
    "113",
    "117",
    "121",
    "123",
    "200",
    "202",
    "210",
    "212",
    "213",
    "214",
    "219",
    "221",
    "222",
    "228",
    "231",
    "232",
    "233",
    "234",
)
RECORDED = "recorded"  # whose the segments are that were recorded here
LEAD = "MLII"
MAX_SAMPLES = 50_000_000  # of one lead: a day at 500 Hz; filtering it takes some copies of 400 MB


def records_at(path: str) -> tuple[Path, ...]:
    """The records at a path without their extension: of a folder, of a header, or of a record's bare name.

    Raises ``OSError`` where the folder can't be read, of which ``glob`` would say that nothing is in it.
    """
    place = Path(path).absolute()
    if place.is_dir():
        return tuple(header.with_suffix("") for header in sorted(place.iterdir()) if header.suffix == ".hea")
    if place.suffix == ".hea" and place.is_file():
        return (place.with_suffix(""),)
    bare = place.with_name(place.name + ".hea")
    return (place,) if bare.is_file() else ()


def _open(path: str, form: Form) -> Source:
    make = MAKE.get(form.recipe)
    records = {record.name: record for record in records_at(path)}
    paced = [name for name in records if name in PACED]
    # A device that records has many that nobody has annotated: they are counted, not named one by one.
    unusable = [] if make else [name for name, record in records.items() if number_of(record)]
    bare = [name for name in unusable if not _annotated(records[name])]
    used = {name: record for name, record in records.items() if name not in {*PACED, *bare}}
    if not used and bare:
        raise DataError(f"{path} holds {counted(len(bare), 'recorded segment')} without annotations: {NO_LABELS}")
    if not used:
        raise DataError(
            f"{path} holds only records with paced beats ({', '.join(paced)}), which aren't used: add others"
        )
    tested = tuple(name for name in used if name in DS2) if any(name in DS1 for name in used) else ()
    owned = _by_owner(used)
    notes = ["de Chazal's DS1 trains and DS2 tests; records 201 and 202 are of one person"] if tested else []
    if (segments := len(owned.get(RECORDED, ()))) > 1:
        notes.append(f"{segments} recorded segments count as one person's: keep a folder for each person")

    def read(owners: Sequence[str]) -> Reading:
        parts: list[Dataset] = []
        rejected: Counter[str] = Counter()
        wanted = [(owner, record) for owner in owners for record in owned[owner]]
        for owner, record in wanted:
            try:
                if make is None:
                    parts.append(_read_record(owner, record, rejected))
                else:
                    parts.append(make(Lead(owner, *read_lead(record)), len(wanted), rejected))
            except DataError as error:
                rejected[f"record {record.name}: {error}"] += 1
        return Reading(concatenate(parts) if parts else none_of(form), rejected)

    return Source(
        f"{counted(len(used), 'WFDB record')} at {path}",
        tuple(owned),
        read,
        tested=tested,
        skipped=+Counter({"records with paced beats": len(paced), "recorded segments without annotations": len(bare)}),
        notes=(*notes, *NOTES.get(form.recipe, ())),
    )


def _by_owner(records: Mapping[str, Path]) -> dict[str, list[Path]]:
    """The records of each owner, in the order given: a segment's number says when it was recorded."""
    owned: dict[str, list[Path]] = {}
    for name, record in records.items():
        owned.setdefault(RECORDED if number_of(record) else name, []).append(record)
    return {owner: sorted(theirs, key=number_of) for owner, theirs in owned.items()}


def _read_record(owner: str, record: Path, rejected: Counter[str]) -> Dataset:
    """The labelled beats of one of ``owner``'s records; those that can't be used are counted in ``rejected``.

    Raises ``DataError``.
    """
    if not _annotated(record):
        raise DataError(f"has no annotations ({record.name}.atr): {NO_LABELS}")
    signal, rate = read_lead(record)
    beats = [one for one in annotations_in(record.with_name(f"{record.name}.atr")) if one.beat]
    if not np.isfinite(signal).all():
        raise DataError("has gaps in its signal: cut it into gapless records")
    names = np.array([one.symbol for one in beats])
    if not names.any():
        raise DataError("has annotations but no labelled beat: annotate its beats first")
    if any(one.code == CODES["/"] for one in beats):
        raise DataError("has paced beats, which AAMI EC57 leaves out")
    peaks = np.array([one.sample for one in beats], np.int64)
    return label_beats(owner, signal, rate, peaks, names, rejected)


def read_lead(record: Path) -> tuple[NDArray[np.float64], float]:
    """The lead of a record that beats are told from, in mV, NaN where it has gaps, and its rate in Hz.

    Raises ``DataError``.
    """
    import wfdb  # noqa: PLC0415  - half a second of imports that only a device with WFDB records pays

    place = plain(record.with_name(f"{record.name}.hea"))
    header = _parsed(wfdb.rdheader, record)
    check_rate(characters(place.read_bytes()), header.fs)
    if not header.sig_name:
        raise DataError("has no signals of its own: give the segments of a multi-segment record one by one")
    for name in dict.fromkeys(header.file_name):
        plain(record.with_name(name))
    if not header.sig_len:
        raise DataError(_no_length(record, header))
    if header.sig_len > MAX_SAMPLES:
        raise DataError(f"is {header.sig_len} samples long: cut it into records of at most {MAX_SAMPLES}")
    lead = header.sig_name.index(LEAD) if LEAD in header.sig_name else 0
    try:
        signal: NDArray[np.float64] = _parsed(wfdb.rdrecord, record, channels=[lead]).p_signal[:, 0]
    except DataError:
        if (there := _samples(record, header)) is not None and there < header.sig_len:
            text = f"has a header of {header.sig_len} samples, and {header.file_name[0]} has {there}: copy both again"
            raise DataError(text) from None
        raise
    return signal * _MV.get(header.units[lead], 1.0), float(header.fs)


def _no_length(record: Path, header: Any) -> str:
    """What is known of a record whose header leaves its length out, or says 0: WFDB's "as long as its file"."""
    name = header.file_name[0]
    file = record.with_name(name)
    size = file.stat().st_size if file.is_file() else 0
    if not size:
        return f"has a header that doesn't say how long it is, and nothing in {name}: copy it again"
    many, there = f"{size} bytes", _samples(record, header)
    if there is not None:
        many += f", which are {there} samples"
    return (
        f"has a header that doesn't say how long it is ({name} has {many}): write the number of samples behind the "
        "rate in its first line"
    )


def _samples(record: Path, header: Any) -> int | None:
    """How many samples of a lead its first file has; None where the format doesn't tell."""
    name, bits = header.file_name[0], _BITS.get(header.fmt[0])
    file = record.with_name(name)
    if bits is None or any(each != 1 for each in header.samps_per_frame) or not file.is_file():
        return None
    signals, before = header.file_name.count(name), header.byte_offset[0] or 0
    return int(8 * (file.stat().st_size - before) // (bits * signals))


def _annotated(record: Path) -> bool:
    return record.with_name(record.name + ".atr").is_file()


def _parsed(parse: Callable[..., Any], record: Path, **options: object) -> Any:
    """What one of wfdb's readers makes of a record; ``DataError`` for whatever it lets through on a broken file."""
    try:
        return parse(str(record), **options)
    except PermissionError as error:
        raise DataError(f"can't read {error.filename}: {error.strerror}; see to its owner") from None
    except Exception as error:
        raise DataError(f"can't be read as WFDB ({type(error).__name__}: {error}): copy it again") from error


READER = Reader("WFDB records (a folder of .hea, .dat and .atr files)", lambda path: bool(records_at(path)), _open)
