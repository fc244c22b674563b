"""What a device keeps beside its outbox: the newest model, the plan, and how often it has started.

Plan and model can be fetched again, so they cost no fsync: a torn file is found by its digest and fetched anew.
"""

from __future__ import annotations

import fcntl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from edge import files
from schemas.errors import StateError
from schemas.messages import ModelPointer

_LAST_SESSION: Final = 2**53  # which no message carries a higher one than


@contextmanager
def claim(directory: Path, wall_clock: Callable[[], float] = time.time) -> Iterator[int]:
    """Take ``directory`` for this process alone, and give the session number of this start.

    It is above every earlier one, also where the clock has jumped back or, the clock being right, the directory was
    lost. Raises ``StateError`` where another process has the directory.
    """
    files.make_directory(directory)
    with (directory / "lock").open("w", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise StateError(f"another process works in {directory}: stop it, or choose another with --state") from None
        path = directory / "session"
        try:
            record = files.read(path)
        except files.Damaged:
            record = None
        before = record.header.get("session") if record else 0
        session = max(before + 1 if isinstance(before, int) and before < _LAST_SESSION else 0, int(wall_clock()))
        files.write(path, {"session": session}, durable=True)
        yield session


class Store:
    """The plan and the newest model of one device. Used from one thread."""

    def __init__(self, directory: Path, report: Callable[[str], None]) -> None:
        """Use ``directory``, made if need be; ``report`` hears of damaged files. Raises ``StateError``."""
        files.make_directory(directory)
        self._plan = directory / "plan"
        self._model = directory / "model"
        self._report = report

    def plan(self, digest: str) -> bytes | None:
        """The plan whose blob has this digest, if it is here."""
        record = self._read(self._plan)
        return record.payload if record is not None and record.header.get("digest") == digest else None

    def keep_plan(self, digest: str, blob: bytes) -> None:
        """Keep a plan, whose SHA-256 this is, instead of the one there is. Raises ``StateError``."""
        files.write(self._plan, {"digest": digest}, blob, durable=False, digest=digest)

    def model(self) -> tuple[ModelPointer, bytes] | None:
        """The model there is: what it is, and its blob."""
        record = self._read(self._model)
        if record is None:
            return None
        try:
            return ModelPointer.model_validate(record.header), record.payload
        except ValidationError:
            self._report(files.set_aside(self._model))
            return None

    def keep_model(self, pointer: ModelPointer, blob: bytes) -> None:
        """Keep a model instead of the one there is. Raises ``StateError``, and then keeps that one."""
        files.write(self._model, pointer.model_dump(mode="json"), blob, durable=False, digest=pointer.blob.digest)

    def _read(self, path: Path) -> files.Record | None:
        try:
            return files.read(path)
        except files.Damaged:
            self._report(files.set_aside(path))
        except StateError as error:
            self._report(str(error))
        return None
