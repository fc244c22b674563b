"""How much is told of what anybody can cause without end: a flood must not fill the disk that has the log. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Final

from coordinator import observers as seen
from schemas.messages import MAX_DEVICES

WINDOW_S: Final = 60.0
MOST: Final[dict[type[seen.Observation], int]] = {  # in a window; an honest fleet rarely comes near
    seen.MessageRejected: 100,
    seen.DeviceTroubled: 100,
    seen.DeviceDeclined: 1000,
    seen.DeviceJoined: MAX_DEVICES,
}


class Restraint:
    """Tells which observations to tell, and how many of a kind were kept back. ``now`` is in monotonic seconds."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._began: dict[type[seen.Observation], float] = {}
        self._come: Counter[type[seen.Observation]] = Counter()  # since then

    def lets(self, event: seen.Observation) -> bool:
        """Whether to tell ``event``. What ``over`` has to say comes before it."""
        kind = type(event)
        most = MOST.get(kind)
        if most is None:
            return True
        if kind not in self._began or self._is_over(kind):
            self._began[kind], self._come[kind] = self._now(), 0
        self._come[kind] += 1
        return self._come[kind] <= most

    def over(self, *, ends: bool = False) -> Iterator[seen.Withheld]:
        """How many were kept back in windows that are over, each told once; ``ends``: in those that last, too."""
        for kind in [kind for kind, come in self._come.items() if come > MOST[kind]]:
            if ends or self._is_over(kind):
                yield seen.Withheld(seen.name_of(kind), self._come.pop(kind) - MOST[kind])

    def _is_over(self, kind: type[seen.Observation]) -> bool:
        return self._now() - self._began[kind] >= WINDOW_S
