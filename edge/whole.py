"""Files that take their place whole or not at all, and a directory for one process alone. Imports next to nothing."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final

BESIDE: Final = ".new"  # what a file is called until it is whole
PRIVATE: Final = 0o600  # nobody else's business, whatever the umask


@contextmanager
def replacing(path: Path, *, durable: bool, mode: int = PRIVATE) -> Iterator[BinaryIO]:
    """What is written within takes the place of ``path`` at the end, whole or not at all.

    Raises ``OSError`` where the disk is full or refuses. Whatever ends it sooner, the file of before stays.
    """
    beside = path.parent / f"{path.name}{BESIDE}"  # also of ".", which the disk then refuses
    try:
        with open(beside, "wb", opener=lambda name, flags: os.open(name, flags, mode)) as file:
            yield file
            if durable:
                file.flush()
                os.fsync(file.fileno())
        beside.replace(path)
        if durable:
            sync_directory(path.parent)
    except BaseException:  # a Ctrl-C too
        with contextlib.suppress(OSError):
            beside.unlink()
        raise


@contextmanager
def alone(lock: Path) -> Iterator[bool]:
    """Hold the file ``lock``, made if need be, against all other processes; False where one has it.

    Raises ``OSError`` where it can't be opened.
    """
    with lock.open("a", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
        else:
            yield True


def sync_directory(path: Path) -> None:
    """Wait until the disk has the names in ``path``. Raises ``OSError``."""
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
