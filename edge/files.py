"""Files that are wholly there or not at all, whenever the power goes: how a device keeps what it must not lose.

A file is a line of two SHA-256 (of the header, of the payload), a line of JSON (the header), and raw bytes (the
payload). It is written beside its place and renamed into it. ``durable`` also waits for the disk, twice: for the bytes,
and for the name. Without it a power cut may bring back the file of before, or a torn one, which the digests tell.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from edge import whole
from schemas.errors import StateError

_DIGESTS: Final = 2 * 64 + 1  # characters, and the end of their line
_LONGEST_HEADER: Final = 64 * 1024  # bytes
_ASIDE: Final = ".damaged"
ASIDE: Final = 4  # damaged files kept in a directory, for whoever wants to look at one


@dataclass(frozen=True, slots=True)
class Record:
    """What a file holds."""

    header: Mapping[str, Any]
    payload: bytes


class Damaged(StateError):
    """The file is not what was written: a power cut, a failing card, or somebody's hand."""


def make_directory(path: Path) -> None:
    """Make ``path`` and its parents. Raises ``StateError``."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StateError(
            f"can't make the state directory {path}: {error.strerror}; choose another with --state"
        ) from None


def write(
    path: Path, header: Mapping[str, Any], payload: bytes = b"", *, durable: bool, digest: str | None = None
) -> None:
    """Replace ``path``; ``digest`` is the payload's SHA-256 where it is known already.

    Raises ``StateError`` where the disk is full or refuses; then the file of before stays.
    """
    line = json.dumps(header, separators=(",", ":")).encode() + b"\n"
    try:
        with whole.replacing(path, durable=durable) as file:
            file.write(f"{_digest(line)}{digest or _digest(payload)}\n".encode() + line)
            file.write(payload)
    except OSError as error:
        raise StateError(
            f"can't write {path}: {error.strerror}; free some space there, or choose another place with --state"
        ) from None


def read(path: Path) -> Record | None:
    """What ``path`` holds, None where there is no such file.

    Raises ``Damaged`` where it is not whole, ``StateError`` where it can't be read.
    """
    try:
        with path.open("rb") as file:
            digests, line, payload = file.readline(_DIGESTS), file.readline(_LONGEST_HEADER), file.read()
    except FileNotFoundError:
        return None
    except IsADirectoryError:
        raise Damaged(f"{path} is a directory") from None
    except OSError as error:
        raise StateError(f"can't read {path}: {error.strerror}; see to its permissions and to the disk") from None
    if digests != f"{_digest(line)}{_digest(payload)}\n".encode():
        raise Damaged(f"{path} is damaged")
    try:
        header = json.loads(line)
    except (ValueError, RecursionError):
        header = None
    if not isinstance(header, dict):
        raise Damaged(f"{path} has no header")
    return Record(header, payload)


def set_aside(path: Path) -> str:
    """Rename a damaged file so that it isn't read again, and say so; an earlier one of that name is lost."""
    aside = path.with_name(f"{path.name}{_ASIDE}")
    try:
        if aside.is_dir() or path.is_dir():
            _clear(aside)
        path.replace(aside)
    except OSError as error:
        return f"{path} is damaged, and can't be set aside: {error.strerror}"
    return f"{path} is damaged; set aside as {aside.name}, carrying on without it"


def remove(path: Path) -> None:
    """Remove ``path`` where it exists. Raises ``StateError``."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise StateError(f"can't remove {path}: {error.strerror}; see to the permissions of its directory") from None


def sweep(directory: Path) -> None:
    """Clear away what a power cut left half written, and all but the newest ``ASIDE`` damaged files.

    Whoever calls has the directory to itself. What can't be cleared stays, and does no harm.
    """
    for path in directory.glob(f"*{whole.BESIDE}"):
        _clear(path)
    with contextlib.suppress(OSError):
        aside = sorted(directory.glob(f"*{_ASIDE}"), key=lambda path: path.lstat().st_mtime)
        for path in aside[:-ASIDE]:
            _clear(path)


def _clear(path: Path) -> None:
    with contextlib.suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _digest(raw: bytes) -> str:
    return hashlib.sha256(raw).hexdigest()
