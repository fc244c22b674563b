"""The reactor: one thread that moves events from the link to the round, and has the round's effects carried out.

It holds no decisions: ``inbox`` says what bytes mean, ``fleet`` who is there, ``round`` what is to be done. A turn takes
what has arrived, up to a bound, and steps the round through it. Then the updates it accepted go to disk in one
commit; only after that are they folded, their receipts sent, and their messages acknowledged to the broker.

The round's clock stands still while the broker is away: nobody can answer then, so nobody is late.
"""

from __future__ import annotations

import queue
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from coordinator import observers as seen
from coordinator.events import (
    Abandon,
    Conclude,
    Effect,
    Event,
    Finish,
    FleetChanged,
    Open,
    Rejected,
    StatusCleared,
    StatusReceived,
    StopRequested,
    Tick,
)
from coordinator.fleet import Fleet, View
from coordinator.inbox import Delivery, Inbox
from coordinator.performer import Performer
from coordinator.publisher import Publisher
from coordinator.round import begin, step, wake_at
from coordinator.round_state import State
from schemas.errors import FedbeatError, LinkError, PayloadTooLarge, Reject
from schemas.link.link import Connected, Disconnected, Inbound, Refused, Sent
from schemas.link.link import Event as LinkEvent
from schemas.messages import DeviceStatus
from schemas.topics import Address, Kind

MESSAGES_A_TURN: Final = 256
BYTES_A_TURN: Final = 8 * 2**20  # of decoded updates, which wait in memory for the turn's commit
LOOK_S: Final = 1.0  # how often the fleet's heartbeats and stalled updates are looked at
CONNECT_S: Final = 10.0  # for the first connection; later ones are waited for as long as it takes
ENVELOPE: Final = 512  # bytes around a part's payload, topic included
WEIGHTY: Final = (Open, Conclude, Abandon, Finish)  # done before anything else is stepped


@dataclass(frozen=True, slots=True)
class Stop:
    """In the queue: end now, for ``error`` if there is one."""

    error: FedbeatError | None


Queue = queue.SimpleQueue[LinkEvent | Stop]


class Clock:
    """Monotonic seconds, less those for which it was stopped."""

    def __init__(self, source: Callable[[], float]) -> None:
        """Stopped at first."""
        self._source = source
        self._lost = 0.0
        self._stopped_at: float | None = source()

    def now(self) -> float:
        """The time on it."""
        return (self._source() if self._stopped_at is None else self._stopped_at) - self._lost

    def stop(self) -> None:
        """Stand still; the second time nothing happens."""
        if self._stopped_at is None:
            self._stopped_at = self._source()

    def start(self) -> None:
        """Go on from where it stands."""
        if self._stopped_at is not None:
            self._lost += self._source() - self._stopped_at
            self._stopped_at = None

    @property
    def stopped_for(self) -> float:
        """For how long it has been standing."""
        return 0.0 if self._stopped_at is None else self._source() - self._stopped_at


class Reactor:
    """Runs one run from ``state`` until its ``Finish``. ``part_size`` is what devices and we cut blobs into."""

    def __init__(
        self,
        events: Queue,
        clock: Clock,
        inbox: Inbox,
        publisher: Publisher,
        performer: Performer,
        observe: seen.Observer,
        alive: Callable[[], None],
        part_size: int,
    ) -> None:
        self._events = events
        self._clock = clock
        self._inbox = inbox
        self._publisher = publisher
        self._performer = performer
        self._observe = observe
        self._alive = alive
        self._part_size = part_size
        self._fleet = Fleet()
        self._view = View()
        self._looked_at = float("-inf")
        self._fleet_changed = False
        self._pending: list[Effect] = []
        self._met: dict[str, DeviceStatus] = {}  # statuses for the next commit
        self._unacknowledged: list[Inbound] = []
        self._held = 0  # bytes of decoded updates
        self._unreachable: LinkError | None = None
        self._ever_connected = False
        self._failure: FedbeatError | None = None

    def run(self, state: State) -> Finish:
        """Turn until the run is over. Raises what ``stop`` was given, and ``LinkError`` where the broker is unusable."""
        self._state, effects = begin(state)
        self._pending.extend(effects)
        self._flush()
        while self._performer.finish is None:
            self._turn(self._take_turn())
            self._alive()
        if self._failure is not None:
            raise self._failure
        return self._performer.finish

    def drain(self, timeout_s: float) -> None:
        """Go on serving the link, and nothing else, until everything is published or ``timeout_s`` have passed."""
        ...
