"""Recordings in words: what ``edge data list`` prints, and what ``edge data show`` says of a recorded segment."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from edge.core.budget import size
from edge.plain_files import plain
from edge.record.segment_files import Segment, finite, segments
from edge.record.timeline import wrong_rate
from edge.record.wfdb_header import Glance, characters, glimpse
from schemas.counted import counted
from schemas.errors import DataError


@dataclass(frozen=True, slots=True)
class Row:
    """A record as it is listed."""

    glance: Glance
    size: int  # bytes
    annotated: bool
    open: bool = False  # it is being recorded, or a crash has left it

    def about(self) -> dict[str, object]:
        """For programs."""
        return {
            "name": self.glance.name,
            "started": self.glance.started,
            "seconds": round(self.glance.length_s, 3),
            "leads": self.glance.leads,
            "rate_hz": self.glance.rate,
            "bytes": self.size,
            "annotated": self.annotated,
            "open": self.open,
            "notes": dict(self.glance.notes),
        }


def rows(directory: Path) -> tuple[tuple[Row, ...], tuple[str, ...]]:
    """Every record in ``directory``, one that is open included, in order of their names; the headers that are none.

    Raises ``DataError``.
    """
    if not directory.is_dir():
        raise DataError(f"there is no folder {directory}: give the one that is recorded to")
    found, damaged = [], []
    for path in sorted([*directory.glob("*.hea"), *directory.glob("*.open")], key=lambda path: path.stem):
        try:
            found.append(_row(path))
        except FileNotFoundError:
            continue  # it was finished, or removed, just now
        except (OSError, DataError):
            damaged.append(path.name)
    return tuple(found), tuple(damaged)


def _row(path: Path) -> Row:
    glance = glimpse(characters(plain(path).read_bytes()))
    data = path.with_suffix(".dat")
    length = data.stat().st_size if data.is_file() else 0
    if path.suffix == ".open":
        glance = Glance(
            glance.name, glance.leads, glance.rate, length // (2 * glance.leads), glance.started, glance.notes
        )
    return Row(glance, length + path.stat().st_size, path.with_suffix(".atr").is_file(), path.suffix == ".open")


def listing(directory: Path, *, as_json: bool) -> Iterator[str]:
    """A line for each record, and one for all."""
    found, damaged = rows(directory)
    if as_json:
        yield from (json.dumps(row.about()) for row in found)
        return
    for row in found:
        glance, notes = row.glance, row.glance.notes
        marks = [f"quality {notes['quality']}"] if "quality" in notes else []
        marks += _rate_mark(glance)
        marks += ["annotated"] if row.annotated else []
        marks += ["not finished"] if row.open else []
        if notes.get("after", "start") not in {"start", "length"}:
            marks.append(f"after {notes['after']} ({notes.get('gap_s', '?')} s)")
        leads = f"{glance.leads} x {glance.rate:g} Hz"
        yield f"{glance.name}  {glance.started or '?':19}  {glance.length_s:9.1f} s  {leads}  {'  '.join(marks)}"
    hours = sum(row.glance.length_s for row in found) / 3600
    yield f"{counted(len(found), 'record')}, {hours:.1f} h, {size(sum(row.size for row in found))}"
    if damaged:
        names = ", ".join(map(_printable, damaged))
        yield f"left out: {names}, which can't be read as headers of WFDB: see to their owner, or copy them again"


def _printable(name: str) -> str:
    """A file's name as any terminal takes it, also where it isn't UTF-8."""
    return name.encode(errors="backslashreplace").decode()


def _rate_mark(glance: Glance) -> list[str]:
    """What the source's rate was where its header can't be right: its times are wrong by as much."""
    measured = finite(glance.notes.get("measured_hz"), 0.0)
    wrong = measured > 0 and glance.rate > 0 and wrong_rate(glance.rate, measured)
    return [f"WRONG RATE: {measured:.4g} Hz were measured"] if wrong else []


def recorded(path: str) -> tuple[str, ...]:
    """What is noted of the segments at ``path``, a folder or one segment; nothing where none was recorded there."""
    place = Path(path)
    folder, name = (place, None) if place.is_dir() else (place.parent, place.name.removesuffix(".hea"))
    found = [segment for segment in segments(folder) if name in {None, segment.glance.name}]
    if not found:
        return ()
    if name is not None:
        return tuple(f"{key + ':':13} {value}" for key, value in found[0].glance.notes.items())
    hours = sum(segment.glance.length_s for segment in found) / 3600
    worst = min(found, key=_quality)
    many = f"{counted(len(found), 'segment')}, {hours:.1f} h"
    return (f"recorded: {many}; quality at least {_quality(worst):.2f} ({worst.glance.name})",)


def _quality(segment: Segment) -> float:
    """Of its worst lead."""
    with contextlib.suppress(ValueError):
        return min(map(float, segment.glance.notes.get("quality", "").split()), default=0.0)
    return 0.0
