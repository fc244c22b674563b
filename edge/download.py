"""Which part topics to be subscribed to while a blob comes in. Pure: a window that moves over them.

Pulled a few at a time, because what a broker pushes at once delays everything behind it. The window is refilled when
half of it has come, so that a subscription carries several filters and a round trip is not paid for every part.
"""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import dataclass
from typing import Final

from schemas.errors import Reject, WireError
from schemas.messages import BlobRef, Part
from schemas.parts import Assembly

WINDOW: Final = 8


@dataclass(frozen=True, slots=True)
class Move:
    """Parts to subscribe to, and parts to unsubscribe from."""

    subscribe: tuple[int, ...] = ()
    unsubscribe: tuple[int, ...] = ()


class Download:
    """One blob being pulled. Holds at most the blob's size."""

    def __init__(self, ref: BlobRef, limit: int, window: int = WINDOW) -> None:
        """``limit`` is the largest blob we take, in bytes; ``WireError`` where ``ref`` is over it or absurd."""
        self._assembly = Assembly(ref, limit)
        self._window = window
        self._ahead = iter(range(ref.parts))
        self._had: set[int] = set()
        self._open: set[int] = set()  # subscribed to, and not come
        self._come: list[int] = []  # come, and still subscribed to
        self._again: Counter[int] = Counter()  # how many times each was asked for once more, and may come once more

    @property
    def ref(self) -> BlobRef:
        """The blob."""
        return self._assembly.ref

    @property
    def complete(self) -> bool:
        """Whether every part has come."""
        return self._assembly.complete

    def is_news(self, index: int) -> bool:
        """Whether that part has not come."""
        return index not in self._had

    def begin(self) -> Move:
        """The first window."""
        return Move(subscribe=self._refill())

    def again(self) -> Move:
        """The parts that were asked for and have not come, once more."""
        self._again.update(self._open)
        return Move(subscribe=tuple(sorted(self._open)))

    def is_answer(self, index: int) -> bool:
        """Whether that part comes, as it has before, because it was asked for once more; true as often as it was."""
        if index not in self._had or not self._again[index]:
            return False
        self._again[index] -= 1
        return True

    def take(self, index: int, part: Part) -> Move:
        """Take the ``part`` that came on topic ``index``, asked for or not, repeated or not. Raises ``WireError``."""
        if part.index != index:
            raise WireError(Reject.WRONG_SENDER, f"part {part.index} came on the topic of part {index}")
        self._assembly.add(part)
        self._had.add(index)
        if index in self._open:
            self._open.remove(index)
            self._come.append(index)
        if self.complete:
            return self.end()
        if len(self._open) > self._window // 2:
            return Move()
        done, self._come = tuple(self._come), []
        return Move(subscribe=self._refill(), unsubscribe=done)

    def end(self) -> Move:
        """Unsubscribe from whatever is still subscribed to."""
        left = (*self._come, *sorted(self._open))
        self._open.clear()
        self._come.clear()
        return Move(unsubscribe=left)

    def blob(self) -> bytes:
        """The whole blob, its digest checked. Raises ``WireError``; then the download must start anew."""
        return self._assembly.blob()

    def _refill(self) -> tuple[int, ...]:
        missing = (index for index in self._ahead if index not in self._had)
        fresh = tuple(itertools.islice(missing, self._window - len(self._open)))
        self._open.update(fresh)
        return fresh
