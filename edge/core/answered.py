"""Which answered tickets a device remembers, so that it doesn't train for one again. Pure.

Two coordinators may serve a federation in turns, each with a run of its own, and a run that comes back is where it was.
So a busy run pushes nothing out of a quiet one's memory before it has more of it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Final

from edge.core.events import Ticket

REMEMBERED: Final = 16  # tickets


def remembered(tickets: Iterable[Ticket]) -> tuple[Ticket, ...]:
    """What stays of ``tickets``, oldest first: one too many goes from the run that has most of them, its oldest."""
    kept = list(tickets)
    counts = Counter(ticket.run for ticket in kept)
    while len(kept) > REMEMBERED:
        most = max(counts.values())
        oldest = next(ticket for ticket in kept if counts[ticket.run] == most)
        kept.remove(oldest)
        counts[oldest.run] -= 1
    return tuple(kept)
