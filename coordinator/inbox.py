"""Bytes from the broker to events, or ``Rejected``; bad bytes raise nothing and change nothing. No I/O, no rules.

What an update is worth is ``round.refusal``'s decision, asked as soon as its first part tells what it answers, so that
a late or uninvited one costs a dictionary look-up a part and is never decoded. A whole update is decoded and checked
(digest, sender, shape, range, no NaN) before it becomes an event: what is accepted later can always be averaged.

Memory is bounded. An update's whole size is set aside when its first part comes; where there is no room, updates
that have stalled give theirs up, and if none has, the newcomer is turned away and told later to send its parts again.
So updates under way always finish, however many devices send at once.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, assert_never

import numpy as np

from coordinator.aggregation.mean import MAX_VALUE
from coordinator.events import (
    Header,
    JoinReceived,
    Rejected,
    StatusCleared,
    StatusReceived,
    UpdateReceived,
    UpdateSeen,
    UpdateStalled,
    Version,
)
from coordinator.round import refusal
from coordinator.round_state import State
from schemas import codec, compression
from schemas.errors import Reject, WireError
from schemas.messages import BlobRef, DeviceStatus, Join, Part, Update
from schemas.parameters import Manifest, Parameters
from schemas.parts import Assembly
from schemas.topics import Address, Kind, Topics

STALL_S: Final = 5.0  # without a new part, after which a device is told what is missing
STALLS: Final = 3  # such reminders in vain, after which an update's parts are forgotten
ROOM: Final = 64 * 2**20  # bytes that all unfinished updates together may take
PER_DEVICE: Final = 2  # unfinished updates: one that trains, one that evaluates
REMEMBERED: Final = 4096  # digests of updates that were accepted, and of those refused
TURNED_AWAY: Final = 4096  # devices waiting for room
MAX_MISSING: Final = 1000  # parts a receipt names


@dataclass(frozen=True, slots=True, eq=False)
class Content:
    """What an update holds: its bytes as they came, and ``delta`` for ``train`` or the update's counts."""

    blob: bytes
    update: Update
    delta: Parameters | None


@dataclass(frozen=True, slots=True, eq=False)
class Delivery:
    """A whole update to be given to the round, and its content if it would count there."""

    event: UpdateReceived
    content: Content | None


Arrival = StatusReceived | StatusCleared | JoinReceived | Delivery | UpdateSeen | Rejected


@dataclass(slots=True, eq=False)
class _Unfinished:
    device: str
    round: int
    assembly: Assembly
    fed_at: float
    reminders: int = 0
    header: Header | None = None  # once part 0 is here


class Inbox:
    """What has arrived in parts. ``manifest`` and ``classes`` are the plan's; ``room`` is in bytes."""

    def __init__(self, topics: Topics, run: str, manifest: Manifest, classes: int, room: int = ROOM) -> None:
        self._topics = topics
        self._run = run
        self._manifest = manifest
        self._classes = classes
        # Uncompressed float32 and its frame, or counts of every pair of classes.
        self._limit = max(4 * manifest.size + manifest.size // 8, 10 * classes**2) + 65_536
        self._room = max(room, self._limit)
        self._unfinished: OrderedDict[tuple[str, str], _Unfinished] = OrderedDict()  # longest unfed first
        self._turned_away: OrderedDict[str, BlobRef] = OrderedDict()
        self._accepted: OrderedDict[str, Header] = OrderedDict()
        self._refused: OrderedDict[str, None] = OrderedDict()

    @property
    def buffered(self) -> int:
        """Bytes set aside for unfinished updates."""
        return sum(entry.assembly.ref.size for entry in self._unfinished.values())

    def receive(self, topic: str, payload: bytes, state: State) -> Arrival | None:
        """What a message means while the run is in ``state``; None for a part that completes nothing."""
        address = self._topics.parse(topic)
        if address is None or address.device is None:
            return Rejected(Reject.UNEXPECTED, "nobody publishes here for a coordinator", topic)
        try:
            match address.kind:
                case Kind.DEVICE:
                    return _status(address.device, payload)
                case Kind.JOIN:
                    return self._join(address, address.device, payload)
                case Kind.UPDATE_PART:
                    return self._part(address, address.device, codec.decode_part(payload), state)
                case _:
                    return Rejected(Reject.UNEXPECTED, "nobody publishes here for a coordinator", topic)
        except WireError as error:
            number = address.number if address.kind is Kind.UPDATE_PART else None
            return Rejected(error.reason, error.detail, topic, address.device, number)
