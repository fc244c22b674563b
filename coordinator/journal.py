"""What the coordinator must not forget, in SQLite: runs, rounds, accepted updates, model versions, scores.

The rules that make a round safe stand in ``migrations/v1.sql``, where no caller can get round them: one update for
each (run, round, task, device), one open round, versions that go up by one and chain by digest. Everything goes in
and out as messages and plain values; time is an argument. One thread, one process; see ``database`` for the file.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from coordinator import rows
from coordinator.database import Database, Value, look_up
from coordinator.roster import Roster
from schemas.errors import StateError
from schemas.messages import Counts, Metrics, RoundAnnouncement, RoundSummary, RunSettings, Task, Update

PIECE: Final = 2**20  # bytes of an update in one row
MAX_PIECES: Final = 65_536  # of an update, as the migrations have it


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """A committed version: its digest, and that of the version before (None for version 0)."""

    run: str
    version: int
    digest: str
    previous: str | None


@dataclass(frozen=True, slots=True)
class StoredUpdate:
    """An accepted update: what the journal reads of it, and ``blob``, the bytes as they came."""

    device: str
    nonce: str
    examples: int
    train_loss: float | None
    counts: Counts | None
    digest: str
    blob: bytes


@dataclass(frozen=True, slots=True)
class Resume:
    """Where a run stood when the coordinator ended, however it ended."""

    settings: RunSettings
    model: ModelVersion  # the newest
    round: RoundAnnouncement | None  # the open one as it was announced, ``received`` brought up to date
    devices: tuple[str, ...]  # whose updates the open round has, in the order they came
    committed: int  # the last round whose training is committed, 0 for none
    evaluated: int  # the last round whose evaluation is committed, 0 for none


class DamagedUpdate(StateError):
    """An update's bytes are others than were written."""


class Journal:
    """The journal in one file. Every method raises ``StateError``, saying what to do, where the disk won't.

    A method that writes is a transaction of its own, on disk when it returns; within ``batch`` all are one.
    """

    def __init__(self, path: Path) -> None:
        """Opens or makes the file; ``StateError`` where another coordinator has it."""
        self._database = Database(path)
        self.roster = Roster(self._database)

    def close(self) -> None:
        """Give the file free."""
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def batch(self) -> AbstractContextManager[None]:
        """One commit, with one wait for the disk, for all that is written within; an exception undoes all of it."""
        return self._database.batch()

    def checkpoint(self) -> None:
        """Tidy the file; call it after a round's results are published, when nobody waits."""
        self._database.checkpoint()

    def next_session(self, at_least: int = 1) -> int:
        """A number higher than at every start before, and no lower than ``at_least``."""
        sql = "UPDATE session SET number = max(number + 1, ?) RETURNING number"
        return rows.integer(self._database.execute(sql, (at_least,))[0][0])

    def note_session(self, number: int) -> None:
        """Have the next session be above ``number``."""
        self._database.execute("UPDATE session SET number = max(number, ?)", (number,))

    def spare_memory(self) -> None:
        """Have less of the file in memory, as is best where updates are large."""
        self._database.spare_memory()

    # Runs

    def start_run(self, settings: RunSettings, digest: str, at: str) -> None:
        """Open a run whose version 0 has ``digest``; only one can be open. ``at`` is the wall clock, ISO 8601."""
        with self.batch():
            found = self._database.execute("SELECT run FROM runs WHERE finished IS NULL")
            if found:
                open_run = rows.text(found[0][0])
                raise StateError(
                    f"the run {open_run!r} is not finished: go on with it, or choose another --state directory"
                )
            values = (settings.run, settings.model_dump_json(), at)
            self._database.execute("INSERT INTO runs (run, settings, opened) VALUES (?, ?, ?)", values)
            self._add_model(ModelVersion(settings.run, 0, digest, None), at)

    def finish_run(self, run: str, at: str) -> None:
        """Close a run, complete or not; its open round must be closed first."""
        with self.batch():
            if self._database.execute("SELECT 1 FROM rounds WHERE run = ? AND phase = 'collecting'", (run,)):
                raise StateError(f"the run {run!r} has an open round: commit or abandon it first")
            self._database.execute("UPDATE runs SET finished = ? WHERE run = ? AND finished IS NULL", (at, run))

    def forget_run(self, run: str) -> None:
        """Take back a run of which no round was ever opened."""
        with self.batch():
            self._database.execute("DELETE FROM models WHERE run = ?", (run,))
            self._database.execute("DELETE FROM runs WHERE run = ?", (run,))

    def change_settings(self, settings: RunSettings) -> None:
        """Go on with a run, finished or not, under other settings."""
        values = (settings.model_dump_json(), settings.run)
        self._database.execute("UPDATE runs SET settings = ?, finished = NULL WHERE run = ?", values)

    def open_run(self) -> Resume | None:
        """The unfinished run and its open round, or None."""
        return self._resume("SELECT run, settings FROM runs WHERE finished IS NULL")

    def finished_run(self) -> Resume | None:
        """The run that was finished last, or None."""
        return self._resume("SELECT run, settings FROM runs WHERE finished IS NOT NULL ORDER BY finished DESC LIMIT 1")

    def _resume(self, sql: str) -> Resume | None:
        found = self._database.execute(sql)
        if not found:
            return None
        run = rows.text(found[0][0])
        announcement, devices = self._open_round(run)
        return Resume(
            settings=rows.message(RunSettings, found[0][1]),
            model=self.models(run)[-1],
            round=announcement,
            devices=devices,
            committed=self._last(run, "train"),
            evaluated=self._last(run, "evaluate"),
        )

    def models(self, run: str) -> tuple[ModelVersion, ...]:
        """All committed versions of a run, oldest first."""
        sql = "SELECT version, digest, previous FROM models WHERE run = ? ORDER BY version"
        found = self._database.execute(sql, (run,))
        return tuple(ModelVersion(run, rows.integer(row[0]), rows.text(row[1]), rows.optional(row[2])) for row in found)

    def last_closed(self, run: str) -> int:
        """The last round at whose training an attempt was closed; 0 for none."""
        sql = "SELECT coalesce(max(round), 0) FROM rounds WHERE run = ? AND task = 'train' AND phase <> 'collecting'"
        return rows.integer(self._database.execute(sql, (run,))[0][0])

    def history(self, run: str, since: int = 1) -> tuple[RoundSummary, ...]:
        """Each closed attempt at training a round, oldest first, with the new model's metrics where it has them.

        Of the rounds from ``since`` on.
        """
        sql = """SELECT rounds.round, model_version, reason, summary, metrics.metrics FROM rounds LEFT JOIN metrics
                 ON phase = 'committed' AND metrics.run = rounds.run AND metrics.version = model_version + 1
                 WHERE rounds.run = ? AND rounds.round >= ? AND task = 'train' AND phase <> 'collecting'
                 ORDER BY rounds.round, attempt"""
        summaries = []
        for number, version, reason, text, scores in self._database.execute(sql, (run, since)):
            if text is None:
                summary = RoundSummary(
                    run=run,
                    round=rows.integer(number),
                    outcome="abandoned",
                    reason=rows.text(reason),
                    model_version=rows.integer(version),
                )
            else:
                summary = rows.message(RoundSummary, text)
            if scores is not None:
                summary = summary.model_copy(update={"metrics": rows.message(Metrics, scores)})
            summaries.append(summary)
        return tuple(summaries)

    # Rounds

    def open_round(self, announcement: RoundAnnouncement) -> None:
        """Note an attempt as it is announced, before devices hear of it; only one can be open."""
        self._database.execute(
            """INSERT INTO rounds (nonce, run, round, task, attempt, phase, opened, deadline_s, model_version,
               model_digest, announcement) VALUES (?, ?, ?, ?, ?, 'collecting', ?, ?, ?, ?, ?)""",
            (
                announcement.nonce,
                announcement.run,
                announcement.round,
                announcement.task,
                announcement.attempt,
                announcement.opened,
                announcement.deadline_s,
                announcement.model_version,
                announcement.model_digest,
                announcement.model_dump_json(),
            ),
        )

    def has_opened(self, run: str) -> bool:
        """Whether any attempt of a run was ever opened."""
        return bool(self._database.execute("SELECT 1 FROM rounds WHERE run = ? LIMIT 1", (run,)))

    def mark(self, nonce: str, elapsed_s: float, asked: int) -> None:
        """Note for how many seconds the open attempt has been open, and how many devices it may wait for."""
        self._database.execute("UPDATE rounds SET elapsed_s = ?, asked = ? WHERE nonce = ?", (elapsed_s, asked, nonce))

    def marked(self, nonce: str) -> tuple[float, int]:
        """Both, as they were noted last; 0 before."""
        seconds, asked = self._database.execute("SELECT elapsed_s, asked FROM rounds WHERE nonce = ?", (nonce,))[0]
        assert isinstance(seconds, float)
        return seconds, rows.integer(asked)

    def attempts(self, run: str, number: int, task: Task) -> int:
        """How often a round's task has been opened, which is the number of its next attempt."""
        sql = "SELECT coalesce(max(attempt) + 1, 0) FROM rounds WHERE run = ? AND round = ? AND task = ?"
        return rows.integer(self._database.execute(sql, (run, number, task))[0][0])

    def add_update(self, run: str, update: Update, blob: bytes, digest: str, counted: str | None = None) -> bool:
        """Keep a run's update with its bytes and their SHA-256; False where it is there already.

        ``counted`` is the nonce of the open attempt in which it counts, where it answers an earlier one.
        """
        sql = "SELECT 1 FROM updates WHERE run = ? AND round = ? AND task = ? AND device = ?"
        identity = (run, update.round, update.task, update.device)
        if self._database.execute(sql, identity):
            return False
        counts = None if update.counts is None else update.counts.model_dump_json()
        about = (update.nonce, counted or update.nonce, update.examples, update.train_loss, counts, digest)
        with self.batch():
            [(received,)] = self._database.execute(
                """INSERT INTO updates
                   (run, round, task, device, nonce, counted, examples, train_loss, counts, digest, blob)
                   VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) RETURNING received""",
                (*identity, *about, blob[:PIECE]),
            )
            for number, start in enumerate(range(PIECE, len(blob), PIECE), 1):
                place = rows.integer(received) * MAX_PIECES + number
                self._database.execute("INSERT INTO pieces VALUES (?, ?)", (place, blob[start : start + PIECE]))
        return True

    def updates(self, run: str, number: int, task: Task) -> Iterator[StoredUpdate]:
        """What counts in a round's task in the order of device ids, one in memory at a time, digests checked."""
        sql = """SELECT received FROM updates JOIN rounds ON rounds.nonce = counted
                 WHERE rounds.run = ? AND rounds.round = ? AND rounds.task = ? ORDER BY device, updates.round"""
        for (received,) in self._database.execute(sql, (run, number, task)):
            yield self._update(received)

    def counted(self, run: str, since: int) -> frozenset[tuple[str, int]]:
        """Devices and rounds, from ``since`` on, whose updates are in a committed version."""
        sql = """SELECT device, updates.round FROM updates JOIN rounds ON rounds.nonce = counted
                 WHERE updates.run = ? AND updates.task = 'train' AND updates.round >= ? AND phase = 'committed'"""
        return frozenset(
            (rows.text(device), rows.integer(number)) for device, number in self._database.execute(sql, (run, since))
        )

    def commit_round(self, nonce: str, summary: RoundSummary, model: ModelVersion, at: str) -> None:
        """Close the open ``train`` round as committed, with its summary and the new version, or nothing of it.

        The version must follow the one the round started from, and its file must be on disk already.
        """
        with self.batch():
            version, digest = self._close(nonce, "train", "committed", summary=summary.model_dump_json())
            if (model.version, model.previous) != (version + 1, digest):
                raise StateError(f"version {model.version} does not follow {version}, which the round started from")
            self._add_model(model, at)
            self.roster.add_rejections(summary.run, summary.round, summary.rejected)

    def commit_evaluation(self, nonce: str, metrics: Metrics) -> None:
        """Close the open ``evaluate`` round as committed, with the metrics of the version it evaluated."""
        scores = (metrics.examples, metrics.loss, metrics.accuracy, metrics.macro_f1, metrics.model_dump_json())
        with self.batch():
            version, _ = self._close(nonce, "evaluate", "committed")
            self._database.execute(
                """INSERT INTO metrics (run, version, round, examples, loss, accuracy, macro_f1, metrics)
                   SELECT run, ?, round, ?, ?, ?, ?, ? FROM rounds WHERE nonce = ?""",
                (version, *scores, nonce),
            )

    def abandon_round(self, nonce: str, task: Task, reason: str) -> None:
        """Close the open round as abandoned, and forget its updates: devices train the next attempt anew."""
        with self.batch():
            self._close(nonce, task, "abandoned", reason=reason)
            self._database.execute("DELETE FROM updates WHERE counted = ?", (nonce,))

    def prune(self, keep_rounds: int, most_bytes: int | None = None) -> bool:
        """Delete the updates of all but the newest ``keep_rounds`` (0 or more) committed rounds, the oldest first.

        No more than go over ``most_bytes``, where given; False where more are left. The open round's updates stay,
        and so do all summaries, versions and metrics.
        """
        old = self._database.execute(
            """SELECT received, length(blob) + (
                 SELECT coalesce(sum(length(bytes)), 0) FROM pieces
                 WHERE place BETWEEN received * 65536 AND received * 65536 + 65535)
               FROM updates WHERE counted IN (
                 SELECT nonce FROM rounds WHERE phase <> 'collecting' AND (run, round) NOT IN (
                   SELECT run, round FROM rounds WHERE task = 'train' AND phase = 'committed'
                   ORDER BY rowid DESC LIMIT ?))
               ORDER BY received""",
            (keep_rounds,),
        )
        deleted = 0
        with self.batch():
            for received, size in old:
                if most_bytes is not None and deleted >= most_bytes:
                    return False
                self._database.execute("DELETE FROM updates WHERE received = ?", (received,))
                deleted += rows.integer(size)
        return True

    def _close(
        self, nonce: str, task: Task, phase: str, *, reason: str | None = None, summary: str | None = None
    ) -> tuple[int, str]:
        """Close the open round and return the version and digest it started from."""
        found = self._database.execute(
            """UPDATE rounds SET phase = ?, reason = ?, summary = ? WHERE nonce = ? AND task = ?
               AND phase = 'collecting' RETURNING model_version, model_digest""",
            (phase, reason, summary, nonce, task),
        )
        if not found:
            raise StateError(f"there is no open {task} round with the nonce {nonce}: start again to go on from disk")
        return rows.integer(found[0][0]), rows.text(found[0][1])

    def _add_model(self, model: ModelVersion, at: str) -> None:
        values = (model.run, model.version, model.digest, model.previous, at)
        self._database.execute("INSERT INTO models VALUES (?, ?, ?, ?, ?)", values)

    def _open_round(self, run: str) -> tuple[RoundAnnouncement | None, tuple[str, ...]]:
        sql = "SELECT announcement FROM rounds WHERE run = ? AND phase = 'collecting'"
        found = self._database.execute(sql, (run,))
        if not found:
            return None, ()
        announcement = rows.message(RoundAnnouncement, found[0][0])
        sql = "SELECT device FROM updates WHERE counted = ? ORDER BY received"
        devices = tuple(rows.text(row[0]) for row in self._database.execute(sql, (announcement.nonce,)))
        return announcement.model_copy(update={"received": len(devices)}), devices

    def _last(self, run: str, task: Task) -> int:
        sql = "SELECT coalesce(max(round), 0) FROM rounds WHERE run = ? AND task = ? AND phase = 'committed'"
        return rows.integer(self._database.execute(sql, (run, task))[0][0])

    def _update(self, received: Value) -> StoredUpdate:
        sql = "SELECT device, nonce, examples, train_loss, counts, digest, blob FROM updates WHERE received = ?"
        device, nonce, examples, loss, counts, digest, blob = self._database.execute(sql, (received,))[0]
        first = rows.integer(received) * MAX_PIECES
        sql = "SELECT bytes FROM pieces WHERE place > ? AND place < ? ORDER BY place"
        rest = [rows.raw(row[0]) for row in self._database.execute(sql, (first, first + MAX_PIECES))]
        whole = b"".join((rows.raw(blob), *rest))
        if hashlib.sha256(whole).hexdigest() != digest:
            raise DamagedUpdate(f"the update of {rows.text(device)} in the journal is damaged: its attempt can't go on")
        return StoredUpdate(
            device=rows.text(device),
            nonce=rows.text(nonce),
            examples=rows.integer(examples),
            train_loss=None if loss is None else float(loss),
            counts=None if counts is None else rows.message(Counts, counts),
            digest=rows.text(digest),
            blob=whole,
        )


def newest_version(path: Path) -> int | None:
    """The newest version of the run that the journal at ``path`` is in, or was in last; another process may hold it."""
    found = look_up(
        path,
        """SELECT max(version) FROM models
           WHERE run = (SELECT run FROM runs ORDER BY finished IS NULL DESC, finished DESC LIMIT 1)""",
    )
    return None if found[0][0] is None else rows.integer(found[0][0])


def last_settings(path: Path) -> RunSettings | None:
    """The settings of that run; None where there was none yet."""
    found = look_up(path, "SELECT settings FROM runs ORDER BY finished IS NULL DESC, finished DESC LIMIT 1")
    return rows.message(RunSettings, found[0][0]) if found else None
