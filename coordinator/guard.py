"""When to publish again what somebody else has overwritten or cleared among what the coordinator retains. Pure.

Without it a newcomer would find somebody else's run, or none, until the coordinator's next connect. So the coordinator
hears what is published where newcomers look first: ``run``, the plan's parts, the pointer to the model, the round. It
hears its own publications there, too, since MQTT 3.1.1 has no way to leave them out: some hundred bytes each, and few
in a round. A model's parts it doesn't hear: each version would come back to it, and the next one takes their place.

A topic is known by the digest of what we last published there. Where another one is heard, ours may be under way still;
where it does not come within ``SOON_S``, it is published again. By then we have heard who leads, which is asked for
first: a newer coordinator's may stand there, whose status was lost on its way to us.

Two that write in turn must not make a storm: each time on one topic comes after twice as long as the one before, until
that has had ``CALM_S`` of peace.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from schemas.topics import Address, Kind

GUARDED: Final = frozenset({Kind.RUN, Kind.PLAN_PART, Kind.MODEL, Kind.ROUND})
SOON_S: Final = 2.0  # in which ours comes, where it was under way
LONGEST_S: Final = 64.0  # between two times on one topic
CALM_S: Final = 300.0


@dataclass(slots=True)
class _Place:
    """One topic of ours."""

    said: bytes = b""  # digest
    due_at: float = math.inf  # when it is published again
    again_at: float = -math.inf  # when it was, the last time
    wait_s: float = SOON_S  # since then, at least


class Guard:
    """Knows what stands where. ``now`` is in monotonic seconds that never stand still."""

    def __init__(self) -> None:
        self._places: dict[Address, _Place] = {}

    @property
    def due_at(self) -> float:
        """When something is to be published again."""
        return min((place.due_at for place in self._places.values()), default=math.inf)

    def said(self, address: Address, payload: bytes) -> None:
        """We publish this; empty: nothing of ours is to stand there any more, and what does is no matter."""
        if address.kind not in GUARDED:
            return
        if not payload:
            self._places.pop(address, None)
            return
        place = self._places.setdefault(address, _Place())
        place.said, place.due_at = _digest(payload), math.inf

    def heard(self, address: Address, payload: bytes, now: float) -> bool:
        """The broker has passed this on; whether ours is to be published again because of it."""
        place = self._places.get(address)
        if place is None:
            return False
        if _digest(payload) == place.said:
            place.due_at = math.inf
        elif place.due_at == math.inf:
            if now - place.again_at > CALM_S:
                place.wait_s = SOON_S
            place.due_at = max(now + SOON_S, place.again_at + place.wait_s)
            return True
        return False

    def disconnected(self) -> None:
        """All is published again at the next connect."""
        for place in self._places.values():
            place.due_at = math.inf

    def take_due(self, now: float) -> Iterable[Address]:
        """What is to be published again by now."""
        if now < self.due_at:
            return ()
        due = tuple(address for address, place in self._places.items() if now >= place.due_at)
        for address in due:
            place = self._places[address]
            place.due_at, place.again_at, place.wait_s = math.inf, now, min(2 * place.wait_s, LONGEST_S)
        return due


def _digest(payload: bytes) -> bytes:
    return hashlib.blake2b(payload, digest_size=16).digest()
