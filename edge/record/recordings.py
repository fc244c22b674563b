"""Recordings on a device's disk: WFDB records that are whole whenever the power goes. Imports no arrays.

A segment is written as NAME.dat (format 16, only ever appended to) beside NAME.open, the header without a length. When
it is whole NAME.hea takes the place of NAME.open, with length and checksums; readers see it from then on. A segment
that a crash left open is finished at the next start from what the file holds, but for a torn last frame, and for the
zeros at its end that a power cut may leave where bytes should be.

Names are ``ecg_NUMBER_DATE``: the number orders them, whatever the clock said; the date is for people. Ages are seconds
of running, counted over all starts: each segment notes at which of them it began and ended. A file that isn't named
so is somebody else's, and never touched.
"""

from __future__ import annotations

import contextlib
import os
import sys
from array import array
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Final

from edge import whole
from edge.live.source import Signal
from edge.plain_files import plain
from edge.record.quality import Tally
from edge.record.segment_files import Segment, disk_size, finite, number_of, numbered, prune, segments
from edge.record.segments import summary
from edge.record.wfdb_header import Header, characters, checksum, glimpse, parse, text
from schemas.errors import DataError, DiskFull, StateError

FULL: Final = "the disk was full"  # why a segment ended
_OPEN: Final = ".open"
_ZEROS_S: Final = 2.0  # of zeros at the end of a segment that a crash left open, at most, which are no samples
_BLOCK: Final = 65_536  # samples of each lead, read at once


@contextmanager
def claim(directory: Path) -> Iterator[None]:
    """Take ``directory`` for this recorder alone. Raises ``StateError`` where another one has it."""
    with ExitStack() as stack:
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            ours = stack.enter_context(whole.alone(directory / "lock"))
        except OSError as error:
            why = f"{error.strerror};"
            if isinstance(error, PermissionError):  # perhaps of one file alone, where root has recorded here
                why = f"{error.strerror} ({error.filename}); record as the user it belongs to, or"
            raise StateError(f"can't record to {directory}: {why} choose another with --to") from None
        if not ours:
            raise StateError(f"another process records to {directory}: stop it, or choose another with --to")
        yield


class Recordings:
    """The segments in one directory, for the one process that has claimed it."""

    def __init__(self, directory: Path, wall_clock: Callable[[], datetime], report: Callable[[str], None]) -> None:
        """Use ``directory``. ``report`` hears of what can't be done now and is tried again later."""
        self._directory = directory
        self._wall_clock = wall_clock
        self._report = report
        self._writer: _Writer | None = None
        self._unfinished: dict[str, str] = {}  # left open by this process: name -> why it ended
        finished = segments(directory)
        self.ran_s = max((segment.ended_s for segment in finished), default=0.0)  # seconds of running before this start
        names = [*numbered(directory, ".dat"), *numbered(directory, ".hea"), *numbered(directory, _OPEN)]
        self._number = max(map(number_of, names), default=0)

    @property
    def unfinished(self) -> bool:
        """Whether a segment of this process was left open for want of room."""
        return bool(self._unfinished)

    def recover(self) -> tuple[Segment, ...]:
        """Finish what was left open, by a crash or for want of room; what has no samples is removed."""
        done = []
        for path in self._directory.glob(f"ecg_*{whole.BESIDE}"):  # headers that a crash left half written
            if number_of(path.with_name(path.name.partition(".")[0])):
                with contextlib.suppress(OSError):
                    path.unlink()
        for path in numbered(self._directory, _OPEN):
            if self._writer is not None and path.stem == self._writer.header.name:
                continue
            try:
                segment = _finish_left(path, self._unfinished.get(path.stem, "crash"))
            except (DataError, ValueError):
                from edge.files import set_aside  # noqa: PLC0415 - OpenSSL's digests, for a damaged card

                self._report(set_aside(path))
                continue
            except OSError as error:
                self._report(f"{path} can't be finished now: {error.strerror}; it is tried again at the next start")
                continue
            self._unfinished.pop(path.stem, None)
            if segment is not None:
                self.ran_s = max(self.ran_s, segment.ended_s)
                done.append(segment)
        return tuple(done)

    def begin(self, signal: Signal, notes: Mapping[str, str]) -> str:
        """Begin a segment and give its name. Raises ``DiskFull``; then there is none."""
        started = self._wall_clock()
        name = f"ecg_{self._number + 1:06d}_{started:%Y%m%dT%H%M%S}"
        self._writer = _Writer(self._directory, Header(name, signal, started, notes=notes))
        self._number += 1
        return name

    def append(self, frames: bytes, *, sync: bool) -> None:
        """Put frames behind the segment's.

        Raises ``DiskFull``: then none of them are kept, the segment is left as it was, and there is none in hand.
        """
        assert self._writer is not None, "no segment has begun"
        try:
            self._writer.append(frames, sync=sync)
        except OSError as error:
            raise self._leave(error, FULL) from None

    def finish(self, notes: Mapping[str, str]) -> Segment | None:
        """The segment is whole; None where the disk has no room to say so, which is then tried again."""
        writer = self._writer
        assert writer is not None, "no segment has begun"
        try:
            segment = writer.finish(notes)
        except OSError as error:
            self._report(str(self._leave(error, notes.get("ended", ""))))
            return None
        self._writer = None
        return segment

    def prune(self, most: int | None, age_s: float | None, running_s: float) -> tuple[Segment, ...]:
        """Remove the oldest segments; the one in hand counts, and stays. See ``prune``."""
        in_hand = self._writer.length if self._writer else 0
        return prune(self._directory, most, age_s, running_s, self._report, in_hand=in_hand)

    def _leave(self, error: OSError, why: str) -> DiskFull:
        """Leave the segment open, for ``recover``."""
        writer, self._writer = self._writer, None
        assert writer is not None
        writer.leave()
        self._unfinished[writer.header.name] = why
        return _full(self._directory, error)


class _Writer:
    """The segment in hand."""

    def __init__(self, directory: Path, header: Header) -> None:
        """Begin it. Raises ``DiskFull``."""
        self.header = header
        self.length = 0  # bytes that are wholly written
        self._path = directory / f"{header.name}.dat"
        self._open = self._path.with_suffix(_OPEN)
        self._sums = [0] * len(header.signal.leads)
        self._first: tuple[int, ...] = ()
        self._file = -1
        self._named = False  # on disk, for certain
        try:
            _write(self._open, text(header))
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC
            self._file = os.open(self._path, flags, whole.PRIVATE)
        except OSError as error:
            self.leave()
            raise _full(directory, error) from None

    def append(self, frames: bytes, *, sync: bool) -> None:
        """All of ``frames``, or an ``OSError`` and none."""
        try:
            view = memoryview(frames)
            while view:
                view = view[os.write(self._file, view) :]
            if sync:
                os.fdatasync(self._file)
                if not self._named:  # on some file systems its name is another matter
                    whole.sync_directory(self._path.parent)
                    self._named = True
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, self.length)
            raise
        self.length += len(frames)
        self._sums, first = _summed(self._sums, frames)
        self._first = self._first or first

    def finish(self, notes: Mapping[str, str]) -> Segment:
        """Write the header with its length. Raises ``OSError``."""
        os.fdatasync(self._file)
        header = replace(
            self.header,
            samples=self.length // self.header.frame,
            first=self._first,
            checksums=tuple(map(checksum, self._sums)),
            notes={**self.header.notes, **notes},
        )
        segment = _settle(self._path, header)
        os.close(self._file)
        return segment

    def leave(self) -> None:
        """Close the file as it is; one without a sample goes, with its name."""
        if self._file >= 0:
            os.close(self._file)
        if not self.length:
            for path in (self._path, self._open):
                with contextlib.suppress(OSError):
                    path.unlink(missing_ok=True)


def _finish_left(path: Path, why: str) -> Segment | None:
    """Finish the segment of ``path`` (.open) from what its file holds; None where that is nothing."""
    data = plain(path.with_suffix(".dat"))
    header = replace(parse(characters(plain(path).read_bytes())), name=path.stem)
    length = _whole(data, header)
    if not length:
        data.unlink(missing_ok=True)
        path.unlink()
        return None
    sums: list[int] = [0] * len(header.signal.leads)
    first: tuple[int, ...] = ()
    tallies = tuple(Tally(max(1, round(header.signal.rate)), lead.gain) for lead in header.signal.leads)
    with data.open("r+b") as file:
        file.truncate(length)
        while frames := file.read(_BLOCK * header.frame):
            sums, begins = _summed(sums, frames)
            first = first or begins
            leads = _leads(frames, len(sums))
            tallies = tuple(tally.add(lead) for tally, lead in zip(tallies, leads, strict=True))
        os.fsync(file.fileno())
    samples = length // header.frame
    ended_s = finite(header.notes.get("running_s"), 0.0) + samples / header.signal.rate
    notes = {**header.notes, "ended": why, "ended_s": f"{ended_s:.1f}", **summary(tallies)}
    totals = tuple(map(checksum, sums))
    return _settle(data, replace(header, samples=samples, first=first, checksums=totals, notes=notes))


def _whole(data: Path, header: Header) -> int:
    """Bytes of whole frames in a file that a crash left, without zeros at its end."""
    try:
        size = data.stat().st_size // header.frame * header.frame
    except FileNotFoundError:
        return 0
    most = min(size, round(_ZEROS_S * header.signal.rate) * header.frame)
    with data.open("rb") as file:
        file.seek(size - most)
        tail = file.read(most)
    zeros = (len(tail) - len(tail.rstrip(b"\0"))) // header.frame * header.frame
    return size - zeros if zeros > header.frame else size


def _settle(data: Path, header: Header) -> Segment:
    """Put the header in its place, and take away the one without a length."""
    place, content = data.with_suffix(".hea"), text(header)
    _write(place, content)
    data.with_suffix(_OPEN).unlink(missing_ok=True)
    return Segment(place, glimpse(content), disk_size(place))


def _write(path: Path, content: str) -> None:
    with whole.replacing(path, durable=True) as file:
        file.write(content.encode())


def _leads(frames: bytes, width: int) -> tuple[array[int], ...]:
    steps = array("h", frames)
    if sys.byteorder == "big":
        steps.byteswap()
    return tuple(steps[number::width] for number in range(width))


def _summed(sums: list[int], frames: bytes) -> tuple[list[int], tuple[int, ...]]:
    """Sums with each lead's in ``frames``, and the first sample of each."""
    leads = _leads(frames, len(sums))
    return [before + sum(lead) for before, lead in zip(sums, leads, strict=True)], tuple(
        lead[0] for lead in leads if lead
    )


def _full(directory: Path, error: OSError) -> DiskFull:
    return DiskFull(f"can't record to {directory}: {error.strerror}; nothing is kept until there is room")
