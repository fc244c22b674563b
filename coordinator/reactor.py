"""The reactor: one thread that moves events from the link to the round, and has the round's effects carried out.

It holds no decisions: ``inbox`` says what bytes mean, ``fleet`` who is there, ``round`` what is to be done. A turn
takes what has arrived, up to a bound, and has ``stepper`` step the round through it. Then the updates it accepted go to
disk in one commit; only after that are they folded, their receipts sent, and their messages acknowledged to the broker.

The round's clock stands still while the broker is away: nobody can answer then, so nobody is late. Nothing is published
over a connection before ``office`` holds it.

A disk that takes no more pauses it. What was to be written stays as it is, with all that was to follow from it; nothing
is folded, answered or acknowledged. The round's clock stands still, the link is served, device statuses are taken in,
and other messages are put aside, unacknowledged, so that the broker sends no more than its window of them. Every few
seconds it tries again, from the very write that failed.
"""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterator
from typing import Final

from coordinator import observers as seen
from coordinator.aside import Aside
from coordinator.attendance import Attendance
from coordinator.clock import Clock
from coordinator.events import (
    Finish,
    FleetChanged,
    Rejected,
    Reopened,
    StatusCleared,
    StatusReceived,
    StopRequested,
    Tick,
)
from coordinator.inbox import Delivery, Inbox
from coordinator.intake import Events, Stop
from coordinator.office import CONNECT_S, Office
from coordinator.pause import AGAIN, Pause
from coordinator.performer import Performer
from coordinator.publisher import Publisher
from coordinator.round import is_idle, wake_at
from coordinator.round_state import State
from coordinator.stepper import Stepper
from schemas.errors import BrokerUnreachable, DiskFull, FedbeatError, LinkError, PayloadTooLarge
from schemas.link.link import Connected, Disconnected, Inbound, Refused, Sent
from schemas.link.link import Event as LinkEvent
from schemas.messages import DeviceStatus

MESSAGES_A_TURN: Final = 256
BYTES_A_TURN: Final = 8 * 2**20  # of whole updates, which wait in memory for the turn's commit
LOOK_S: Final = 1.0  # how often the fleet's heartbeats and stalled updates are looked at
ENVELOPE: Final = 512  # bytes around a part's payload, topic included


__all__ = ["Events", "Reactor", "Stop"]


class Reactor:
    """Runs one run until its ``Finish``. ``part_size`` is what devices and we cut blobs into.

    Its status comes every ``idle_heartbeat_s`` seconds where nothing is at stake.

    ``run`` is all of it. A caller with a loop of its own calls ``start``, then ``turn`` until ``finish`` is there.
    """

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
        *,
        idle_heartbeat_s: float = 0.0,
    ) -> None:
        self._events = events
        self._clock = clock
        self._inbox = inbox
        self._publisher = publisher
        self._performer = performer
        self._observe = observe
        self._alive = alive
        self._part_size = part_size
        self._attendance = Attendance()
        self._stepper = Stepper(performer, self._attendance, clock.now)
        self._looked_at = float("-inf")
        self._aside = Aside()
        self._pause: Pause | None = None
        self._polled: object = None
        self._room_freed = False
        self._office = Office(publisher, performer, observe, clock.real, idle_heartbeat_s)
        self._unreachable: LinkError | None = None
        self._ever_connected = False
        self._failure: FedbeatError | None = None

    @property
    def _state(self) -> State:
        return self._stepper.state

    @property
    def finish(self) -> Finish | None:
        """How the run ended, once it has."""
        return self._performer.finish

    def run(self, state: State, reopened: Reopened | None) -> Finish:
        """Turn until the run that stands at ``state`` is over.

        Raises what ``Stop`` carries, ``LinkError`` where the broker is unusable, ``StateError`` where the disk is (but
        not where it is full), and ``Superseded`` where another coordinator serves the federation.
        """
        self.start(state, reopened)
        while self.finish is None:
            self.turn()
            self._alive()
        if self._failure is not None:
            raise self._failure
        return self.finish

    def start(self, state: State, reopened: Reopened | None) -> None:
        """Take the run's first step."""
        self._attendance.fleet.remembered = state.view.synthetic
        try:
            self._stepper.begin(state, reopened)
        except DiskFull as error:
            self._hold_on(error)

    def turn(self) -> None:
        """Take what has arrived, or arrives before something is due, and do what follows from it."""
        try:
            if self._pause is None:
                self._work()
            else:
                self._rest(self._pause)
        except DiskFull as error:
            self._hold_on(error)
        self._office.beat(idle=is_idle(self._state))
        self._attendance.paced(self._clock.now(), slow=self._office.slow)
        if self._attendance.asks(self._clock.now(), waiting=self._office.held and is_idle(self._state)):
            self._publisher.ask_for_devices()
        self._insist_on_a_broker()

    def drain(self, patience_s: float, *, insists: bool) -> None:
        """Serve the link, and nothing else, until all is published, or ``Stop`` comes again.

        Where it ``insists``, ``patience_s`` begins anew with whatever the broker takes; else it ends then in any case.
        Raises ``LinkError`` where the broker is unusable or takes nothing any more, and ``Superseded``.
        """
        position, since = self._publisher.position, self._clock.real()
        while not self._publisher.idle:
            if insists and self._publisher.position != position:
                position, since = self._publisher.position, self._clock.real()
            if (left := since + patience_s - self._clock.real()) <= 0:
                if insists:
                    raise BrokerUnreachable(
                        f"the rounds are done, and for {patience_s:g} s the broker has taken no more of the model: "
                        "start again to publish it"
                    )
                return
            self._office.beat(idle=True)
            self._insist_on_a_broker()
            for event in self._queued(min(left, LOOK_S)):  # answers wait behind what devices still send
                if isinstance(event, Stop):
                    return
                if not isinstance(event, Inbound):
                    self._serve_link(event)
                elif self._office.minds(event.topic):
                    self._office.heard(event)
            self._alive()

    def _work(self) -> None:
        idle, ticked = True, False
        for event in self._arrivals():
            idle = False
            # Whether somebody else serves is heard before time is let pass, which may open a round.
            if not (ticked or (isinstance(event, Inbound) and self._office.minds(event.topic))):
                ticked = True
                try:
                    self._stepper.step(Tick(self._clock.now()))
                except DiskFull:
                    self._put_back(event)
                    raise
            match event:
                case Inbound():
                    self._receive(event)
                case Stop(error):
                    self._stop(error)
                case _:
                    self._serve_link(event)
        self._look()
        self._stepper.step(Tick(self._clock.now()))
        self._stepper.flush()
        self._performer.tidy(idle=idle)

    def _rest(self, pause: Pause) -> None:
        """Serve the link, put aside what the disk is needed for, and try again when it is time."""
        timeout = min(max(pause.retry_at - self._clock.real(), 0.0), self._office.idle_s, LOOK_S)
        for event in self._queued(timeout):
            match event:
                case Inbound():
                    self._put_aside(event)
                case Stop(error):
                    self._leave(error)
                    return
                case _:
                    self._serve_link(event)
        if self._clock.real() >= pause.retry_at:
            self._try_again()

    def _put_back(self, event: LinkEvent | Stop) -> None:
        """What was taken from the queue as the disk filled up is dealt with all the same, now or when there is room."""
        match event:
            case Inbound():
                self._put_aside(event, first=True)
            case Stop(error):
                self._leave(error)
            case _:
                self._serve_link(event)

    def _stop(self, error: FedbeatError | None) -> None:
        self._failure = error
        try:
            self._stepper.step(StopRequested())
        except DiskFull:
            self._leave(error)
            raise

    def _leave(self, error: FedbeatError | None) -> None:
        """Stop without another write: what is not on disk is not acknowledged either, and comes again."""
        self._failure = error
        self._performer.finish = Finish(stopped=True)

    def _put_aside(self, message: Inbound, *, first: bool = False) -> None:
        """Keep a message for when there is room; who else serves and who is there is heard at once all the same."""
        if self._office.minds(message.topic):
            self._office.heard(message)
            return
        if self._publisher.is_presence(message.topic):
            match self._inbox.receive(message.topic, message.payload, self._state):
                case StatusReceived(status):
                    self._hear(status, message)
                case StatusCleared(device):
                    self._attendance.forget(device)
                case _:
                    pass  # rubbish, for which a pause has no counter; nor for whom there is no room
            message.ack()
        elif first:
            self._aside.put_back(message)
        else:
            self._aside.put(message)

    def _hold_on(self, error: DiskFull) -> None:
        self._performer.announce()  # what follows is long in coming
        self._pause = Pause.after(self._pause, self._clock.real())
        if self._pause.failures == 1:
            self._run_clock()
            reason = f"{error}. {AGAIN}"
            self._performer.pause(reason)
            self._observe(seen.Paused(reason))

    def _try_again(self) -> None:
        self._stepper.flush()
        self._performer.tidy(idle=True)
        if self._aside:
            self._receive(self._aside.take())
        self._pause = None
        self._run_clock()
        self._performer.resume()
        self._observe(seen.Resumed())

    def _run_clock(self) -> None:
        """The round's time passes while devices can be heard, and what they say be kept."""
        if self._office.held and self._pause is None:
            self._clock.start()
        else:
            self._clock.stop()

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
        timeout = min(timeout, self._office.idle_s)
        while self._aside and self._stepper.held < BYTES_A_TURN and self.finish is None:
            yield self._aside.take()
            timeout = 0.0
        for event in self._queued(timeout):
            yield event
            if self._stepper.held >= BYTES_A_TURN or self.finish is not None:
                return

    def _queued(self, timeout: float) -> Iterator[LinkEvent | Stop]:
        """What is in the queue, or comes within ``timeout`` seconds; a bounded number."""
        try:
            yield self._events.get(timeout=timeout)
            for _ in range(MESSAGES_A_TURN - 1):
                yield self._events.get_nowait()
        except queue.Empty:
            return

    def _serve_link(self, event: Connected | Disconnected | Sent | Refused) -> None:
        match event:
            case Connected(limit=limit, connection=connection):
                if limit is not None and limit < self._part_size + ENVELOPE:
                    raise PayloadTooLarge(
                        f"the broker takes messages of {limit} bytes, too few for parts of {self._part_size}: "
                        f"use --part-size {max(limit - ENVELOPE, 0)} or less, or raise the broker's limit"
                    )
                self._ever_connected = True
                self._office.connected(connection)
            case Disconnected(error=error, fatal=fatal, retry_in_s=retry_in_s):
                self._unreachable = error
                if error is not None and fatal:
                    raise error
                self._office.disconnected()
                self._observe(seen.Disconnected(str(error or "closed"), retry_in_s))
            case Sent(token):
                self._office.sent(token)
            case Refused(error=error):
                raise error
        self._run_clock()

    def _receive(self, message: Inbound) -> None:
        if self._office.minds(message.topic):
            if (rubbish := self._office.heard(message)) is not None:
                self._stepper.step(rubbish)
            return
        try:
            arrival = self._inbox.receive(message.topic, message.payload, self._state, message.qos)
        except DiskFull:
            self._aside.put_back(message)
            raise
        self._stepper.owe(message.ack)
        match arrival:
            case None:
                pass
            case StatusReceived(status):
                if (turned_away := self._hear(status, message)) is not None:
                    self._stepper.step(turned_away)
            case StatusCleared(device):
                self._attendance.forget(device)
            case Delivery(event, content):
                self._room_freed = True
                if content is not None:
                    self._stepper.hold(event.header, content)
                    arrival = content = None  # the performer has it, and lets go of it before a round is concluded
                self._stepper.step(event)
            case _:
                self._stepper.step(arrival)

    def _hear(self, status: DeviceStatus, message: Inbound) -> Rejected | None:
        return self._attendance.hear(status, self._clock.now(), topic=message.topic, retained=message.retained)

    def _look(self) -> None:
        """See who is ready, and what has become of updates that came in parts."""
        now, ticket = self._clock.now(), (self._state.round, self._state.task, type(self._state.stage))
        due = now - self._looked_at >= LOOK_S
        if (self._attendance.fleet.altered or due) and (looked := self._attendance.look(now)) is not None:
            view, sight = looked
            for remark in (sight, self._attendance.made_up()):
                if remark is not None:
                    self._observe(remark)
            self._stepper.step(FleetChanged(view))
        if due or ticket != self._polled or (self._room_freed and self._inbox.turned_away):
            self._polled, self._room_freed = ticket, False
            for event in self._inbox.poll(self._state):
                self._stepper.step(event)
        if due:
            self._looked_at = now
            for trouble in self._attendance.troubles():
                self._observe(trouble)
