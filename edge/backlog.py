"""How much of what a broker sends may wait for the agent: at QoS 0 nothing else holds it back."""

from __future__ import annotations

from typing import Final

from schemas.link.link import Event, Inbound, Sink

MOST: Final = 2 * 2**20  # bytes of messages at QoS 0, which few honest ones are sent at
MESSAGE: Final = 512  # bytes that one takes beside its payload


class Backlog:
    """Counts, each written by one thread alone: the link's of what came, the agent's of what it has taken."""

    def __init__(self, post: Sink) -> None:
        """``post`` takes what may wait."""
        self._post = post
        self._came = 0
        self._taken = 0
        self._dropped = 0  # bytes of payload
        self._told = 0

    def hear(self, event: Event) -> None:
        """Post ``event``, unless more than ``MOST`` bytes at QoS 0 would wait with it; on the link's thread."""
        if isinstance(event, Inbound):
            size = _size(event)
            if size and self._came - self._taken + size > MOST:
                self._dropped += len(event.payload)
                return
            self._came += size
        self._post(event)

    def took(self, message: Inbound) -> None:
        """It waits no longer; on the agent's thread."""
        self._taken += _size(message)

    def dropped(self) -> int:
        """Bytes of payload that came and were not posted, since this was last asked; on the agent's thread."""
        before, self._told = self._told, self._dropped
        return self._told - before


def _size(message: Inbound) -> int:
    """What it takes of the bound; at QoS 1 the broker waits for acknowledgements."""
    return 0 if message.qos else MESSAGE + len(message.payload)
