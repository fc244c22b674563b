"""Disks that take no more: a real one of a few megabytes, one without room for a large file, and a seam at every place
where the coordinator writes.
"""

from __future__ import annotations

import errno
import os
import resource
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Self

import pytest

SPEAKS_TO_THE_DISK: Final = ("BEGIN", "COMMIT", "INSERT", "UPDATE", "DELETE", "PRAGMA wal_checkpoint")


@contextmanager
def small_disk(directory: Path, size: str = "4m") -> Iterator[Path]:
    """A file system of ``size`` of its own, mounted on ``directory``; the test is skipped where none can be mounted."""
    directory.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "fedbeat-test", str(directory)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"this machine mounts no tmpfs for us: {done.stderr.strip()}")
    try:
        yield directory
    finally:
        subprocess.run(["umount", "--lazy", str(directory)], check=True)


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """A disk that takes no file beyond ``size`` bytes, by the kernel's own limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


class Ballast:
    """A file that fills what is left of a disk, until it is thrown away."""

    def __init__(self, disk: Path) -> None:
        self._path = disk / "ballast"

    def fill(self) -> None:
        """Leave not a byte."""
        with self._path.open("ab", buffering=0) as file:
            for size in (65_536, 4096, 1):
                try:
                    while file.write(bytes(size)) == size:
                        pass
                except OSError as error:
                    assert error.errno == errno.ENOSPC  # noqa: PT017 - what a full disk says

    def drop(self) -> None:
        """Give it all back; the second time nothing happens."""
        self._path.unlink(missing_ok=True)


class Disk:
    """Counts what is asked of the disk, and does ``trouble`` at operation ``at``, from 0, and ``times`` - 1 after it.

    Instead of the operation, where ``trouble`` raises; with ``after`` once the first of them is done.

    An operation is a statement of SQLite that writes, a commit, a checkpoint, a write into the spool, and each step of
    saving or deleting a model. As a context manager it stands between the coordinator and its disk.
    """

    def __init__(
        self,
        at: int = -1,
        trouble: Callable[[str], None] | None = None,
        *,
        times: int = 1,
        after: bool = False,
    ) -> None:
        self.operations: list[str] = []
        self._due = range(at, at + times) if at >= 0 else range(0)
        self._after = after
        self._trouble = trouble or full
        self._patch = pytest.MonkeyPatch()

    def __enter__(self) -> Self:
        asking = self._asking

        class Connection(sqlite3.Connection):
            def execute(self, sql: str, *values: Any) -> sqlite3.Cursor:
                if not sql.lstrip().startswith(SPEAKS_TO_THE_DISK):
                    return super().execute(sql, *values)
                cursor = asking(super().execute, f"sqlite {' '.join(sql.split()[:3])}")(sql, *values)
                assert isinstance(cursor, sqlite3.Cursor)
                return cursor

        connect = sqlite3.connect

        def open_database(path: Path, **options: Any) -> sqlite3.Connection:
            return connect(path, factory=Connection, **options)

        self._patch.setattr(sqlite3, "connect", open_database)
        for module, name in ((os, "pwrite"), (os, "fsync"), (Path, "replace"), (Path, "unlink")):
            self._patch.setattr(module, name, self._asking(getattr(module, name), name))
        return self

    def __exit__(self, *_: object) -> None:
        self._patch.undo()

    def _asking(self, does: Callable[..., Any], name: str) -> Callable[..., Any]:
        def operation(*arguments: Any, **options: Any) -> Any:
            number = len(self.operations)
            self.operations.append(name)
            if number not in self._due:
                return does(*arguments, **options)
            if self._after:
                does(*arguments, **options)
            return self._trouble(name)

        return operation


def failing(number: int, name: str) -> Callable[[str], None]:
    """Trouble with ``number`` from the kernel, which SQLite calls ``name``."""

    def fail(what: str) -> None:
        if not what.startswith("sqlite"):
            raise OSError(number, os.strerror(number))
        error = sqlite3.OperationalError("database or disk is full")
        error.sqlite_errorname = name
        raise error

    return fail


full = failing(errno.ENOSPC, "SQLITE_FULL")
over_quota = failing(errno.EDQUOT, "SQLITE_IOERR_WRITE")
broken = failing(errno.EIO, "SQLITE_IOERR_FSYNC")
