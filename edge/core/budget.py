"""How many bytes a device may move within a day, and how many it has. Pure.

A day is 24 hours in which the device runs, and it slides by the hour: never is more moved within any 24 of them. The
wall clock isn't asked, so that no jump of it, forth or back, gives a day for free.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Final

from schemas.errors import SettingsError

HOUR_S: Final = 3600.0
HOURS: Final = 24
_UNITS: Final = {"kb": 10**3, "mb": 10**6, "gb": 10**9}
_FORM: Final = re.compile(r"(\d{1,9}(?:\.\d{1,6})?) ?(kB|MB|GB)/day", re.IGNORECASE)


def parse(text: str) -> int | None:
    """Bytes a day of such as ``50MB/day``; None where ``text`` is empty or ``none``. Raises ``SettingsError``."""
    if text.lower() in {"", "none"}:
        return None
    found = _FORM.fullmatch(text.strip())
    limit = round(float(found[1]) * _UNITS[found[2].lower()]) if found else 0
    if not limit:
        raise SettingsError(f"{text!r} is no budget: give bytes a day, such as 500kB/day, 50MB/day or 1GB/day, or none")
    return limit


@dataclass(frozen=True, slots=True)
class Budget:
    """What may be moved, and what was, by the hour of running; times are seconds of running over all starts."""

    limit: int  # bytes within a day
    hours: tuple[tuple[int, int], ...] = ()  # which hour, and the bytes moved in it; oldest first, at most 25

    def moved(self, at_s: float, count: int) -> Budget:
        """``count`` more bytes were."""
        hour = int(at_s // HOUR_S)
        kept = [(when, much) for when, much in self.hours if hour - HOURS <= when < hour]
        newest = sum(much for when, much in self.hours if when >= hour)
        return Budget(self.limit, (*kept, (hour, newest + count)))

    def left(self, at_s: float) -> int:
        """Bytes that may still be moved now."""
        hour = int(at_s // HOUR_S)
        return max(0, self.limit - sum(much for when, much in self.hours if when >= hour - HOURS))

    def wait_s(self, at_s: float, needed: int) -> float:
        """Seconds of running until so many bytes may be moved; 0 now, infinite never."""
        if needed > self.limit:
            return math.inf
        hour = int(at_s // HOUR_S)
        counted = [(when, much) for when, much in self.hours if when >= hour - HOURS]
        over = sum(much for _, much in counted) + needed - self.limit
        for when, much in counted:
            if over <= 0:
                break
            over -= much
            free_at = (when + HOURS + 1) * HOUR_S
            if over <= 0:
                return max(0.0, free_at - at_s)
        return 0.0

    def why_not(self, at_s: float, needed: int) -> str:
        """Why so many bytes can't be moved now, and when they can; empty where they can."""
        wait_s = self.wait_s(at_s, needed)
        if wait_s == math.inf:
            return f"it takes about {size(needed)}, more than its budget of {size(self.limit)} a day: raise --budget"
        if not wait_s:
            return ""
        left = size(self.left(at_s))
        return (
            f"{left} of its {size(self.limit)} a day are left and it takes about {size(needed)}: "
            f"again in {duration(wait_s)}"
        )


def duration(seconds: float) -> str:
    """A wait as a person reads it."""
    return f"{seconds / HOUR_S:.1f} h" if seconds >= HOUR_S else f"{math.ceil(seconds / 60)} min"


def size(count: int) -> str:
    """Bytes as a person reads them."""
    for unit, name in ((10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
        if count >= unit:
            return f"{count / unit:.3g} {name}"
    return f"{count} B"
