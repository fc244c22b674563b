"""The round's clock: monotonic, and stopped while nobody can be heard or nothing be kept."""

from __future__ import annotations

from collections.abc import Callable


class Clock:
    """Monotonic seconds, less those for which it was stopped."""

    def __init__(self, source: Callable[[], float]) -> None:
        """Stopped at first."""
        self._source = source
        self._lost = 0.0
        self._stopped_at: float | None = source()

    def now(self) -> float:
        """The time on it."""
        return (self._source() if self._stopped_at is None else self._stopped_at) - self._lost

    def stop(self) -> None:
        """Stand still; the second time nothing happens."""
        if self._stopped_at is None:
            self._stopped_at = self._source()

    def start(self) -> None:
        """Go on from where it stands."""
        if self._stopped_at is not None:
            self._lost += self._source() - self._stopped_at
            self._stopped_at = None

    def real(self) -> float:
        """The time on its source, which never stands still."""
        return self._source()

    @property
    def stopped_for(self) -> float:
        """For how long it has been standing."""
        return 0.0 if self._stopped_at is None else self._source() - self._stopped_at
