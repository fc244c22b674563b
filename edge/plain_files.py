"""Only plain files are opened where recordings are read: to open a pipe waits for ever, and a device has no end."""

from __future__ import annotations

from pathlib import Path

from schemas.errors import DataError


def plain(path: Path) -> Path:
    """``path``, where it is a plain file or nothing is there. Raises ``DataError``, ``OSError`` where it is hidden."""
    if path.exists() and not path.is_file():
        raise DataError(f"can't read {path}: it is a pipe, a device or a folder, and no file; take it away")
    return path
