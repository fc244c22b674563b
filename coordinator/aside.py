"""Messages that wait, unacknowledged, for a disk that takes no more: in order, and no more than fit."""

from __future__ import annotations

from collections import deque
from typing import Final

from schemas.link.link import Inbound

MOST: Final = 1024  # messages; the link reads far fewer ahead of our acknowledgements
MOST_BYTES: Final = 64 * 2**20  # of theirs; what goes beyond comes again, unacknowledged, over the next connection


class Aside:
    """A queue of them. What came at QoS 0 isn't taken: nothing would hold its sender back."""

    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        self._messages: deque[Inbound] = deque()
        self._most_bytes = most_bytes
        self.held = 0  # bytes of payload

    def __len__(self) -> int:
        return len(self._messages)

    def put(self, message: Inbound) -> None:
        """Keep a message behind the others, if there is room: full to the bound, the last one may be past it."""
        if message.qos and len(self) < MOST and self.held < self._most_bytes:
            self._messages.append(message)
            self.held += len(message.payload)

    def put_back(self, message: Inbound) -> None:
        """Keep one that was taken already, before the others and in any case."""
        self._messages.appendleft(message)
        self.held += len(message.payload)

    def take(self) -> Inbound:
        """The first one. Raises ``IndexError`` where there is none."""
        message = self._messages.popleft()
        self.held -= len(message.payload)
        return message
