"""The SQLite file: durable settings, one owner, whole batches, and every failure with what to do about it."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from coordinator.database import PAGE_SIZE, Database
from schemas.errors import StateError


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "journal.db"


@pytest.fixture
def database(path: Path) -> Iterator[Database]:
    opened = Database(path)
    yield opened
    opened.close()


def reject(database: Database, reason: str) -> None:
    database.execute("INSERT INTO rejections VALUES ('run-1', 1, ?, 1)", (reason,))


def reasons(database: Database) -> list[object]:
    return [row[0] for row in database.execute("SELECT reason FROM rejections ORDER BY reason")]


@pytest.mark.parametrize(
    ("pragma", "expected"),
    [("journal_mode", "wal"), ("synchronous", 2), ("foreign_keys", 1), ("page_size", PAGE_SIZE), ("user_version", 4)],
)
def test_what_durability_rests_on_is_set_at_the_first_and_every_later_opening(
    path: Path, pragma: str, expected: object
) -> None:
    for _ in range(2):
        database = Database(path)
        assert database.execute(f"PRAGMA {pragma}") == [(expected,)]
        database.close()


def test_what_was_written_is_there_after_closing_and_closing_twice_is_fine(path: Path) -> None:
    first = Database(path)
    reject(first, "kept")
    first.close()
    first.close()
    second = Database(path)
    assert reasons(second) == ["kept"]
    second.close()


def test_an_inner_batch_belongs_to_the_outer_one(database: Database, path: Path) -> None:
    reader = sqlite3.connect(path)
    with database.batch():
        with database.batch():
            reject(database, "inner")
        assert reader.execute("SELECT count(*) FROM rejections").fetchone() == (0,)
    assert reader.execute("SELECT count(*) FROM rejections").fetchone() == (1,)
    reader.close()


def test_a_transaction_sqlite_rolled_back_by_itself_does_not_go_on_unnoticed(database: Database) -> None:
    """As after a disk error: what comes later in the batch must not be committed piece by piece."""

    def go_on() -> None:
        with database.batch():
            reject(database, "before")
            database._connection.execute("ROLLBACK")
            reject(database, "after")

    with pytest.raises(StateError, match="nothing of this batch is kept"):
        go_on()
    assert reasons(database) == []
    reject(database, "later")
    assert reasons(database) == ["later"]


def test_a_second_process_is_refused_until_the_first_has_closed(database: Database, path: Path) -> None:
    with pytest.raises(StateError, match="in use by another coordinator: stop that one"):
        Database(path)
    database.close()
    Database(path).close()


def test_another_program_writing_is_said(database: Database, path: Path) -> None:
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    database.execute("PRAGMA busy_timeout = 10")
    with pytest.raises(StateError, match=r"locked.*stop that process"):
        reject(database, "x")
    other.execute("ROLLBACK")
    other.close()
    reject(database, "x")


def test_a_checkpoint_moves_what_was_committed_out_of_the_log(database: Database, path: Path) -> None:
    before = path.stat().st_size
    database.execute("INSERT INTO devices VALUES ('dev-a', '', '', ?)", ("x" * 10 * PAGE_SIZE,))
    assert path.stat().st_size == before
    database.checkpoint()
    assert path.stat().st_size >= before + 10 * PAGE_SIZE


def test_where_memory_is_spared_a_large_batch_goes_to_the_log_on_its_way(database: Database, path: Path) -> None:
    """Seen to fail with the page cache that SQLite has by itself: 500 pages, of 32 kB."""
    database.spare_memory()
    log = path.with_name(path.name + "-wal")
    before = log.stat().st_size
    with database.batch():
        for number in range(8):
            database.execute("INSERT INTO devices VALUES (?, '', '', ?)", (f"dev-{number}", "x" * 2**20))
        assert log.stat().st_size > before + 4 * 2**20


@pytest.mark.parametrize("content", [b"not a database at all" * 100, b"SQLite format 3\0" + b"\xff" * 5000])
def test_a_damaged_file_is_said_and_left_as_it_is(path: Path, content: bytes) -> None:
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(StateError, match=r"damaged.*--fresh"):
        Database(path)
    assert path.read_bytes() == content
    path.unlink()
    Database(path).close()  # the lock was given back


def test_another_programs_database_is_refused(path: Path) -> None:
    path.parent.mkdir()
    foreign = sqlite3.connect(path)
    foreign.execute("CREATE TABLE notes (text)")
    foreign.close()
    before = path.read_bytes()
    with pytest.raises(StateError, match="another program's"):
        Database(path)
    assert path.read_bytes() == before


def test_a_newer_programs_file_is_refused(path: Path) -> None:
    Database(path).close()
    newer = sqlite3.connect(path)
    newer.execute("PRAGMA user_version = 99")
    newer.close()
    with pytest.raises(StateError, match="newer version of this program: upgrade"):
        Database(path)


def test_a_directory_that_cannot_be_used_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StateError, match="Check the --state directory"):
        Database(tmp_path / "file" / "journal.db")
    (tmp_path / "journal.db").mkdir()
    with pytest.raises(StateError, match=r"unable to open.*Check the disk"):
        Database(tmp_path / "journal.db")


def test_a_call_from_another_thread_is_a_mistake_and_not_a_state_error(database: Database) -> None:
    caught: list[BaseException] = []

    def call() -> None:
        try:
            reject(database, "x")
        except sqlite3.ProgrammingError as error:
            caught.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    thread.join(10)
    assert len(caught) == 1
