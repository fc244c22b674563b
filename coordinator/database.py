"""The SQLite file under the journal: opened once, brought up to date, and every failure said in words.

Settings and their reasons, measured on ext4 with 50 updates in one commit:

* WAL with synchronous=FULL: what a commit returned for survives a power cut; NORMAL may lose the newest commits.
* Pages of 32 kB: a 1 MB update is one chain of 31 pages instead of 250, and inserts twice as fast as with 4 kB;
  the small commits cost the same.
* No automatic checkpoint until the WAL is far larger than a round: ``checkpoint`` moves it into the database when
  the coordinator has nothing urgent to do, instead of inside the commit that devices wait for.
* secure_delete=FAST: Debian's SQLite would write a zero over every byte of a pruned update otherwise.
* SQLite's page cache as it is: 2 MB, but reckoned in pages of 4 kB before the file has others, so that it holds 16 MB
  for good. A round of ten 1 MB updates takes 5 % less of the coordinator's processor time so than with 4 MB; where
  updates are so large that no cache holds many of them, there is ``spare_memory``.
* No memory map: a bad sector is an error message then, not a SIGBUS.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from importlib import resources
from pathlib import Path
from typing import Final, TypeAlias

from schemas.errors import DiskFull, StateError

APPLICATION_ID: Final = 0x46656462  # "Fedb": which program's file this is
PAGE_SIZE: Final = 32_768
SPARING_KIB: Final = 4096
WAL_LIMIT: Final = 256 * 2**20  # bytes; a checkpoint comes by itself there
# SQLite's names for writes that the disk refused. Only a full disk is FULL; a quota, or a failing disk, is the others'.
REFUSED: Final = (
    "SQLITE_FULL",
    "SQLITE_IOERR_WRITE",
    "SQLITE_IOERR_FSYNC",
    "SQLITE_IOERR_DIR_FSYNC",
    "SQLITE_IOERR_TRUNCATE",
    "SQLITE_IOERR_SHMSIZE",
    "SQLITE_IOERR_SHMMAP",
)

Value: TypeAlias = str | bytes | int | float | None


class Database:
    """One SQLite file, held by one process and used from one thread.

    Every failure is a ``StateError``; where the disk takes no more it is a ``DiskFull``, and what failed can be done
    again, a batch as a whole.
    """

    def __init__(self, path: Path) -> None:
        """Opens ``path``, makes it where there is none, and runs the migrations it lacks."""
        self.path = path
        self._in_batch = False
        self._failed = False
        with ExitStack() as opened, self._guard():
            opened.callback(os.close, _lock(path))
            self._connection = sqlite3.connect(path, isolation_level=None)
            opened.callback(self._connection.close)
            self._prepare()
            self._held = opened.pop_all()

    def close(self) -> None:
        """Give the file free for others; the second time nothing happens."""
        with self._guard():
            self._held.close()

    def execute(self, sql: str, values: tuple[Value, ...] = ()) -> list[tuple[Value, ...]]:
        """Run one statement and return its rows; outside ``batch`` it is a transaction of its own."""
        if self._in_batch and not self._connection.in_transaction:
            raise self._lost()  # SQLite rolls back by itself after some failures
        with self._guard():
            return self._connection.execute(sql, values).fetchall()

    @contextmanager
    def batch(self) -> Iterator[None]:
        """All statements within are one transaction; a batch within a batch belongs to the outer one.

        An exception rolls all of it back, and so does a statement or an inner batch that failed, caught or not.
        """
        if self._in_batch:
            try:
                yield
            except BaseException:
                self._failed = True
                raise
            return
        self.execute("BEGIN IMMEDIATE")
        self._in_batch, self._failed = True, False
        try:
            yield
            self._commit()
        except BaseException:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise
        finally:
            self._in_batch = False

    def checkpoint(self) -> None:
        """Move committed pages from the WAL into the database; for a quiet moment, about a millisecond a megabyte."""
        self.execute("PRAGMA wal_checkpoint(PASSIVE)")

    def spare_memory(self) -> None:
        """Keep 4 MB of pages in memory instead of 16: what a batch writes goes to the WAL on its way."""
        self.execute(f"PRAGMA cache_size=-{SPARING_KIB}")

    def _commit(self) -> None:
        if self._failed or not self._connection.in_transaction:
            raise self._lost()
        with self._guard():
            self._connection.execute("COMMIT")

    def _prepare(self) -> None:
        found = self._pragma("application_id")
        tables = self.execute("SELECT count(*) FROM sqlite_master")[0][0]
        if found != APPLICATION_ID and tables:
            raise StateError(f"{self.path} is another program's database: choose another --state directory")
        for setting in (
            f"page_size={PAGE_SIZE}",
            "journal_mode=WAL",
            "synchronous=FULL",
            "foreign_keys=ON",
            "secure_delete=FAST",
            "mmap_size=0",
            f"wal_autocheckpoint={WAL_LIMIT // PAGE_SIZE}",
            f"journal_size_limit={WAL_LIMIT // 4}",
        ):
            self.execute(f"PRAGMA {setting}")
        self._migrate()

    def _migrate(self) -> None:
        """Run v1.sql, v2.sql ... beyond the file's own version, each in one transaction."""
        scripts = sorted(
            (int(file.name[1:-4]), file)
            for file in (resources.files("coordinator") / "migrations").iterdir()
            if file.name.startswith("v") and file.name.endswith(".sql")
        )
        version = self._pragma("user_version")
        if version > scripts[-1][0]:
            raise StateError(f"{self.path} was written by a newer version of this program: upgrade the coordinator")
        for number, file in scripts:
            if number > version:
                with self._guard():
                    self._connection.executescript(
                        f"BEGIN IMMEDIATE;\n{file.read_text('utf-8')}\n"
                        f"PRAGMA application_id = {APPLICATION_ID};\nPRAGMA user_version = {number};\nCOMMIT;"
                    )

    def _pragma(self, name: str) -> int:
        value = self.execute(f"PRAGMA {name}")[0][0]
        assert isinstance(value, int)
        return value

    def _lost(self) -> StateError:
        return StateError(f"{self.path}: nothing of this batch is kept, since a part of it could not be written")

    @contextmanager
    def _guard(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.ProgrammingError:
            raise  # a mistake in this program, such as a call from another thread
        except (sqlite3.Error, UnicodeDecodeError) as error:  # the latter where a damaged name is in SQLite's message
            self._failed = True
            full = getattr(error, "sqlite_errorname", "") in REFUSED
            raise (DiskFull if full else StateError)(f"{self.path}: {error}. {_advice(error)}") from error


def look_up(path: Path, sql: str) -> list[tuple[Value, ...]]:
    """Rows of a database that another process may hold; nothing is changed. ``StateError`` where it can't be read."""
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as connection:
            return connection.execute(sql).fetchall()
    except sqlite3.Error as error:
        raise StateError(f"{path}: {error}. {_advice(error)}") from error


@contextmanager
def claim(path: Path) -> Iterator[None]:
    """Keep other coordinators from the database at ``path``; ``StateError`` where one has it."""
    handle = _lock(path)
    try:
        yield
    finally:
        os.close(handle)


_DAMAGED: Final = (
    "The file is damaged: start a new run with --fresh, which sets the directory aside with its models, or choose "
    "another --state directory"
)


def _advice(error: Exception) -> str:
    """What the user should do, by SQLite's own name for what went wrong."""
    name = getattr(error, "sqlite_errorname", "SQLITE_CORRUPT" if isinstance(error, UnicodeDecodeError) else "")
    for prefix, advice in (
        ("SQLITE_FULL", "Free some disk space; what was committed is safe, and the run goes on from there"),
        ("SQLITE_IOERR", "Free some disk space, or check the disk and its quota; what was committed is safe"),
        ("SQLITE_BUSY", "Another process is writing to it: stop that process, then start again"),
        ("SQLITE_CORRUPT", _DAMAGED),
        ("SQLITE_NOTADB", _DAMAGED),
        ("SQLITE_CONSTRAINT", "That is a fault of this program: please report it. What was committed is safe"),
    ):
        if name.startswith(prefix):
            return advice
    return "Check the disk, and the owner and permissions of the --state directory"


def _lock(path: Path) -> int:
    """An advisory lock beside the database, so that a second coordinator is refused while readers are welcome.

    The kernel drops it with the process, however that ends.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path.with_name(path.name + ".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StateError(f"{path}: {error.strerror}. Check the --state directory, its owner and permissions") from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(handle)
        raise StateError(
            f"{path} is in use by another coordinator: stop that one, or choose another --state directory"
        ) from error
    return handle
