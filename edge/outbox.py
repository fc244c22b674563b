"""Updates on disk until the coordinator's receipt, so that a power cut costs no training and the same bytes go again.

One file for each (run, round, task); another attempt at the same task replaces it. Once a receipt has come the file
keeps its header alone, so that a restart within the round doesn't train again. The header of the newest few stays.

An update's age is counted in seconds this device has been running, added up over its starts: no wall clock that jumps
can make an update old, or young again, and one that lay in a device that was switched off is as new as it was.

Putting an update costs two fsyncs; settling it none: what a power cut undoes is answered by a duplicate's receipt.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

from pydantic import ConfigDict, Field, ValidationError

from edge import files
from edge.events import Parcel, Ticket
from schemas.errors import StateError
from schemas.messages import BlobRef, Count, Message, Name, Nonce, Outcome, RoundNumber, Task

REMEMBERED: Final = 16  # settled updates whose header stays
_SUFFIX: Final = ".update"
_COUNTED: Final = frozenset({Outcome.ACCEPTED.value, Outcome.DUPLICATE.value})


class _Header(Message):
    """Of one file. ``outcome`` is empty while the update waits for its receipt."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sequence: Count  # rises with each update put, whatever the clock does
    run: Name
    round: RoundNumber
    task: Task
    nonce: Nonce
    blob: BlobRef
    running_s: Annotated[float, Field(ge=0)] = 0.0  # for how long the device had been running then
    outcome: str = ""

    @property
    def ticket(self) -> Ticket:
        return Ticket(self.run, self.round, self.task, self.nonce)


@dataclass(frozen=True, slots=True)
class Contents:
    """What a device finds in its outbox when it starts, each oldest first."""

    parcels: tuple[Parcel, ...]  # without a final receipt
    ages: Mapping[Ticket, float]  # for how many seconds they have waited
    settled: tuple[Ticket, ...]
    last_round: int | None  # whose update was accepted


class Outbox:
    """The directory of a device's updates. Used from one thread."""

    def __init__(self, directory: Path, report: Callable[[str], None], *, durable: bool = True) -> None:
        """Read ``directory``, made if need be; ``report`` hears of damaged files. Raises ``StateError``.

        Not ``durable``, updates survive a killed process and not a power cut, for virtual devices without number.
        """
        if directory.exists() and not directory.is_dir():
            report(files.set_aside(directory))
        files.make_directory(directory)
        files.sweep(directory)
        self._directory = directory
        self._report = report
        self._durable = durable
        self._newest: tuple[Ticket, bytes] | None = None  # about to be sent, once: not read back from a slow card
        headers = [header for path in sorted(directory.glob(f"*{_SUFFIX}")) if (header := self._read(path)) is not None]
        self._headers = {self._path(one.ticket): one for one in sorted(headers, key=lambda header: header.sequence)}

    def contents(self, running_s: float = 0.0) -> Contents:
        """What is there now, the device having been running for so long."""
        headers = self._headers.values()
        rounds = [one.round for one in headers if one.task == "train" and one.outcome in _COUNTED]
        return Contents(
            parcels=tuple(Parcel(one.ticket, one.blob) for one in headers if not one.outcome),
            ages={one.ticket: max(0.0, running_s - one.running_s) for one in headers if not one.outcome},
            settled=tuple(one.ticket for one in headers if one.outcome),
            last_round=rounds[-1] if rounds else None,
        )

    def put(self, parcel: Parcel, blob: bytes, running_s: float = 0.0) -> None:
        """Keep an update; on return it survives a power cut. Raises ``StateError``, and then keeps what it had."""
        ticket, path = parcel.ticket, self._path(parcel.ticket)
        sequence = 1 + max((header.sequence for header in self._headers.values()), default=0)
        header = _Header(
            sequence=sequence,
            run=ticket.run,
            round=ticket.round,
            task=ticket.task,
            nonce=ticket.nonce,
            blob=parcel.ref,
            running_s=running_s,
        )
        digest = parcel.ref.digest
        files.write(path, header.model_dump(mode="json"), blob, durable=self._durable, digest=digest)
        self._headers.pop(path, None)
        self._headers[path] = header
        self._newest = (ticket, blob)

    def blob(self, ticket: Ticket) -> bytes | None:
        """The bytes of an update as they were put; None, and a report, where they are gone or damaged."""
        newest, self._newest = self._newest, None
        if newest is not None and newest[0] == ticket:
            return newest[1]
        path = self._path(ticket)
        try:
            record = files.read(path)
        except files.Damaged:
            self._headers.pop(path, None)
            self._report(files.set_aside(path))
            return None
        except StateError as error:
            self._report(str(error))
            return None
        known = self._headers.get(path)
        if record is None or known is None or known.ticket != ticket or known.outcome:
            return None
        return record.payload

    def settle(self, ticket: Ticket, outcome: str) -> None:
        """Keep of an update only that it ended with ``outcome``; nothing where another attempt has its place."""
        path = self._path(ticket)
        self._newest = None
        header = self._headers.get(path)
        if header is None or header.ticket != ticket:
            return
        header = header.model_copy(update={"outcome": outcome})
        try:
            files.write(path, header.model_dump(mode="json"), durable=False)
        except StateError:
            files.remove(path)  # on a full disk this always helps; a restart may then train the round once more
        self._headers[path] = header
        settled = [one for one, known in self._headers.items() if known.outcome]
        for old in settled[:-REMEMBERED]:
            files.remove(old)
            del self._headers[old]

    def _path(self, ticket: Ticket) -> Path:
        return self._directory / f"{ticket.run}.{ticket.round}.{ticket.task}{_SUFFIX}"

    def _read(self, path: Path) -> _Header | None:
        try:
            record = files.read(path)
            return None if record is None else _Header.model_validate(record.header)
        except (files.Damaged, ValidationError):
            self._report(files.set_aside(path))
        except StateError as error:
            self._report(str(error))
        return None
