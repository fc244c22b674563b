"""Whether this program stood still: stopped, swapped out, or on a machine that slept. Others may hold it for gone."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Final

from schemas.errors import LinkError

# A machine's sleep counts where the clock knows of it.
_CLOCK: Final[Callable[[], float]] = (
    partial(time.clock_gettime, time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic
)


class Standstill:
    """Watches a loop that looks at it at least every ``limit_s / 2`` seconds while it goes on."""

    def __init__(self, limit_s: float, now: Callable[[], float] = _CLOCK) -> None:
        self.lasted_s = 0.0  # as ``over`` found it; 0 where there was none
        self._limit_s = limit_s
        self._now = now
        self._seen_at = now()

    @property
    def error(self) -> LinkError:
        """Why a connection is given up after it."""
        return LinkError(f"this program stood still for {self.lasted_s:.1f} s, in which others may have replaced it")

    def over(self) -> bool:
        """Whether more than ``limit_s`` seconds have passed since the last call."""
        before, self._seen_at = self._seen_at, self._now()
        passed_s = self._seen_at - before
        self.lasted_s = passed_s if passed_s > self._limit_s else 0.0
        return self.lasted_s > 0.0
