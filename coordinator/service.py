"""The coordinator's shell: one thread that moves events from the link to the round, and has its effects carried out.

It holds no decisions: ``inbox`` says what bytes mean, ``fleet`` who is there, ``round`` what is to be done. A turn takes
what has arrived, up to a bound, and steps the round through it. Then the updates it accepted go to disk in one
commit; only after that are their messages acknowledged to the broker, the updates folded, the receipts sent.

The round's clock stands still while the broker is away: nobody can answer then, so nobody is late.
"""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
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
from coordinator.run_store import RunStore, Wall, utc
from schemas.errors import FedbeatError, FederationError, LinkError, PayloadTooLarge, Reject
from schemas.link.link import Connected, Disconnected, Inbound, Link, Refused, Sent, Sink, Will
from schemas.link.link import Event as LinkEvent
from schemas.messages import CoordinatorState, DeviceStatus, Metrics, RoundSummary, RunSettings
from schemas.parameters import Parameters
from schemas.plan import Plan
from schemas.topics import Address, Kind, Topics

MESSAGES_A_TURN: Final = 256
BYTES_A_TURN: Final = 8 * 2**20  # of decoded updates, which wait in memory for the turn's commit
LOOK_S: Final = 1.0  # how often the fleet's heartbeats and stalled updates are looked at
CONNECT_S: Final = 10.0  # for the first connection; later ones are waited for as long as it takes
FAREWELL_S: Final = 30.0  # for what is still to be published at the end
ENVELOPE: Final = 512  # bytes around a part's payload, topic included
WEIGHTY: Final = (Open, Conclude, Abandon, Finish)  # done before anything else is stepped

LinkFactory = Callable[[Sink, Will], Link]


@dataclass(frozen=True, slots=True)
class RunResult:
    """How a run ended that didn't fail: its newest model, and how its rounds went, oldest first."""

    run: str
    version: int
    digest: str
    summaries: tuple[RoundSummary, ...]
    stopped: bool  # by its operator, before its last round

    @property
    def metrics(self) -> Metrics | None:
        """The newest evaluation."""
        return next((summary.metrics for summary in reversed(self.summaries) if summary.metrics), None)


@dataclass(frozen=True, slots=True)
class _Stop:
    """In the queue: end now, for ``error`` if there is one."""

    error: FedbeatError | None


class CoordinatorService:
    """One federation's coordinator; ``run`` is the whole of its life."""

    def __init__(
        self,
        link_factory: LinkFactory,
        topics: Topics,
        settings: RunSettings,
        plan: Plan,
        model: Parameters,
        state: Path,
        *,
        observer: seen.Observer = seen.ignore,
        software: str = "",
        clock: Callable[[], float] = time.monotonic,
        wall: Wall = utc,
        alive: Callable[[], None] = lambda: None,
    ) -> None:
        """``model`` is version 0 of a new run; ``alive`` is called about every second, for a watchdog."""
        self._link_factory = link_factory
        self._topics = topics
        self._settings = settings
        self._plan = plan
        self._model = model
        self._directory = state
        self._observer = observer
        self._software = software
        self._clock = clock
        self._wall = wall
        self._alive = alive
        self._queue: queue.SimpleQueue[LinkEvent | _Stop] = queue.SimpleQueue()

    def stop(self, error: FedbeatError | None = None) -> None:
        """End ``run`` soon, from any thread or signal handler; all is kept, and the next start goes on from it.

        ``run`` then raises ``error``, where one is given.
        """
        self._queue.put(_Stop(error))

    def run(self) -> RunResult:
        """Run the federation on the calling thread until its rounds are done or it is stopped.

        Raises ``LinkError`` where the broker can't be used, ``SettingsError`` and ``StateError`` for the state
        directory, ``FederationError`` where no device came or a round failed too often.
        """
        with RunStore(self._directory, self._settings, self._plan, self._model, self._wall) as store:
            reactor = _Reactor(store, self._topics, self._queue, self._clock, self._observer)
            ...
