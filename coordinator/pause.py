"""How long a coordinator waits for a disk that takes no more. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

RETRY_S: Final = 1.0  # after a disk took no more, then twice as long each time
LONGEST_RETRY_S: Final = 30.0
AGAIN: Final = f"It goes on by itself, at most {LONGEST_RETRY_S:.0f} s after there is room"


@dataclass(frozen=True, slots=True)
class Pause:
    """The disk takes no more: for how many attempts now, and when the next is due in monotonic seconds."""

    failures: int
    retry_at: float

    @classmethod
    def after(cls, before: Pause | None, now: float) -> Pause:
        """What follows a failure at ``now``, the first where there was no pause ``before``."""
        failures = 1 if before is None else before.failures + 1
        return cls(failures, now + min(RETRY_S * 2.0 ** min(failures - 1, 10), LONGEST_RETRY_S))
