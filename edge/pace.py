"""How long training takes this device, as it has learned, so that it declines a deadline it can't meet. Pure.

What is learned is of a plan together with how it is trained: more or fewer epochs are another thing. The newest attempt
counts half, so that a warm afternoon passes; so does an estimate that keeps the device out, by a tenth each time.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final

from schemas.messages import RunSettings

REMEMBERED: Final = 8  # plans
LONGEST_S: Final = 31_536_000.0  # a year; what a fraction near nothing would make of a minute
_DECAY: Final = 0.9
_NEWEST: Final = 0.5


@dataclass(frozen=True, slots=True)
class Pace:
    """Seconds from an announcement to the update on disk, by what is trained; the newest learned last."""

    seconds: tuple[tuple[str, float], ...] = ()

    def expected(self, about: str) -> float | None:
        """How long it will take; None where nothing is known."""
        return dict(self.seconds).get(about)

    def learn(self, about: str, seconds: float) -> Pace:
        """An attempt has taken, or would have taken, this long."""
        before = self.expected(about)
        blended = seconds if before is None else before + _NEWEST * (seconds - before)
        return self._with(about, blended)

    def decayed(self, about: str) -> Pace:
        """An estimate that kept the device out of a round is trusted less."""
        before = self.expected(about)
        return self if before is None else self._with(about, _DECAY * before)

    def _with(self, about: str, seconds: float) -> Pace:
        others = tuple(one for one in self.seconds if one[0] != about)
        return Pace((*others, (about, min(seconds, LONGEST_S)))[-REMEMBERED:])


def subject(run: RunSettings) -> str:
    """What a run's training is known by."""
    settings = f"{run.plan.blob.digest}/{run.train.model_dump_json()}"
    return hashlib.sha256(settings.encode()).hexdigest()


def why_not(needed_s: float, left_s: float) -> str:
    """What a device says that declines a deadline."""
    return (
        f"it would need about {needed_s:.0f} s, and the round leaves {left_s:.0f} s: "
        "a longer deadline or fewer epochs would let it take part"
    )
