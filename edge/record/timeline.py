"""How a source's samples keep pace with the clock. Pure; the clock is monotonic, so no change of the date is seen.

A sample is heard after it was taken, by a delay that varies and is never below some least. So of all samples heard
within ten seconds the least late one tells most (the minimum filter of Mills 1991, and of Moon, Skelly and Towsley
1999). From window to window that least lateness grows or shrinks evenly where the source's clock isn't ours: drift. It
jumps where samples were lost that nobody reported.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Final

WINDOW_S: Final = 10.0
SLIP_S: Final = 0.3  # a jump from window to window that is lost samples, not delay
LEAST_FOR_DRIFT: Final = 3  # windows
WRONG_RATE: Final = 0.02  # more than any oscillator drifts, and than a slip within the fewest windows: 0.3 s of 20 s


@dataclass(frozen=True, slots=True)
class Timeline:
    """Samples without a gap, against the clock. Lateness is in seconds, against the first sample's."""

    rate: float  # samples a second, as the source says
    first_at: float | None = None  # when the first sample was taken, as far as it was heard in time
    count: int = 0
    least: float = math.inf  # of the window that isn't full
    ends_at: int = 0  # sample with which it is
    windows: int = 0
    first: float = 0.0  # least lateness of the first window
    before: float = 0.0  # of the window before the newest full one
    newest: float = 0.0  # of the newest full one
    slipped_s: float = 0.0  # what was lost within the last two windows, unreported; 0 where nothing seems to be

    def heard(self, at: float, samples: int) -> Timeline:
        """``samples`` more, of which the last was taken at ``at``."""
        count = self.count + samples
        first_at = at - (samples - 1) / self.rate if self.first_at is None else self.first_at
        late = at - first_at - (count - 1) / self.rate
        window = max(1, round(WINDOW_S * self.rate))
        ends_at = self.ends_at or window
        following = replace(
            self, first_at=first_at, count=count, least=min(self.least, late), ends_at=ends_at, slipped_s=0.0
        )
        return following if count < ends_at else _close(following, window)

    @property
    def measured_rate(self) -> float | None:
        """Samples a second of our clock; None before it can be told."""
        if self.windows < LEAST_FOR_DRIFT:
            return None
        nominal_s = (self.windows - 1) * WINDOW_S
        return self.rate / (1.0 + (self.newest - self.first) / nominal_s)


def wrong_rate(claimed: float, measured: float) -> bool:
    """Whether a source gives so many samples a second that what it claims, in the same unit, can't be right."""
    return abs(measured / claimed - 1.0) > WRONG_RATE


def rate_told(claimed: float, measured: float) -> str:
    """What an owner is to hear of that."""
    wrong = "set the source's rate to what it gives, or every interval and heart rate is wrong"
    return f"{measured:.4g} samples a second come, not {claimed:g}: {wrong}"


def _close(line: Timeline, window: int) -> Timeline:
    jump = (line.least - line.newest) - (line.newest - line.before) if line.windows >= 2 else 0.0  # noqa: PLR2004
    return replace(
        line,
        least=math.inf,
        ends_at=(line.count // window + 1) * window,
        windows=line.windows + 1,
        first=line.first if line.windows else line.least,
        before=line.newest,
        newest=line.least,
        slipped_s=jump if jump > SLIP_S else 0.0,
    )
