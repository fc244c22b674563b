"""Updates on disk until the coordinator's receipt, so that a power cut costs no training and the same bytes go again.

One file for each (run, round, task); another attempt at the same task replaces it. Once a receipt has come, a file
beside it keeps the ticket and the outcome, so that a restart within the round doesn't train again; a few stay
(``answered``). They go into the next update's header as well: a receipt's own bytes are not synced, a power cut may
take them after their update has gone, and another attempt has its file in the same place. Putting an update costs two
fsyncs, what it leaves out (``residuals``) none, and settling it none: the bytes stay until the next update is put,
so that after a power cut which loses or tears the receipt the same bytes go again, and a duplicate's receipt answers
them. But an eviction is the operator's word, which nobody would repeat: it costs two.

An update's age is counted in seconds this device has been running, added up over its starts: no wall clock that jumps
can make an update old, or young again, and one that lay in a device that was switched off is as new as it was.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Literal, NamedTuple, TypeVar

from pydantic import ConfigDict, Field, ValidationError

from edge import files
from edge.core.answered import REMEMBERED, remembered
from edge.core.effects import EVICTED, SUPERSEDED
from edge.core.events import Parcel, Ticket
from edge.residuals import Left, Residuals
from schemas.errors import StateError
from schemas.messages import MAX_PARTS, BlobRef, Count, Digest, Message, Name, Nonce, Outcome, RoundNumber, Task

_UPDATE: Final = ".update"
_RECEIPT: Final = ".receipt"
_COUNTED: Final = frozenset({Outcome.ACCEPTED.value, Outcome.DUPLICATE.value})
_NOT_COUNTED: Final = frozenset({Outcome.LATE.value, Outcome.REJECTED.value, SUPERSEDED})
_NOTHING: Final = Left()
_AnyEntry = TypeVar("_AnyEntry", bound="_Entry")


class _Row(NamedTuple):
    """An ``_Entry`` as the next update's header carries it: sixteen of them are to cost little."""

    sequence: Count
    run: Name
    round: RoundNumber
    task: Task
    nonce: Nonce
    digest: Digest | Literal[""]
    outcome: str


class _Entry(Message):
    """What stays of an update. ``outcome`` is empty while it waits for its receipt."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sequence: Count  # rises with each update put, whatever the clock does
    run: Name
    round: RoundNumber
    task: Task
    nonce: Nonce
    digest: Digest | Literal[""]  # of its bytes; empty where a power cut took the receipt and nothing was left out
    outcome: str = ""

    @property
    def ticket(self) -> Ticket:
        return Ticket(self.run, self.round, self.task, self.nonce)

    def row(self, *, named: bool) -> _Row:
        digest = self.digest if named else ""
        return _Row(self.sequence, self.run, self.round, self.task, self.nonce, digest, self.outcome)


class _Header(_Entry):
    """Of an update's file. ``answered`` are the updates before it that had their receipt."""

    digest: Digest
    size: Annotated[int, Field(ge=1)]  # bytes
    parts: Annotated[int, Field(ge=1, le=MAX_PARTS)]
    running_s: Annotated[float, Field(ge=0)] = 0.0  # for how long the device had been running then
    answered: Annotated[tuple[_Row, ...], Field(max_length=REMEMBERED)] = ()

    @property
    def parcel(self) -> Parcel:
        return Parcel(self.ticket, BlobRef(digest=self.digest, size=self.size, parts=self.parts))


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
        updates = self._read_all(_UPDATE, _Header)
        found: dict[Ticket, _Entry] = {header.ticket: header for header in updates}
        rows = [_Entry.model_validate(row._asdict()) for header in updates for row in header.answered]
        found |= {entry.ticket: entry for entry in (*rows, *self._read_all(_RECEIPT, _Entry))}
        self._entries = dict(sorted(found.items(), key=lambda one: one[1].sequence))
        self._spent = {ticket for ticket, entry in self._entries.items() if entry.outcome}  # their bytes may be there

    def contents(self, running_s: float = 0.0) -> Contents:
        """What is there now, the device having been running for so long."""
        entries = self._entries.values()
        waiting = [one for one in entries if isinstance(one, _Header) and not one.outcome]
        rounds = [one.round for one in entries if one.task == "train" and one.outcome in _COUNTED]
        return Contents(
            parcels=tuple(one.parcel for one in waiting),
            ages={one.ticket: max(0.0, running_s - one.running_s) for one in waiting},
            settled=remembered(one.ticket for one in entries if one.outcome),  # a crash may have left one more
            last_round=rounds[-1] if rounds else None,
        )

    def put(self, parcel: Parcel, blob: bytes, running_s: float = 0.0, left: Left = _NOTHING) -> None:
        """Keep an update; on return it survives a power cut. Raises ``StateError``, and then keeps what it had.

        What it ``left`` out is kept too, before it and where there is room: with the update it is in use at once, and
        without it not at all.
        """
        ticket = parcel.ticket
        sequence = 1 + max((entry.sequence for entry in self._entries.values()), default=0)
        header = _Header(
            sequence=sequence,
            run=ticket.run,
            round=ticket.round,
            task=ticket.task,
            nonce=ticket.nonce,
            digest=parcel.ref.digest,
            size=parcel.ref.size,
            parts=parcel.ref.parts,
            running_s=running_s,
            answered=self._answered(),
        )
        if ticket.task == "train":
            self._drop_residuals(ticket)
        if left.residual:
            self._residuals.keep(ticket, header.digest, left)
        try:
            self._write(header, blob)
        except StateError:
            if not left.residual:
                raise
            self._drop_residuals(ticket)  # the update may have the room of what it leaves out
            self._write(header, blob)
        self._drop_spent(but=ticket)
        for old in [old for old, one in self._entries.items() if self._same_task(old, ticket) and not one.outcome]:
            del self._entries[old]  # an earlier attempt
        self._entries[ticket] = header
        self._newest = (ticket, blob)

    def blob(self, ticket: Ticket) -> bytes | None:
        """The bytes of an update as they were put; None where they are gone or, with a report, damaged.

        Raises ``StateError`` where the disk doesn't say.
        """
        newest, self._newest = self._newest, None
        if newest is not None and newest[0] == ticket:
            return newest[1]
        path = self._path(ticket)
        try:
            record = files.read(path)
        except files.Damaged:
            self._report(files.set_aside(path))
            return None
        known = self._entries.get(ticket)
        if record is None or known is None or known.outcome:
            return None
        return record.payload

    def residual(self, ticket: Ticket, plan: str) -> bytes:
        """What the update for ``ticket`` is to carry of what earlier ones left out; empty where there is nothing."""
        before = self._counting(ticket)
        return b"" if before is None else self._residuals.read(before.ticket, before.digest, plan)

    def settle(self, ticket: Ticket, outcome: str) -> None:
        """Note that an update ended with ``outcome``; nothing where another attempt has its place."""
        self._newest = None
        known = self._entries.get(ticket)
        if known is None:
            return
        self._entries[ticket] = entry = _Entry.model_validate(known.row(named=True)._asdict() | {"outcome": outcome})
        self._spent.add(ticket)
        # On a full disk there may be no receipt: a restart then sends the update again, and is told the same.
        with contextlib.suppress(StateError):
            self._write_receipt(entry, durable=self._durable and outcome == EVICTED)
        answered = [old for old, one in self._entries.items() if one.outcome]
        for old in set(answered) - set(remembered(answered)):
            del self._entries[old]
            self._spent.discard(old)
            if not any(self._same_task(one, old) for one in self._entries):
                files.remove(self._path(old))
                files.remove(self._path(old).with_suffix(_RECEIPT))

    def _write(self, header: _Header, blob: bytes) -> None:
        """Write an update, in the room of spent ones where there is no other."""
        path, fields = self._path(header.ticket), header.model_dump(mode="json")
        try:
            files.write(path, fields, blob, durable=self._durable, digest=header.digest)
        except StateError:
            if not self._spent:
                raise
            spent = [self._entries[ticket] for ticket in self._spent]
            self._drop_spent()
            try:
                files.write(path, fields, blob, durable=self._durable, digest=header.digest)
            except StateError:
                for entry in spent:  # whose receipts may have had no room before
                    with contextlib.suppress(StateError):
                        self._write_receipt(entry, durable=False)
                raise

    def _drop_spent(self, but: Ticket | None = None) -> None:
        """Remove the bytes of updates that had their receipt; not what another attempt has in the same place by now."""
        waiting = {self._path(ticket) for ticket, one in self._entries.items() if not one.outcome}
        if but is not None:
            waiting.add(self._path(but))
        for path in {self._path(ticket) for ticket in self._spent} - waiting:
            files.remove(path)
        self._spent.clear()

    def _write_receipt(self, entry: _Entry, *, durable: bool) -> None:
        path = self._path(entry.ticket).with_suffix(_RECEIPT)
        files.write(path, entry.model_dump(mode="json"), durable=durable)

    def _answered(self) -> tuple[_Row, ...]:
        """Those that had their receipt, oldest first. An update is named by its digest where it has left something."""
        entries = {one.ticket: one for one in self._entries.values() if one.outcome}
        return tuple(entries[ticket].row(named=self._residuals.has(ticket)) for ticket in remembered(entries))

    def _drop_residuals(self, ticket: Ticket) -> None:
        """All but the one that the update for ``ticket`` carries, and that is in use again where it is refused."""
        before = self._counting(ticket)
        self._residuals.drop_all_but(*(() if before is None else (before.ticket,)))

    def _counting(self, ticket: Ticket) -> _Entry | None:
        """The newest update of earlier rounds of the run that was counted or may be; what was refused is passed over.

        None where it isn't known what became of it, evicted or expired say: it may have been counted, and its receipt
        lost, so that what it carried must not be carried again. Of a round only the last attempt is asked: those before
        it were abandoned, whatever their receipt said.
        """
        rounds: set[int] = set()
        for entry in reversed(self._entries.values()):
            if (entry.run, entry.task) != (ticket.run, "train") or entry.round in rounds or entry.round >= ticket.round:
                continue
            if entry.outcome not in _NOT_COUNTED:
                return entry if entry.outcome in {"", *_COUNTED} else None
            rounds.add(entry.round)
        return None

    @staticmethod
    def _same_task(one: Ticket, other: Ticket) -> bool:
        """Whether their updates have one file."""
        return (one.run, one.round, one.task) == (other.run, other.round, other.task)

    def _path(self, ticket: Ticket) -> Path:
        return self._directory / f"{ticket.run}.{ticket.round}.{ticket.task}{_UPDATE}"

    def _read_all(self, suffix: str, kind: type[_AnyEntry]) -> list[_AnyEntry]:
        """What all files of a kind say."""
        return [entry for path in sorted(self._directory.glob(f"*{suffix}")) if (entry := self._read(path, kind))]

    def _read(self, path: Path, kind: type[_AnyEntry]) -> _AnyEntry | None:
        try:
            record = files.read(path)
            return None if record is None else kind.model_validate(record.header)
        except (files.Damaged, ValidationError):
            self._report(files.set_aside(path))
        except StateError as error:
            self._report(str(error))
        return None
