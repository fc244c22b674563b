"""What a recorder writes to a directory, read while it grows. It is the recorder's own: nothing here writes.

A segment grows as NAME.dat beside NAME.open; once NAME.hea stands in that one's place it is whole (``recordings``).
One that a full disk left open is over where there is a later one, since a recorder has one in hand. In a directory that
was cleared numbers begin anew.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from edge.plain_files import plain
from edge.record.quality import MISSING
from edge.record.segment_files import finite, number_of, numbered
from edge.record.wfdb_header import Header, characters, parse
from edge.sources.wfdb_records import LEAD
from schemas.errors import DataError

_MOST_S: Final = 60.0  # of a lead, read at once
_NO_GAP_S: Final = 0.05
_NAMED: Final = 5  # records in a sentence


@dataclass(frozen=True, eq=False, slots=True)
class Piece:
    """Some of the lead that beats are told from: (n,) in mV, NaN where it has none."""

    samples: NDArray[np.float64]
    rate: float  # Hz
    at: float  # when the last one was taken, in seconds of the recorder's running
    gap: bool  # whether samples are missing before it
    anew: bool = False  # whether the recorder was started before it: its clock stood still, nobody knows for how long


class SegmentTail:
    """Follows the newest segment of ``directory``, and those after it, from where they are now."""

    def __init__(self, directory: Path) -> None:
        """What is there already is not read."""
        self._directory = directory
        self._header: Header | None = None  # of the segment in hand
        self._taken = 0  # its frames that were read
        self._at = 0.0
        self._gap = True
        self._anew = False
        self._number = 0
        found = self._found()
        self.trouble = "" if found else _foreign(directory)  # why nothing may come of what is here, where that is so
        self._there = {path.stem for path in found}  # when the segment in hand began
        newest = max(found, key=number_of, default=None)
        if newest is not None:
            self._number = number_of(newest)
            if newest.suffix == ".open":
                self._begin(newest)
                self._pass_over()

    def read(self) -> Piece | None:
        """The next samples there are; None where there are none yet."""
        while self._header is not None or self._next():
            header = self._header
            if header is None:
                continue
            whole = not self._data(header).with_suffix(".open").exists()
            raw = self._raw(header)
            if not raw and not whole:
                if self._newest() <= self._number:
                    return None
                raw = self._raw(header)  # which may have come before the later segment began
            if raw:
                return self._piece(header, raw)
            self._header = None
        return None

    def _pass_over(self) -> None:
        """Leave out what the segment in hand has so far."""
        if self._header is not None:
            self._taken = _size(self._data(self._header)) // self._header.frame
            self._at += self._taken / self._header.signal.rate

    def _next(self) -> bool:
        """Begin the segment after the one that was read; whether there is one."""
        found = self._found()
        later = [path for path in found if number_of(path) > self._number]
        if not later:
            newest = max(found, key=number_of, default=None)
            if newest is None or newest.stem in self._there:  # the one in hand, or those before one that was removed
                return False
            self._number, self._gap = 0, True  # the directory was cleared
            later = [path for path in found if path.stem not in self._there]
        self._there = {path.stem for path in found}
        self._begin(min(later, key=number_of))
        return True

    def _newest(self) -> int:
        return max(map(number_of, self._found()), default=0)

    def _found(self) -> list[Path]:
        return [path for suffix in (".open", ".hea") for path in numbered(self._directory, suffix)]

    def _begin(self, path: Path) -> None:
        follows = number_of(path) == self._number + 1
        self._number, self._header, self._taken = number_of(path), None, 0
        for place in (path, path.with_suffix(".hea")):  # which it may have become just now
            try:
                self._header = header = parse(characters(plain(place).read_bytes()))
                break
            except OSError:
                continue
            except (ValueError, DataError) as error:
                self.trouble = f"{place} can't be followed ({error}): nothing is found in it"
        else:
            self._gap = True  # damaged
            return
        self._gap = self._gap or not (follows and header.notes.get("after") == "length" and _gap_s(header) <= _NO_GAP_S)
        self._anew = self._anew or header.notes.get("after") == "start"
        if self._gap:
            self._at = max(self._at, finite(header.notes.get("running_s"), 0.0))

    def _data(self, header: Header) -> Path:
        return self._directory / f"{header.name}.dat"

    def _raw(self, header: Header) -> bytes:
        """Whole frames behind those that were read, at most ``_MOST_S`` of them; none where the file is gone."""
        try:
            with plain(self._data(header)).open("rb") as file:
                file.seek(self._taken * header.frame)
                raw = file.read(round(_MOST_S * header.signal.rate) * header.frame)
        except (OSError, DataError):
            return b""
        return raw[: len(raw) // header.frame * header.frame]

    def _piece(self, header: Header, raw: bytes) -> Piece:
        signal = header.signal
        names = [lead.name for lead in signal.leads]
        place = names.index(LEAD) if LEAD in names else 0
        steps = np.frombuffer(raw, "<i2").reshape(-1, len(names))[:, place]
        samples = np.where(steps == MISSING, np.nan, (steps - float(signal.leads[place].baseline)))
        gap, anew, self._gap, self._anew = self._gap, self._anew, False, False
        self._taken += len(steps)
        self._at += len(steps) / signal.rate
        return Piece(samples / signal.leads[place].gain, signal.rate, self._at, gap, anew)


def _foreign(directory: Path) -> str:
    """What to say of records that no recorder made, where there are some."""
    others = sorted(path.stem for path in directory.glob("*.hea"))
    if not others:
        return ""
    named = ", ".join(others[:_NAMED]) + (f" and {len(others) - _NAMED} more" if len(others) > _NAMED else "")
    return (
        f"{directory} has no recordings of this device, only others' ({named}): findings are of what `edge record` or "
        "--record writes there meanwhile; `edge predict --data` looks at those"
    )


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _gap_s(header: Header) -> float:
    return finite(header.notes.get("gap_s"), 0.0)
