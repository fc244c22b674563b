"""Disks of simulated nodes: what a process wrote, what of it a power cut leaves, and when nothing more fits.

The product's own file operations run on a real directory in memory. ``Disks.patched`` watches them through the few
functions they all end in (``io.open``, ``os.fsync``, ``os.replace``, ...), and keeps for each disk what has reached it
for good: the bytes of a file once it was synced, its name once its directory was. A process that is killed leaves all
it wrote. A power cut leaves what was synced; of the names changed since, the first few, and under a name whose bytes
were never synced all of them, some, or none.

The journal is SQLite's, which calls none of these. Its commits last because they are synced (synchronous=FULL); where
they are not, a power cut takes the newest of those that are still in its log.
"""

from __future__ import annotations

import builtins
import errno
import io
import os
import random
import sqlite3
import struct
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from unittest import mock

JOURNAL: Final = "journal.db"
LOG: Final = f"{JOURNAL}-wal"
_OF_SQLITE: Final = (JOURNAL, LOG, f"{JOURNAL}-shm")
_FULL: Final = 2  # PRAGMA synchronous
_WRITES: Final = ("INSERT", "UPDATE", "DELETE")

Image = dict[str, bytes]  # a disk's files by their path below its root


class Killed(BaseException):
    """The process ends here, at this very operation. Nothing may catch it."""


@dataclass(eq=False, slots=True)
class _Inode:
    content: bytes | None  # None: to be read from the file itself
    synced: bool = False


@dataclass(eq=False)
class Disk:
    """One node's disk for one life of its process. ``image`` is what it holds at first, all of it for good."""

    root: Path
    image: Image
    draw: random.Random
    full: bool = False
    steps: int = 0  # operations so far, on this disk and on the link
    dies_at: int | None = None  # the step at which ``die`` is called, which raises ``Killed``
    die: Callable[[], None] = lambda: None
    journal: Journal | None = None
    committed: Callable[[Journal], None] = lambda _journal: None  # called after each commit of the journal
    refused: int = 0  # writes for want of space
    _names: dict[str, _Inode] = field(default_factory=dict)
    _durable: dict[str, _Inode] = field(default_factory=dict)
    _pending: list[tuple[str, _Inode | None]] = field(default_factory=list)  # names since the last sync, None: removed

    def __post_init__(self) -> None:
        self.root.mkdir(parents=True)
        for name, content in self.image.items():
            path = self.root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
            if name not in _OF_SQLITE:
                self._names[name] = self._durable[name] = _Inode(content, synced=True)
        self.image = {}

    def step(self) -> None:
        """Something is about to be done that a crash may come before."""
        self.steps += 1
        if self.dies_at is not None and self.steps >= self.dies_at:
            self.dies_at = None
            self.die()

    def left(self, *, power_cut: bool) -> Image:
        """What another process would find now, after a power cut or without one."""
        names = self._names
        if power_cut:
            names = dict(self._durable)
            for name, inode in self._pending[: self.draw.randint(0, len(self._pending))]:
                _set(names, name, inode)
        image = {name: self._content(name, inode, power_cut=power_cut) for name, inode in names.items()}
        for name in (JOURNAL, LOG):
            path = self.root / name
            if path.exists():
                image[name] = path.read_bytes()
        if power_cut and self.journal is not None and LOG in image and self.journal.synchronous < _FULL:
            image[LOG] = image[LOG][: self.draw.choice(_ends_of_commits(image[LOG]))]
        return image

    def has(self, name: str) -> bool:
        """Whether there is a file of this name."""
        return name in self._names

    # What the patched functions tell.

    def made(self, name: str) -> None:
        """A file was opened to be written from its beginning."""
        self._set(name, _Inode(None))

    def synced(self, name: str) -> None:
        """A file's bytes were."""
        inode = self._names.get(name)
        if inode is not None:
            inode.content, inode.synced = (self.root / name).read_bytes(), True

    def synced_names(self, directory: str) -> None:
        """A directory was."""
        here = [change for change in self._pending if os.path.dirname(change[0]) == directory]  # noqa: PTH120  - names
        self._pending = [change for change in self._pending if change not in here]
        for name, inode in here:
            _set(self._durable, name, inode)

    def is_directory(self, name: str) -> bool:
        """Whether that is one."""
        return (self.root / name).is_dir()

    def renamed(self, old: str, new: str) -> None:
        """A file took another's place."""
        inode = self._names[old]
        if inode.content is None:
            inode.content = (self.root / new).read_bytes()
        self._set(old, None)
        self._set(new, inode)

    def removed(self, name: str) -> None:
        """A file was."""
        self._set(name, None)

    def _set(self, name: str, inode: _Inode | None) -> None:
        _set(self._names, name, inode)
        self._pending.append((name, inode))

    def _content(self, name: str, inode: _Inode, *, power_cut: bool) -> bytes:
        content = inode.content
        if content is None:
            path = self.root / name
            content = path.read_bytes() if path.exists() else b""
        if inode.synced or not power_cut:
            return content
        return self.draw.choice(
            (content, b"", content[: self.draw.randint(0, len(content))], bytes(len(content)))  # zeros: not written yet
        )


class Journal(sqlite3.Connection):
    """The journal's connection: each statement is a step of its disk, and fails where that is full."""

    disk: Disk

    def execute(self, sql: str, values: Any = (), /) -> sqlite3.Cursor:
        """Run a statement."""
        word = sql.split(None, 1)[0].upper()
        writes = word in _WRITES or word == "COMMIT"
        if writes:
            self.disk.step()
            if self.disk.full and self.disk.draw.random() < 0.5:
                raise self._no_space()
        cursor = super().execute(sql, values)
        if not writes or self.in_transaction:
            return cursor
        if word == "COMMIT":
            self._is_committed()
            return cursor
        rows = cursor.fetchall()  # until it is read to its end, a statement outside a transaction is not committed
        self._is_committed()
        return _Rows(self, rows)

    def close(self) -> None:
        """Close it; no power cut changes it any more."""
        self.disk.journal = None
        super().close()

    def ask(self, sql: str, values: tuple[Any, ...] = ()) -> list[Any]:
        """What the journal holds; no step of its process."""
        return super().execute(sql, values).fetchall()

    @property
    def synchronous(self) -> int:
        """The PRAGMA."""
        return int(self.ask("PRAGMA synchronous")[0][0])

    def _is_committed(self) -> None:
        self.disk.committed(self)
        self.disk.step()

    def _no_space(self) -> sqlite3.OperationalError:
        self.disk.refused += 1
        if self.in_transaction:
            super().execute("ROLLBACK")  # as SQLite does by itself
        error = sqlite3.OperationalError("database or disk is full")
        error.sqlite_errorname, error.sqlite_errorcode = "SQLITE_FULL", sqlite3.SQLITE_FULL
        return error


class _Rows(sqlite3.Cursor):
    """A cursor whose rows were read already."""

    def __init__(self, connection: sqlite3.Connection, rows: list[Any]) -> None:
        super().__init__(connection)
        self._rows = rows

    def fetchall(self) -> list[Any]:
        return self._rows


class Disks:
    """All disks below one directory, by the first part of their paths."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self._disks: dict[str, Disk] = {}
        self._open: dict[int, tuple[Disk, str]] = {}  # file descriptors
        self._prefix = f"{base}/"

    def add(self, disk: Disk) -> Disk:
        """Watch it."""
        self._disks[disk.root.name] = disk
        return disk

    def drop(self, disk: Disk) -> None:
        """Forget it; its process is gone."""
        self._disks.pop(disk.root.name, None)
        self._open = {handle: found for handle, found in self._open.items() if found[0] is not disk}

    @contextmanager
    def patched(self) -> Iterator[None]:
        """Watch what is done to files, by anybody in this process, until the end of the block."""
        with ExitStack() as patches:
            for module, name, function in (
                (io, "open", self._open_file),
                (builtins, "open", self._open_file),
                (os, "open", self._open_descriptor),
                (os, "fsync", self._fsync),
                (os, "replace", self._replace),
                (os, "rename", self._replace),
                (os, "unlink", self._unlink),
                (os, "pwrite", self._pwrite),
                (sqlite3, "connect", self._connect),
            ):
                patches.enter_context(mock.patch.object(module, name, _over(getattr(module, name), function)))
            yield

    def _find(self, path: object) -> tuple[Disk, str] | None:
        text = os.fspath(path) if isinstance(path, str | os.PathLike) else None
        if not isinstance(text, str) or not text.startswith(self._prefix):
            return None
        where, _, name = text[len(self._prefix) :].partition("/")
        disk = self._disks.get(where)
        return None if disk is None else (disk, name)

    def _open_file(self, real: Callable[..., Any], file: object, mode: str = "r", *more: Any, **named: Any) -> Any:
        found = self._find(file)
        if found is None or not set("wax") & set(mode) or found[0].is_directory(found[1]):  # there, one without a name
            return real(file, mode, *more, **named)
        disk, name = found
        disk.step()
        if disk.full:
            disk.refused += 1
            if not disk.has(name) and disk.draw.random() < 0.5:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(file))
            real(file, mode, *more, **named).close()
            if "a" in mode:  # to be locked, and nothing else; /dev/full would be locked for all simulations there are
                return real(file, mode, *more, **named)
            disk.made(name)
            return real("/dev/full", mode.replace("x", "w"), *more, **named)
        opened = real(file, mode, *more, **named)
        if "a" not in mode or not disk.has(name):
            disk.made(name)
        self._open[opened.fileno()] = found
        return opened

    def _open_descriptor(self, real: Callable[..., int], path: object, *more: Any, **named: Any) -> int:
        handle = real(path, *more, **named)
        found = self._find(path)
        if found is not None:
            self._open[handle] = found
        return handle

    def _fsync(self, real: Callable[[int], None], handle: int) -> None:
        found = self._open.get(handle)
        if found is None:
            real(handle)
            return
        disk, name = found
        disk.step()
        if disk.is_directory(name):
            disk.synced_names(name)
        else:
            disk.synced(name)
        disk.step()

    def _replace(self, real: Callable[..., None], old: object, new: object, **named: Any) -> None:
        found, target = self._find(old), self._find(new)
        if found is None or target is None:
            real(old, new, **named)
            return
        disk, name = found
        disk.step()
        real(old, new, **named)
        disk.renamed(name, target[1])
        disk.step()

    def _unlink(self, real: Callable[..., None], path: object, **named: Any) -> None:
        found = self._find(path)
        if found is not None:
            found[0].step()
        real(path, **named)
        if found is not None:
            found[0].removed(found[1])

    def _pwrite(self, real: Callable[..., int], handle: int, payload: bytes, offset: int) -> int:
        found = self._open.get(handle)
        if found is not None and found[0].full:
            found[0].refused += 1
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(handle, payload, offset)

    def _connect(self, real: Callable[..., sqlite3.Connection], path: object, **named: Any) -> sqlite3.Connection:
        found = self._find(path)
        if found is None:
            return real(path, **named)
        connection = real(path, factory=Journal, **named)
        assert isinstance(connection, Journal)
        connection.disk, found[0].journal = found[0], connection
        return connection


def _over(real: Callable[..., Any], ours: Callable[..., Any]) -> Callable[..., Any]:
    def patched(*positional: Any, **named: Any) -> Any:
        return ours(real, *positional, **named)

    return patched


def _set(names: dict[str, _Inode], name: str, inode: _Inode | None) -> None:
    if inode is None:
        names.pop(name, None)
    else:
        names[name] = inode


def _ends_of_commits(log: bytes) -> list[int]:
    """Where a prefix of SQLite's write-ahead log may end so that it holds so many whole commits, from none on."""
    ends = [0]
    if len(log) < 32:
        return ends
    page, salt = struct.unpack_from(">I", log, 8)[0], log[16:24]
    at = 32
    while at + 24 + page <= len(log) and log[at + 8 : at + 16] == salt:
        commits = struct.unpack_from(">I", log, at + 4)[0]
        at += 24 + page
        if commits:
            ends.append(at)
    return ends
