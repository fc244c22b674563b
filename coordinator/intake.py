"""What the coordinator's one thread takes in: the link's events, and the word to stop."""

from __future__ import annotations

import queue
from dataclasses import dataclass

from schemas.errors import FedbeatError
from schemas.link.link import Event


@dataclass(frozen=True, slots=True)
class Stop:
    """In the queue: end now, for ``error`` if there is one."""

    error: FedbeatError | None


Events = queue.SimpleQueue[Event | Stop]
