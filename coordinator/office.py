"""Being the one coordinator of a federation: carries out what ``leadership`` decides, and decides nothing."""

from __future__ import annotations

import contextlib
import queue
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from coordinator import leadership as lead
from coordinator import observers as seen
from coordinator.events import Rejected
from coordinator.intake import Events, Stop
from coordinator.leftovers import Leftovers
from coordinator.performer import Performer
from coordinator.publisher import Publisher
from schemas import codec
from schemas.errors import BrokerUnreachable, LinkError, Outranked, Superseded, WireError
from schemas.link.link import Connected, Disconnected, Inbound, Link, Refused, Sent, Sink
from schemas.messages import CoordinatorStatus
from schemas.topics import Address, Kind, Topics

CONNECT_S: Final = 10.0  # for the first connection; later ones are waited for as long as it takes
LOOK_S: Final = 1.0  # how often the watchdog is told that we are alive
A_TURN: Final = 256  # events that are taken before time is looked at
SHORTEST_S: Final = 0.001  # that is waited for an event
QUESTION: Final = b""  # in a status's place, not retained: who serves answers with its own, and nobody else minds
GRACE_S: Final = 0.5  # for a broker that sends what it retains a little after its answers


class Office:
    """A coordinator's while its run goes on. ``now`` is in monotonic seconds that never stand still.

    Its status comes every ``idle_heartbeat_s`` where nothing is at stake, if that is longer than what it first says.
    """

    def __init__(
        self,
        publisher: Publisher,
        performer: Performer,
        observe: seen.Observer,
        now: Callable[[], float],
        idle_heartbeat_s: float,
    ) -> None:
        status = performer.status
        self._publisher = publisher
        self._performer = performer
        self._observe = observe
        self._now = now
        self._state = lead.State(status.instance, status.session, status.heartbeat_s, now(), idle_heartbeat_s)
        self._token: int | None = None  # of the newest look
        self._connection = 0

    @property
    def held(self) -> bool:
        """Whether we may publish."""
        return self._state.leading

    @property
    def idle_s(self) -> float:
        """For how long nothing is due by itself; infinite where nothing is."""
        return max(min(lead.wake_at(self._state), self._publisher.mend_at) - self._now(), 0.0)

    @property
    def slow(self) -> bool:
        """Whether our last status promised no other one for as long as may be where nothing is at stake."""
        return self._state.slow

    def connected(self, connection: int) -> None:
        """Look who is there, and take office where nobody is."""
        self._connection = connection
        self._publisher.listen_no_more()
        self._follow(lead.Connected())

    def disconnected(self) -> None:
        """Leave it until the next connection."""
        self._publisher.disconnected()
        self._follow(lead.Disconnected())

    def sent(self, token: int) -> None:
        """The broker has answered a publication or a look."""
        if token == self._token:
            self._follow(lead.Looked())
        self._publisher.sent(token)

    def beat(self, *, idle: bool) -> None:
        """Say what is due by now; ``idle``: nothing is at stake."""
        self._follow(lead.Tick(self._now(), idle, self._performer.news))
        for topic in self._publisher.mend(self._now()):
            self._observe(seen.Overwritten(topic))

    def minds(self, topic: str) -> bool:
        """Whether what comes there is for ``heard``: the status, and what else is ours alone to say."""
        return topic == self._publisher.status_topic or self._publisher.watches(topic)

    def heard(self, message: Inbound) -> Rejected | None:
        """Take what somebody published in our place: nothing, or rubbish to be counted.

        An empty message asks for our status. Raises ``Superseded`` where that was a newer coordinator.
        """
        message.ack()
        if message.topic != self._publisher.status_topic:
            return self._publisher.heard(message.topic, message.payload, self._now(), retained=message.retained)
        try:
            status = _read(message) if message.payload else None
        except WireError as error:
            self._follow(lead.Seen(None, message.retained))
            return Rejected(error.reason, error.detail, message.topic)
        self._follow(lead.Seen(status, message.retained))
        return None

    def _follow(self, event: lead.Event) -> None:
        self._state, effects = lead.step(self._state, event)
        for effect in effects:
            match effect:
                case lead.Look():
                    self._token = self._publisher.look()
                case lead.Lead():
                    self._publisher.release(self._connection)
                    self._performer.beat(self._state.promised_s)
                    self._publisher.connected()
                    self._observe(seen.Connected())
                case lead.Say():
                    self._performer.beat(self._state.promised_s)
                case lead.Repeat():
                    self._publisher.repeat()
                case lead.GiveUp(error, session, again):
                    raise (Outranked if again else Superseded)(error, session)
                case lead.Doubt():
                    pass  # a newcomer's alone


@dataclass(frozen=True, slots=True)
class FirstLook:
    """The federation is ours to serve: the highest session ever seen there, 0 for none, and what was left there.

    ``after``: whom we take over from without having been told that it ended.
    """

    above: int
    leftovers: tuple[Address, ...]
    after: CoordinatorStatus | None


def first_look(
    open_link: Callable[[Sink], Link],
    topics: Topics,
    instance: str,
    events: Events,
    observe: seen.Observer,
    alive: Callable[[], None],
    now: Callable[[], float],
    *,
    sweeps: bool,
) -> FirstLook | None:
    """See whether another coordinator serves the federation, over a link of its own that publishes but a question.

    With ``sweeps``, see what an earlier run left too. Returns None where ``Stop`` came first; that is left in
    ``events``. Raises ``Superseded`` where another one serves, ``LinkError`` where the broker can't be used.
    """
    link = open_link(events.put)
    topic = topics.topic(Address(Kind.COORDINATOR))
    leftovers = Leftovers(link, topics, now) if sweeps else None
    try:
        newcomer = _Newcomer(link, topic, lead.State(instance, 0, 0.0, now()), observe, now, leftovers)
        link.open()
        stop = newcomer.wait(events, alive)
    finally:
        if leftovers is not None:
            leftovers.end()
        link.close(timeout_s=0.0)
        _forget(events)
    if stop is not None:
        events.put(stop)
        return None
    assert newcomer.above is not None  # or it would wait still
    return FirstLook(newcomer.above, () if leftovers is None else tuple(leftovers.found), newcomer.after)


class _Newcomer:
    """One coordinator before its first status."""

    def __init__(
        self,
        link: Link,
        topic: str,
        state: lead.State,
        observe: seen.Observer,
        now: Callable[[], float],
        leftovers: Leftovers | None,
    ) -> None:
        self.above: int | None = None  # once we know that nobody else is there
        self.after: CoordinatorStatus | None = None
        self._link = link
        self._topic = topic
        self._state = state
        self._observe = observe
        self._now = now
        self._leftovers = leftovers
        self._began = now()
        self._connected = False
        self._error: LinkError | None = None
        self._token: int | None = None
        self._answers = 0
        self._looked_at: float | None = None  # when the broker had answered, and nothing had come

    def wait(self, events: Events, alive: Callable[[], None]) -> Stop | None:
        """Serve the link until we know; ``Stop`` where that came first."""
        while (left_s := self._left_s()) > 0:
            alive()
            timeout = min(left_s, LOOK_S)
            with contextlib.suppress(queue.Empty):
                for _ in range(A_TURN):  # what has come is heard before silence is judged
                    event = events.get(timeout=timeout) if timeout else events.get_nowait()
                    if isinstance(event, Stop):
                        return event
                    self._serve(event)
                    timeout = 0.0
            self._pass_time()
        return None

    def _left_s(self) -> float:
        """How long until something is due; 0 once we know."""
        if self.above is not None:
            return 0.0 if self._leftovers is None else self._leftovers.left_s
        due = min(lead.wake_at(self._state), float("inf") if self._looked_at is None else self._looked_at)
        return max(due - self._now(), SHORTEST_S)

    def _pass_time(self) -> None:
        if self.above is not None:
            return
        if self._looked_at is not None and self._now() >= self._looked_at:
            self._looked_at = None
            self._follow(lead.Looked())
        self._follow(lead.Tick(self._now()))
        if not self._connected and self._now() - self._began >= CONNECT_S:
            raise self._error or BrokerUnreachable(
                f"the broker did not answer within {CONNECT_S:g} s: check --broker, and that it runs"
            )

    def _serve(self, event: Connected | Disconnected | Inbound | Sent | Refused) -> None:
        if self._leftovers is not None:
            self._leftovers.take(event)
        match event:
            case Connected():
                self._connected, self._answers, self._looked_at = True, 0, None
                self._follow(lead.Connected())
                if self._leftovers is not None:
                    self._leftovers.look()
            case Disconnected(error=error, fatal=fatal):
                self._error, self._looked_at = error, None
                if error is not None and fatal:
                    raise error
                self._follow(lead.Disconnected())
            case Sent(token) if token == self._token:
                self._answers += 1
                if self._answers == lead.LOOKS and self._state.newest is None:
                    self._looked_at = self._now() + GRACE_S
                else:
                    self._follow(lead.Looked())
            case Inbound(topic=self._topic):
                with contextlib.suppress(WireError):  # somebody's rubbish, which we are about to replace
                    self._follow(lead.Seen(_read(event), event.retained))
            case Refused(error=error):
                raise error
            case _:
                pass  # what the broker keeps for us stays there, unacknowledged, for the link that follows

    def _follow(self, event: lead.Event) -> None:
        self._state, effects = lead.step(self._state, event)
        for effect in effects:
            match effect:
                case lead.Look():
                    self._token = self._link.subscribe(self._topic, qos=0)
                case lead.Doubt(rival, wait_s):
                    self._link.publish(self._topic, QUESTION, qos=1, retain=False)
                    self._observe(seen.RivalDoubted(rival.run, rival.session, wait_s))
                case lead.Lead(above, after):
                    self.above, self.after = above, after
                case lead.GiveUp(error, session):
                    raise Superseded(error, session)
                case lead.Say() | lead.Repeat():
                    pass  # a newcomer says nothing


def _read(message: Inbound) -> CoordinatorStatus:
    status = codec.decode(Kind.COORDINATOR, message.payload)
    assert isinstance(status, CoordinatorStatus)
    return status


def _forget(events: Events) -> None:
    """Drop what a closed link had still to tell, and nothing else."""
    kept = []
    while True:
        try:
            event = events.get_nowait()
        except queue.Empty:
            break
        if isinstance(event, Stop):
            kept.append(event)
    for stop in kept:
        events.put(stop)
