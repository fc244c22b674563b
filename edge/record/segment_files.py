"""Segments on disk that are whole: finding them, and removing the oldest. ``recordings`` makes them."""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from edge.plain_files import plain
from edge.record.wfdb_header import Glance, characters, glimpse
from schemas.errors import DataError

_NAME: Final = re.compile(r"ecg_(\d{6,12})_\d{8}T\d{6}")
_DISK_BLOCK: Final = 512  # bytes, in which the kernel counts


@dataclass(frozen=True, slots=True)
class Segment:
    """One that is whole."""

    path: Path  # of its header
    glance: Glance
    size: int  # bytes of the disk that all its files take

    @property
    def ended_s(self) -> float:
        """Second of running at which it ended."""
        return finite(self.glance.notes.get("ended_s"), self.began_s + self.glance.length_s)

    @property
    def began_s(self) -> float:
        """And began."""
        return finite(self.glance.notes.get("running_s"), 0.0)


def segments(directory: Path) -> tuple[Segment, ...]:
    """The whole segments in ``directory``, oldest first. Those whose header can't be read are left out."""
    found = []
    for path in numbered(directory, ".hea"):
        with contextlib.suppress(OSError, ValueError, DataError):
            found.append(Segment(path, glimpse(characters(plain(path).read_bytes())), disk_size(path)))
    return tuple(found)


def prune(
    directory: Path,
    most: int | None,
    age_s: float | None,
    running_s: float,
    report: Callable[[str], None],
    *,
    in_hand: int = 0,
    trial: bool = False,
) -> tuple[Segment, ...]:
    """Remove the oldest segments until they and ``in_hand`` take ``most`` bytes, and none is older than ``age_s``.

    ``running_s`` is now. Gives those that went, or would go where it is a ``trial``; what can't be removed is reported.
    """
    whole = segments(directory)
    left = sum(segment.size for segment in whole) + in_hand
    gone = []
    for segment in whole:
        too_much = most is not None and left > most
        too_old = age_s is not None and running_s - segment.ended_s > age_s
        if not (too_much or too_old):
            continue
        try:
            if not trial:
                remove(segment.path)
        except OSError as error:
            report(f"can't remove {segment.path}: {error.strerror}; see to the directory's permissions")
            break
        left -= segment.size
        gone.append(segment)
    return tuple(gone)


def numbered(directory: Path, suffix: str) -> list[Path]:
    """The recorder's own files with this ending, in order of their number."""
    own = (path for path in directory.glob(f"ecg_*{suffix}") if _NAME.fullmatch(path.stem))
    return sorted(own, key=number_of)


def number_of(path: Path) -> int:
    """The number in a segment's name; 0 where it isn't one's."""
    found = _NAME.fullmatch(path.stem)
    return int(found[1]) if found else 0


def remove(header: Path) -> None:
    """Remove a segment, its annotations included; its header last, so that a crash leaves no file that isn't found."""
    for path in header.parent.glob(f"{header.stem}.*"):
        if path != header:
            path.unlink(missing_ok=True)
    header.unlink(missing_ok=True)


def disk_size(header: Path) -> int:
    """Bytes of the disk that a segment takes: short ones take more than is in them."""
    size = 0
    for path in header.parent.glob(f"{header.stem}.*"):
        with contextlib.suppress(OSError):
            size += path.stat().st_blocks * _DISK_BLOCK
    return size


def finite(given: str | None, otherwise: float) -> float:
    """A number of seconds from a header's note; ``otherwise`` where it is missing or damaged."""
    try:
        value = float(given) if given is not None else otherwise
    except ValueError:
        return otherwise
    return value if math.isfinite(value) and value >= 0 else otherwise
