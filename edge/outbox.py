"""Updates on disk until the coordinator's receipt, so that a power cut costs no training and the same bytes go again.

One file for each (run, round, task); another attempt at the same task replaces it. Once a receipt has come, a file
beside it keeps the header and the outcome, so that a restart within the round doesn't train again; that of the newest
few stays. Their headers go into that of the next update as well: a receipt's own bytes are not synced, and a power cut
may take them after their update has gone. Putting an update costs two fsyncs, what it leaves out (``residuals``) none,
and settling it none: the update's bytes stay until the next one is put, so that after a power cut which loses or tears
the receipt the same bytes go again, and a duplicate's receipt answers them. But an eviction is the operator's word,
which nobody would repeat: it costs two.

An update's age is counted in seconds this device has been running, added up over its starts: no wall clock that jumps
can make an update old, or young again, and one that lay in a device that was switched off is as new as it was.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

from pydantic import ConfigDict, Field, ValidationError

from edge import files
from edge.events import EVICTED, Parcel, Ticket
from edge.residuals import Left, Residuals
from schemas.errors import StateError
from schemas.messages import BlobRef, Count, Message, Name, Nonce, Outcome, RoundNumber, Task

REMEMBERED: Final = 16  # receipts that stay
_UPDATE: Final = ".update"
_RECEIPT: Final = ".receipt"
_COUNTED: Final = frozenset({Outcome.ACCEPTED.value, Outcome.DUPLICATE.value})
_NOTHING: Final = Left()


class _Entry(Message):
    """What is known of one update. ``outcome`` is empty while it waits for its receipt."""

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


class _Header(_Entry):
    """Of one file. ``answered`` are the newest updates before it that had their receipt."""

    answered: Annotated[tuple[_Entry, ...], Field(max_length=REMEMBERED)] = ()


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
        self._residuals = Residuals(directory, report)
        self._newest: tuple[Ticket, bytes] | None = None  # about to be sent, once: not read back from a slow card
        found = self._read_all(_RECEIPT)
        updates = self._read_all(_UPDATE)
        for path, header in updates.items():
            if path not in found or found[path].ticket != header.ticket:
                found[path] = header
        for entry in [entry for header in updates.values() for entry in header.answered]:
            known = found.get(self._path(entry.ticket))
            if known is None or (known.ticket == entry.ticket and not known.outcome):
                found[self._path(entry.ticket)] = _Header.model_validate(entry.model_dump())
        self._headers = dict(sorted(found.items(), key=lambda one: one[1].sequence))  # by the update's path
        self._spent = {path for path, header in found.items() if header.outcome}  # whose bytes may still be there

    def contents(self, running_s: float = 0.0) -> Contents:
        """What is there now, the device having been running for so long."""
        headers = self._headers.values()
        rounds = [one.round for one in headers if one.task == "train" and one.outcome in _COUNTED]
        return Contents(
            parcels=tuple(Parcel(one.ticket, one.blob) for one in headers if not one.outcome),
            ages={one.ticket: max(0.0, running_s - one.running_s) for one in headers if not one.outcome},
            settled=tuple(one.ticket for one in headers if one.outcome)[-REMEMBERED:],  # a crash may have left one more
            last_round=rounds[-1] if rounds else None,
        )

    def put(self, parcel: Parcel, blob: bytes, running_s: float = 0.0, left: Left = _NOTHING) -> None:
        """Keep an update; on return it survives a power cut. Raises ``StateError``, and then keeps what it had.

        What it ``left`` out is kept too, before it and where there is room: with the update it is in use at once, and
        without it not at all.
        """
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
            answered=tuple(_Entry.model_validate(one.model_dump(exclude={"answered"})) for one in self._answered()),
        )
        digest = parcel.ref.digest
        for spent in self._spent:
            files.remove(spent)
        self._spent.clear()
        if ticket.task == "train":
            self._drop_residuals(ticket)
        if left.residual:
            self._residuals.keep(ticket, digest, left)
        try:
            files.write(path, header.model_dump(mode="json"), blob, durable=self._durable, digest=digest)
        except StateError:
            if not left.residual:
                raise
            self._drop_residuals(ticket)  # the update may have the room of what it leaves out
            files.write(path, header.model_dump(mode="json"), blob, durable=self._durable, digest=digest)
        if self._headers.pop(path, None) is not None:
            files.remove(path.with_suffix(_RECEIPT))  # of an earlier attempt
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

    def residual(self, ticket: Ticket, plan: str) -> bytes:
        """What the update for ``ticket`` is to carry of what earlier ones left out; empty where there is nothing."""
        before = self._counting(ticket)
        return b"" if before is None else self._residuals.read(before.ticket, before.blob.digest, plan)

    def settle(self, ticket: Ticket, outcome: str) -> None:
        """Note that an update ended with ``outcome``; nothing where another attempt has its place."""
        path = self._path(ticket)
        self._newest = None
        header = self._headers.get(path)
        if header is None or header.ticket != ticket:
            return
        self._headers[path] = header = header.model_copy(update={"outcome": outcome, "answered": ()})
        self._spent.add(path)
        # On a full disk there may be no receipt: a restart then sends the update again, and is told the same.
        with contextlib.suppress(StateError):
            durable = self._durable and outcome == EVICTED
            files.write(path.with_suffix(_RECEIPT), header.model_dump(mode="json"), durable=durable)
        settled = [one for one, known in self._headers.items() if known.outcome]
        for old in settled[:-REMEMBERED]:
            files.remove(old)
            files.remove(old.with_suffix(_RECEIPT))
            self._spent.discard(old)
            del self._headers[old]

    def _answered(self) -> list[_Header]:
        """The newest few that had their receipt, oldest first."""
        return [one for one in self._headers.values() if one.outcome][-REMEMBERED:]

    def _drop_residuals(self, ticket: Ticket) -> None:
        """All but the one that the update for ``ticket`` carries, and that is in use again where it is refused."""
        before = self._counting(ticket)
        self._residuals.drop_all_but(*(() if before is None else (before.ticket,)))

    def _counting(self, ticket: Ticket) -> _Header | None:
        """The newest update of earlier rounds of the run that was counted or may be; what others carried is not."""
        for header in reversed(self._headers.values()):
            earlier = (header.run, header.task) == (ticket.run, "train") and header.round < ticket.round
            if earlier and header.outcome in {"", *_COUNTED}:
                return header
        return None

    def _path(self, ticket: Ticket) -> Path:
        return self._directory / f"{ticket.run}.{ticket.round}.{ticket.task}{_UPDATE}"

    def _read_all(self, suffix: str) -> dict[Path, _Header]:
        """The headers of all files of a kind, by their update's path."""
        headers = [header for path in sorted(self._directory.glob(f"*{suffix}")) if (header := self._read(path))]
        return {self._path(header.ticket): header for header in headers}

    def _read(self, path: Path) -> _Header | None:
        try:
            record = files.read(path)
            return None if record is None else _Header.model_validate(record.header)
        except (files.Damaged, ValidationError):
            self._report(files.set_aside(path))
        except StateError as error:
            self._report(str(error))
        return None
