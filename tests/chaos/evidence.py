"""What a run has left behind, read from its files and from what a spy heard, and what of it must not be."""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from edge import files
from schemas.messages import DeviceStatus, Join, Outcome, Receipt, RoundSummary
from schemas.topics import Address, Kind
from tests.chaos.spy import Heard


@dataclass(frozen=True, slots=True)
class Version:
    """A committed model version."""

    number: int
    digest: str
    previous: str | None


@dataclass(frozen=True, slots=True)
class Round:
    """An attempt at training a round."""

    number: int
    nonce: str
    phase: str
    summary: RoundSummary | None  # of a committed one


@dataclass(frozen=True, slots=True)
class Ledger:
    """A coordinator's journal, read by SQLite alone."""

    versions: tuple[Version, ...]
    rounds: tuple[Round, ...]  # oldest first

    @staticmethod
    def read(state: Path) -> Ledger:
        """The journal in a state directory, whose coordinator has ended."""
        with closing(sqlite3.connect(state / "journal.db")) as journal:
            models = journal.execute("SELECT version, digest, previous FROM models ORDER BY version").fetchall()
            sql = "SELECT round, nonce, phase, summary FROM rounds WHERE task = 'train' ORDER BY round, attempt"
            rounds = journal.execute(sql).fetchall()
        return Ledger(
            tuple(Version(*row) for row in models),
            tuple(
                Round(number, nonce, phase, None if text is None else RoundSummary.model_validate_json(text))
                for number, nonce, phase, text in rounds
            ),
        )

    def faults(self, rounds: int) -> Iterator[str]:
        """Every way in which it is not the journal of so many rounds that were all committed at the first attempt."""
        if [version.number for version in self.versions] != list(range(rounds + 1)):
            yield f"the versions are {[version.number for version in self.versions]}, not 0 to {rounds}"
        for before, after in zip(self.versions, self.versions[1:], strict=False):
            if after.previous != before.digest:
                yield f"version {after.number} does not chain to version {before.number}"
        for one in self.rounds:
            if one.phase != "committed":
                yield f"round {one.number} has an attempt that was {one.phase}"
        if len({one.nonce for one in self.rounds}) != rounds:
            yield f"{len(self.rounds)} attempts were made at {rounds} rounds"


def differences(one: Ledger, other: Ledger) -> Iterator[str]:
    """Every version that is not bit for bit the same in two runs of one name and seed."""
    for mine, theirs in zip(one.versions, other.versions, strict=False):
        if mine != theirs:
            yield f"version {mine.number} is another one than without all that happened"
    if len(one.versions) != len(other.versions):
        yield f"{len(one.versions)} versions were made, and {len(other.versions)} without all that happened"


def lost(heard: Iterable[Heard], ledger: Ledger) -> Iterator[str]:
    """Every update that a receipt called accepted, of a round that was committed without it."""
    committed = {
        (one.nonce, device) for one in ledger.rounds if one.summary is not None for device in one.summary.devices
    }
    abandoned = {one.nonce for one in ledger.rounds if one.phase == "abandoned"}
    for receipt in (one.message for one in heard if isinstance(one.message, Receipt)):
        counts = receipt.outcome in {Outcome.ACCEPTED, Outcome.DUPLICATE} and receipt.task == "train"
        if counts and receipt.nonce not in abandoned and (receipt.nonce, receipt.device) not in committed:
            yield f"round {receipt.round}: {receipt.device} has a receipt, {receipt.outcome}, and is not in the model"


def trained(state: Path) -> dict[str, int]:
    """The updates in a device's outbox, receipted or not: file name and its number in the order they were trained.

    The number rises with each training that ends, so one that is done again shows as a higher number than its due.
    """
    found = {}
    for path in (state / "outbox").glob("*.update"):
        record = files.read(path)
        assert record is not None
        found[path.name] = int(record.header["sequence"])
    return found


def trained_again(device: str, state: Path, rounds: int) -> Iterator[str]:
    """Whether a device that took part in so many rounds has finished the training of some round more than once."""
    count = max(trained(state).values(), default=0)
    if count > rounds:
        yield f"{device} trained {count} times for {rounds} rounds"
    if count < rounds:
        yield f"{device} has trained {count} of {rounds} rounds"


def begun_again(heard: Iterable[Heard]) -> Iterator[str]:
    """Every round that a device, started anew, joined although it had sent its update of it before.

    It shows a training that is done again and that the end of the round has cut short. For runs without evaluation.
    """
    sessions: dict[str, int] = {}
    sent: dict[tuple[str, int | None], int] = {}
    for one in heard:
        match one.message, one.address:
            case DeviceStatus(device=device, session=session), _:
                sessions[device] = max(session, sessions.get(device, 0))
            case Join(device=device, round=number, accepts=True), _:
                if sent.get((device, number), math.inf) < sessions.get(device, 0):
                    yield f"round {number}: {device} joins again, and had sent its update before it was killed"
            case None, Address(kind=Kind.UPDATE_PART, device=str(device), number=number):
                sent.setdefault((device, number), sessions.get(device, 0))
