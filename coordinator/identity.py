"""The name of a state directory, by which coordinators tell one another apart: it stays as long as the directory."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final

from coordinator.models import REFUSED
from schemas.errors import DiskFull, StateError

FILE: Final = "instance"
_NAME: Final = re.compile(r"[0-9a-f]{16}")


def instance_of(state: Path) -> str:
    """The name of the directory ``state``, 16 hexadecimal digits; both are made where there is none.

    Raises ``StateError`` where the disk won't.
    """
    path = state / FILE
    try:
        state.mkdir(parents=True, exist_ok=True)
        try:
            return _make(path)
        except FileExistsError:
            name = path.read_text(encoding="ascii", errors="replace").strip()
        if _NAME.fullmatch(name):
            return name
        path.unlink()  # a power cut came before its content was on disk
        return _make(path)
    except OSError as error:
        text = f"{path}: {error.strerror}. Check the --state directory, its space, owner and permissions"
        raise (DiskFull if error.errno in REFUSED else StateError)(text) from error


def _make(path: Path) -> str:
    name = os.urandom(8).hex()
    with path.open("x", encoding="ascii") as file:
        try:
            file.write(f"{name}\n")
            file.flush()
            os.fsync(file.fileno())
        except OSError:
            path.unlink(missing_ok=True)  # else the next start would take a name that no disk has
            raise
    return name
