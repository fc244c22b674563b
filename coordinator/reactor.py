"""The reactor: one thread that moves events from the link to the round, and has the round's effects carried out.

It holds no decisions: ``inbox`` says what bytes mean, ``fleet`` who is there, ``round`` what is to be done. A turn
takes what has arrived, up to a bound, and steps the round through it. Then the updates it accepted go to disk in one
commit; only after that are they folded, their receipts sent, and their messages acknowledged to the broker.

The round's clock stands still while the broker is away: nobody can answer then, so nobody is late.
"""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterator
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
    Reopened,
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
from schemas.errors import BrokerUnreachable, FedbeatError, LinkError, PayloadTooLarge, Reject
from schemas.link.link import Connected, Disconnected, Inbound, Refused, Sent
from schemas.link.link import Event as LinkEvent
from schemas.messages import DeviceStatus

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


Events = queue.SimpleQueue[LinkEvent | Stop]


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

    def real(self) -> float:
        """The time on its source, which never stands still."""
        return self._source()

    @property
    def stopped_for(self) -> float:
        """For how long it has been standing."""
        return 0.0 if self._stopped_at is None else self._source() - self._stopped_at


class Reactor:
    """Runs one run from ``state`` until its ``Finish``. ``part_size`` is what devices and we cut blobs into."""

    def __init__(
        self,
        events: Events,
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
        self._acks: list[Callable[[], None]] = []  # of messages that what is pending comes from
        self._polled: object = None
        self._held = 0  # bytes of decoded updates
        self._unreachable: LinkError | None = None
        self._ever_connected = False
        self._failure: FedbeatError | None = None

    def run(self, state: State, reopened: Reopened | None) -> Finish:
        """Turn until the run is over. Raises what ``Stop`` carries, and ``LinkError`` where the broker is unusable."""
        self._state, effects = begin(state, reopened)
        self._pending.extend(effects)
        self._flush()
        while self._performer.finish is None:
            self._turn()
            self._alive()
        if self._failure is not None:
            raise self._failure
        return self._performer.finish

    def drain(self, timeout_s: float) -> None:
        """Serve the link, and nothing else, until all is published, time is up, or ``Stop`` comes again.

        Raises ``LinkError`` where the broker is unusable.
        """
        until = self._clock.real() + timeout_s
        while not self._publisher.idle and (left := until - self._clock.real()) > 0:
            self._insist_on_a_broker()
            try:
                event = self._events.get(timeout=min(left, LOOK_S))
            except queue.Empty:
                continue
            finally:
                self._alive()
            if isinstance(event, Stop):
                return
            if not isinstance(event, Inbound):
                self._serve_link(event)

    def _turn(self) -> None:
        idle = True
        for event in self._arrivals():
            if idle:
                self._step(Tick(self._clock.now()))
                idle = False
            match event:
                case Inbound():
                    self._receive(event)
                case Stop(error):
                    self._failure = error
                    self._step(StopRequested())
                case _:
                    self._serve_link(event)
        self._look()
        self._step(Tick(self._clock.now()))
        self._flush()
        self._performer.tidy(idle=idle)
        self._insist_on_a_broker()

    def _insist_on_a_broker(self) -> None:
        if not self._ever_connected and self._clock.stopped_for >= CONNECT_S:
            raise self._unreachable or BrokerUnreachable(
                f"the broker did not answer within {CONNECT_S:g} s: check --broker, and that it runs"
            )

    def _arrivals(self) -> Iterator[LinkEvent | Stop]:
        """What has arrived, or arrives before something is due; a bounded number."""
        due, timeout = wake_at(self._state), LOOK_S
        if due is not None and not self._clock.stopped_for:
            timeout = min(max(due - self._clock.now(), 0.0), LOOK_S)
        try:
            yield self._events.get(timeout=timeout)
            for _ in range(MESSAGES_A_TURN - 1):
                if self._held >= BYTES_A_TURN or self._performer.finish is not None:
                    return
                yield self._events.get_nowait()
        except queue.Empty:
            return

    def _serve_link(self, event: Connected | Disconnected | Sent | Refused) -> None:
        match event:
            case Connected(limit=limit):
                if limit is not None and limit < self._part_size + ENVELOPE:
                    raise PayloadTooLarge(
                        f"the broker takes messages of {limit} bytes, too few for parts of {self._part_size}: "
                        f"use --part-size {max(limit - ENVELOPE, 0)} or less, or raise the broker's limit"
                    )
                self._ever_connected = True
                self._clock.start()
                self._performer.say_status()
                self._publisher.connected()
                self._observe(seen.Connected())
            case Disconnected(error=error, fatal=fatal, retry_in_s=retry_in_s):
                self._clock.stop()
                self._publisher.disconnected()
                self._unreachable = error
                if error is not None and fatal:
                    raise error
                self._observe(seen.Disconnected(str(error or "closed"), retry_in_s))
            case Sent(token):
                self._publisher.sent(token)
            case Refused(error=error):
                raise error

    def _receive(self, message: Inbound) -> None:
        self._acks.append(message.ack)
        arrival = self._inbox.receive(message.topic, message.payload, self._state)
        match arrival:
            case None:
                pass
            case StatusReceived(status):
                self._hear(status, message)
            case StatusCleared(device):
                self._fleet = self._fleet.forget(device)
                self._fleet_changed = True
            case Delivery(event, content):
                if content is not None:
                    self._performer.hold(event.header, content)
                    self._held += len(content.blob) + (0 if content.delta is None else content.delta.flat.nbytes)
                self._step(event)
            case _:
                self._step(arrival)

    def _hear(self, status: DeviceStatus, message: Inbound) -> None:
        known = self._fleet.members.get(status.device)
        fleet = self._fleet.hear(status, self._clock.now(), retained=message.retained)
        if fleet is None:
            text = f"{len(self._fleet.members)} devices are known and ready, and no more are taken"
            self._step(Rejected(Reject.UNKNOWN_DEVICE, text, message.topic, status.device))
            return
        if known is None or (known.session, known.examples) != (status.session, status.examples):
            self._met[status.device] = status
        self._fleet_changed = fleet is not self._fleet or self._fleet_changed
        self._fleet = fleet

    def _look(self) -> None:
        """See who is ready, and what has become of updates that came in parts."""
        now, ticket = self._clock.now(), (self._state.round, self._state.task, type(self._state.stage))
        due = now - self._looked_at >= LOOK_S
        if self._fleet_changed or due:
            self._fleet_changed = False
            view, before = self._fleet.view(now), self._view
            if view != before:
                self._view = view
                counts = [(len(v.ready), len(v.trainers), len(v.evaluators)) for v in (before, view)]
                if counts[0] != counts[1]:
                    self._observe(seen.FleetSeen(*counts[1]))
                for device, reason in view.complaints.items():
                    if before.complaints.get(device) != reason:
                        self._observe(seen.DeviceTroubled(device, reason))
                self._step(FleetChanged(view))
        if due or ticket != self._polled:
            self._polled = ticket
            for event in self._inbox.poll(self._state):
                self._step(event)
        if due:
            self._looked_at = now

    def _step(self, event: Event) -> None:
        self._state, effects = step(self._state, event)
        self._pending.extend(effects)
        if any(isinstance(effect, WEIGHTY) for effect in effects):
            self._flush()

    def _flush(self) -> None:
        """Carry out what is pending and what follows from it, then acknowledge what it came from."""
        effects, met, acks = self._pending, tuple(self._met.values()), self._acks
        self._pending, self._acks, self._held = [], [], 0
        self._met.clear()
        for event in self._performer.perform(effects, met):
            self._step(event)
            self._flush()
        for ack in acks:
            ack()
