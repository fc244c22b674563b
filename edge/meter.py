"""Counts what one device moves over its link, and times its uploads, for ``thrift``. Used from one thread."""

from __future__ import annotations

from edge import events as ev
from edge.events import Event

_MOST = 32  # uploads under way that are timed


class Meter:
    """Bytes of payload either way, and when the broker has an update whole; times are monotonic seconds."""

    def __init__(self, *, counts: bool) -> None:
        """``counts``: whether anybody wants to know how much was moved."""
        self._counts = counts
        self._moved = 0
        self._uploads: dict[int, tuple[int, float]] = {}  # by the token of the last part: bytes, since when

    def add(self, count: int) -> None:
        """A payload was published or received."""
        self._moved += count

    def uploading(self, token: int, size: int, now: float) -> None:
        """All parts of an update of ``size`` bytes were given to the link at ``now``, the last one as ``token``."""
        self._uploads[token] = (size, now)
        while len(self._uploads) > _MOST:
            del self._uploads[next(iter(self._uploads))]

    def acknowledged(self, token: int, now: float) -> tuple[Event, ...]:
        """The broker has what the link knows as ``token``."""
        size, since = self._uploads.pop(token, (0, now))
        return (ev.Uploaded(size, now - since),) if size else ()

    def cut(self, again: int) -> None:
        """The connection is gone: so many bytes go again, and what is under way takes as long as that does."""
        self._moved += again
        self._uploads.clear()

    def take(self) -> tuple[Event, ...]:
        """What was moved since this was last asked."""
        moved, self._moved = self._moved, 0
        return (ev.Moved(moved),) if self._counts and moved else ()
