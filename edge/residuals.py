"""What a device's updates left out, kept on disk until the next one carries it (error feedback).

A codec that sends a part of a delta leaves the rest to the sender, which adds it to its next one (``feedback``). A
residual goes with the update it was made with: it is in use while that is the newest of the run that has been counted
or still waits for its receipt. Where an update is refused, what it carried wasn't counted, so the residual of the one
before it is in use again; where nobody knows, since it was evicted or has expired, none is. One that was lost with a
power cut, or is damaged, or of another run or plan, is not used and costs no more than what it held. So no residual
waits for the disk, and none is ever added twice.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pydantic import ConfigDict, ValidationError

from edge import files
from edge.core.events import Ticket
from schemas.errors import StateError
from schemas.messages import Digest, Message

_ENDING: Final = ".residual"


@dataclass(frozen=True, slots=True)
class Left:
    """What an update left out: of which plan's parameters, and the bytes that the trainer made of it, if any."""

    plan: str = ""  # digest of the blob
    residual: bytes = b""


class _Header(Message):
    model_config = ConfigDict(frozen=True, extra="forbid")

    update: Digest  # of the blob it was made with
    plan: Digest


class Residuals:
    """The residuals in an outbox's directory, one beside each of the newest updates. Used from one thread."""

    def __init__(self, directory: Path, report: Callable[[str], None]) -> None:
        """``report`` hears of damaged files, and of what the disk refuses: nothing here is worth more than that."""
        self._directory = directory
        self._report = report

    def keep(self, ticket: Ticket, update: str, left: Left) -> None:
        """Keep what the update with this digest leaves out, until another attempt's takes its place."""
        try:
            files.write(self._path(ticket), {"update": update, "plan": left.plan}, left.residual, durable=False)
        except StateError as error:
            self._report(f"{error}; what round {ticket.round} leaves out is lost")

    def read(self, ticket: Ticket, update: str, plan: str) -> bytes:
        """What was left out by that update; empty where it isn't here."""
        path = self._path(ticket)
        try:
            record = files.read(path)
            header = None if record is None else _Header.model_validate(record.header)
        except (files.Damaged, ValidationError):
            self._report(files.set_aside(path))
            return b""
        except StateError as error:
            self._report(str(error))
            return b""
        fits = header is not None and (header.update, header.plan) == (update, plan)
        return record.payload if record is not None and fits else b""

    def has(self, ticket: Ticket) -> bool:
        """Whether the update for ``ticket`` has left something that is here."""
        return self._path(ticket).exists()

    def drop_all_but(self, *tickets: Ticket) -> None:
        """Only these are still of use."""
        kept = {self._path(ticket) for ticket in tickets}
        for path in self._directory.glob(f"*{_ENDING}"):
            if path not in kept:
                try:
                    files.remove(path)
                except StateError as error:
                    self._report(str(error))

    def _path(self, ticket: Ticket) -> Path:
        return self._directory / f"{ticket.run}.{ticket.round}.{ticket.task}{_ENDING}"
