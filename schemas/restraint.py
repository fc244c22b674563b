"""How much is told of what anybody can cause without end: a flood must not fill the disk that has the log. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Final, Generic, TypeVar

WINDOW_S: Final = 60.0

K = TypeVar("K")


class Restraint(Generic[K]):
    """Tells whether to tell one more of a kind, and how many were kept back.

    ``most`` is how many of a kind are told in a window; all are of a kind that it lacks. ``now`` is in monotonic
    seconds.
    """

    def __init__(self, most: Mapping[K, int], now: Callable[[], float]) -> None:
        self._most = most
        self._now = now
        self._began: dict[K, float] = {}
        self._come: Counter[K] = Counter()  # since then

    def lets(self, kind: K) -> bool:
        """Whether to tell another of them. What ``over`` has to say comes before it."""
        most = self._most.get(kind)
        if most is None:
            return True
        if kind not in self._began or self._is_over(kind):
            self._began[kind], self._come[kind] = self._now(), 0
        self._come[kind] += 1
        return self._come[kind] <= most

    def over(self, *, ends: bool = False) -> Iterator[tuple[K, int]]:
        """How many were kept back in windows that are over, each told once; ``ends``: in those that last, too."""
        for kind in [kind for kind, come in self._come.items() if come > self._most[kind]]:
            if ends or self._is_over(kind):
                yield kind, self._come.pop(kind) - self._most[kind]

    def _is_over(self, kind: K) -> bool:
        return self._now() - self._began[kind] >= WINDOW_S
