"""The header of a recorded segment, as text, and back: PhysioNet's WFDB header for format 16. Pure.

Both halves are here. What is read are the headers this writes and others' record lines; ``wfdb`` reads all of it too.
A segment that isn't finished has a header with the length 0, which says in WFDB: as long as its file.
Source: PhysioNet, "header(5)" and "signal(5)" of the WFDB Applications Guide.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from edge.live.source import Lead, Signal
from schemas.errors import DataError

BYTES: Final = 2  # of a sample
BITS: Final = 16
_RATE: Final = 2  # its place in a header's first line
_RATES: Final = (1e-3, 1e7)  # Hz, of any record: what is outside is damage
_RECORD: Final = re.compile(r"([-\w]+)(?:/\d+)?[ \t]+(\d+)[ \t]+([\d.eE+-]+)\S*(?:[ \t]+(\d+))?(?:[ \t]+(.*))?")
_SIGNAL: Final = re.compile(
    r"(\S+)[ \t]+16[ \t]+([\d.eE+-]+)\((-?\d+)\)/mV[ \t]+16[ \t]+0[ \t]+(-?\d+)[ \t]+(-?\d+)[ \t]+0[ \t]+(.*)"
)
_NOTE: Final = re.compile(r"#\s*([a-z_]+):\s*(.*)")


@dataclass(frozen=True, slots=True)
class Header:
    """A record of one file in format 16. ``notes`` are comment lines of ``name: value``, in order."""

    name: str
    signal: Signal
    started: datetime  # by the device's clock, which may be wrong; nothing depends on it
    samples: int | None = None  # of each lead; None while it is being written
    first: tuple[int, ...] = ()  # each lead's first sample
    checksums: tuple[int, ...] = ()  # each lead's sum, 16 bits
    notes: Mapping[str, str] = field(default_factory=dict)

    @property
    def frame(self) -> int:
        """Bytes of one sample of all leads."""
        return BYTES * len(self.signal.leads)


@dataclass(frozen=True, slots=True)
class Glance:
    """What any record's header tells without its signals: ``samples`` is 0 where it doesn't say."""

    name: str
    leads: int
    rate: float
    samples: int
    started: str
    notes: Mapping[str, str]

    @property
    def length_s(self) -> float:
        """Its length."""
        return self.samples / self.rate


def characters(file: bytes) -> str:
    """A header's file as text, also where an editor put a mark before it or letters aren't UTF-8; wfdb skips both."""
    return file.decode("utf-8-sig", errors="replace")


def text(header: Header) -> str:
    """The header's file."""
    leads = header.signal.leads
    about = f"{header.signal.rate:.12g} {header.samples or 0} {header.started:%H:%M:%S %d/%m/%Y}"
    lines = [f"{header.name} {len(leads)} {about}"]
    zeros = (0,) * len(leads)
    for lead, first, total in zip(leads, header.first or zeros, header.checksums or zeros, strict=True):
        name = " ".join(lead.name.split())
        lines.append(f"{header.name}.dat 16 {lead.gain:.12g}({lead.baseline})/mV {BITS} 0 {first} {total} 0 {name}")
    lines += [f"# {name}: {' '.join(value.split())}" for name, value in header.notes.items()]
    return "\n".join(lines) + "\n"


def parse(content: str) -> Header:
    """What ``text`` made. Raises ``DataError`` where it is another one's or damaged."""
    glance = glimpse(content)
    found = [_SIGNAL.fullmatch(line) for line in content.splitlines()[1:] if line and not line.startswith("#")]
    leads = tuple(Lead(each[6], float(each[2]), int(each[3])) for each in found if each)
    try:
        started = datetime.strptime(glance.started, "%H:%M:%S %d/%m/%Y")  # noqa: DTZ007 - WFDB's has no time zone
    except ValueError:
        raise DataError("its header says no date") from None
    if len(leads) != glance.leads or None in found or not leads:
        raise DataError("its header is not one of a recorded segment")
    return Header(
        glance.name,
        Signal(leads, glance.rate),
        started,
        glance.samples or None,
        tuple(int(each[4]) for each in found if each),
        tuple(int(each[5]) for each in found if each),
        glance.notes,
    )


def glimpse(content: str) -> Glance:
    """What the record line and our notes say. Raises ``DataError`` where there is no record line."""
    lines = content.splitlines()
    record = next((line for line in lines if line and not line.startswith("#")), "")
    found = _RECORD.fullmatch(record.strip())
    try:
        rate = float(found[3]) if found else 0.0
    except ValueError:
        rate = 0.0
    if found is None or not _RATES[0] <= rate <= _RATES[1]:
        raise DataError("its header is damaged")
    notes = {each[1]: each[2] for line in lines if (each := _NOTE.fullmatch(line))}
    return Glance(found[1], int(found[2]), rate, int(found[4] or 0), (found[5] or "").strip(), notes)


def check_rate(content: str, taken: float) -> None:
    """Raises ``DataError`` where a header's rate isn't the one ``taken``: for one that is none, wfdb takes 250 Hz."""
    lines = (line.split() for line in content.splitlines())
    words = next((line for line in lines if line and not line[0].startswith("#")), [])
    said = words[_RATE].partition("/")[0].partition("(")[0] if len(words) > _RATE else ""
    try:
        if not said or float(said) == taken:
            return
    except ValueError:
        pass
    raise DataError(f"has a header with {said} for a sampling rate: write samples a second, as 360 or 257.5")


def checksum(total: int) -> int:
    """A sum of samples as the header has it: its lowest 16 bits, with their sign."""
    return (total + 2**15) % 2**16 - 2**15
