"""Writing plan files, which operators alone do; ``schemas.plan_file`` has the reading half, which is both ends'."""

from __future__ import annotations

import os
from pathlib import Path

from safetensors.numpy import save

from schemas.errors import StateError
from schemas.plan_file import BUNDLED, PlanFile, bundled, find, read

__all__ = ["BUNDLED", "PlanFile", "bundled", "find", "read", "write"]


def write(file: PlanFile, path: Path) -> None:
    """Write a plan file, whole or not at all. Raises ``StateError``."""
    if path.is_dir():  # which may have no name of its own, as "." has none
        raise StateError(f"can't write the plan file {path}: it is a directory; give a file's name, such as net.plan")
    content = save(file.stored, metadata={"plan": file.plan.to_bytes().decode()})
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        scratch.write_bytes(content)
        scratch.replace(path)
    except OSError as error:
        scratch.unlink(missing_ok=True)
        raise StateError(f"can't write the plan file {path}: {error.strerror}") from None
