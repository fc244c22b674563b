"""Counts what one device moves over its link, and times its uploads, for ``thrift``. Used from one thread.

Updates leave one after the other: each is timed from when it was given to the link, or from when that had done with
what was given before.
"""

from __future__ import annotations

from edge.core import events as ev
from edge.core.events import Event, Parcel

_MOST = 32  # uploads under way that are known of


class Meter:
    """Bytes of payload either way, and when the broker has an update whole; times are monotonic seconds."""

    def __init__(self, *, counts: bool) -> None:
        """``counts``: whether anybody wants to know how much was moved."""
        self._counts = counts
        self._moved = 0
        self._uploads: dict[int, tuple[Parcel | None, int, float]] = {}  # by the token of the last part
        self._free_at = 0.0  # when the link had done with one of them last
        self._busy_since: float | None = None  # with those that are timed
        self._told: float | None = None  # of that

    def add(self, count: int) -> None:
        """A payload was published or received."""
        self._moved += count

    def uploading(self, token: int, parcel: Parcel | None, size: int, now: float) -> None:
        """Parts of an update, of ``size`` bytes, were given to the link at ``now``, the last one as ``token``.

        ``parcel`` is None where they are too few to tell how long all of it takes.
        """
        self._uploads[token] = (parcel, size, now)
        if parcel is not None and self._busy_since is None:
            self._busy_since = now
        while len(self._uploads) > _MOST:
            del self._uploads[next(iter(self._uploads))]
        self._look()

    def acknowledged(self, token: int, now: float) -> tuple[Event, ...]:
        """The broker has what the link knows as ``token``, or has refused it."""
        if token not in self._uploads:
            return ()
        parcel, size, since = self._uploads.pop(token)
        since, self._free_at = max(since, self._free_at), now
        self._look()
        return () if parcel is None else (ev.Uploaded(parcel, size, now - since),)

    def cut(self, again: int) -> None:
        """The connection is gone: so many bytes go again, and what is under way takes as long as that does."""
        self._moved += again
        self._uploads = {token: (None, size, since) for token, (_, size, since) in self._uploads.items()}
        self._busy_since = None

    def take(self) -> tuple[Event, ...]:
        """What was moved since this was last asked, and whether updates are under way where that has changed."""
        moved, self._moved = self._moved, 0
        told, self._told = self._told, self._busy_since
        news: tuple[Event, ...] = (ev.Uploading(self._busy_since),) if told != self._busy_since else ()
        return (*news, ev.Moved(moved)) if self._counts and moved else news

    def _look(self) -> None:
        if all(parcel is None for parcel, _, _ in self._uploads.values()):
            self._busy_since = None
