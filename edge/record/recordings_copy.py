"""WFDB records into a directory of recordings and out of it: whole records, under the names they have."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from edge import whole
from edge.plain_files import plain
from edge.record.wfdb_header import characters, glimpse
from schemas.errors import DataError, StateError

_SIDE: Final = (".atr", ".qrs", ".xws")  # what belongs to a record and no header names: annotations, and notes on them
_PLAIN: Final = re.compile(r"[\w.-]+")
_SHARED: Final = 0o666  # as the umask has it: a copy is for others to use


@dataclass(frozen=True, slots=True)
class Record:
    """A record on disk: its header, and the files that make it up beside that."""

    header: Path
    others: tuple[Path, ...]

    @property
    def name(self) -> str:
        """What it is called."""
        return self.header.stem


@dataclass(frozen=True, slots=True)
class Copied:
    """What a copy came to: names of records, and a sentence for each thing that wasn't copied."""

    copied: tuple[str, ...]
    there: tuple[str, ...]  # that were there already
    left: tuple[str, ...] = ()


def copy_all(paths: Iterable[Path], to: Path) -> Copied:
    """Copy what is at ``paths``, each as ``found`` takes it, to ``to``. Raises ``DataError``, ``StateError``."""
    at = [found(path) for path in paths]
    done = copy([record for records, _ in at for record in records], to)
    return replace(done, left=(*(text for _, broken in at for text in broken), *done.left))


def found(path: Path) -> tuple[tuple[Record, ...], tuple[str, ...]]:
    """The records at ``path``, of a folder, of a header, or of a bare name; a sentence for each that is broken.

    Raises ``DataError`` where there is none at all.
    """
    bare = path.parent / f"{path.name}.hea"  # also of ".", which has no name
    headers = sorted(path.glob("*.hea")) if path.is_dir() else [path if path.suffix == ".hea" else bare]
    if not any(header.exists() for header in headers):
        raise DataError(f"there is no WFDB record at {path}: give a folder of them, or a record's name")
    records, broken = [], []
    for header in headers:
        try:
            records.append(_record(header))
        except DataError as error:
            broken.append(str(error))
    return tuple(records), tuple(broken)


def _record(header: Path) -> Record:
    plain(header)
    try:
        text = characters(header.read_bytes())
        glance = glimpse(text)
    except OSError as error:
        raise DataError(f"{header} can't be read: {error.strerror}; see to its owner and its disk") from None
    except DataError as error:
        raise DataError(f"{header} can't be read: {error}; copy it again") from None
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    named = dict.fromkeys(line.split()[0] for line in lines[1 : glance.leads + 1])
    if len(lines) <= glance.leads or not all(map(_PLAIN.fullmatch, named)):
        raise DataError(f"{header} is no single record with its signals beside it: give its segments one by one")
    signals = [header.with_name(name) for name in named]
    missing = [path.name for path in signals if not path.is_file()]
    if missing:
        raise DataError(f"{header} names {', '.join(missing)}, which is not beside it: copy that too")
    sides = [side for ending in _SIDE if (side := header.with_suffix(ending)).is_file()]
    return Record(header, (*signals, *sides))


def copy(records: Iterable[Record], to: Path) -> Copied:
    """Copy records to ``to``, their headers last.

    Each is there as a whole or not at all, also after a power cut. One that was there is given the annotations it
    hasn't got, and signals that are missing or cut short there. Another record of its name, and other annotations,
    stay, and are told. Raises ``StateError`` where the disk is full or refuses.
    """
    copied, there, left, unlike = [], [], [], []
    try:
        to.mkdir(parents=True, exist_ok=True)
        for record in records:
            if (place := to / record.header.name).exists():
                if not place.is_file() or place.read_bytes() != record.header.read_bytes():
                    left.append(f"another record {record.name} is in {to}: rename one of them, or choose another place")
                    continue
                if _mend(record, to):
                    copied.append(record.name)
                else:
                    there.append(record.name)
                unlike += _annotate(record, to)
                continue
            for path in (*record.others, record.header):
                _copy(path, to / path.name)
            copied.append(record.name)
    except OSError as error:
        raise StateError(f"can't copy to {to}: {error.strerror}; free some space, or choose another place") from None
    if unlike:
        left.append(
            f"{', '.join(unlike)} in {to} aren't those of the records that are there already, and stay: "
            "`edge label import` replaces annotations"
        )
    return Copied(tuple(copied), tuple(there), tuple(left))


def _mend(record: Record, to: Path) -> bool:
    """Copy what a record in ``to`` lacks of its signals; whether that was anything. What is longer there stays."""
    signals = [path for path in record.others if path.suffix not in _SIDE]
    short = [path for path in signals if _length(to / path.name) < _length(path)]
    for path in short:
        _copy(path, to / path.name)
    return bool(short)


def _length(path: Path) -> int:
    return path.stat().st_size if path.exists() else -1


def _annotate(record: Record, to: Path) -> list[str]:
    """Copy the annotations that a record in ``to`` hasn't got; the names of those that are there and others."""
    unlike = []
    for path in (path for path in record.others if path.suffix in _SIDE):
        place = to / path.name
        if not place.exists():
            _copy(path, place)
        elif not place.is_file() or place.read_bytes() != path.read_bytes():
            unlike.append(path.name)
    return unlike


def _copy(path: Path, place: Path) -> None:
    with path.open("rb") as source, whole.replacing(place, durable=True, mode=_SHARED) as target:
        shutil.copyfileobj(source, target)
