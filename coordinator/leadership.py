"""Which coordinator may write: how one finds out whether another serves its federation, and which gives way. Pure.

A federation has one writer. Its sign is the retained status on ``coordinator``, which carries the writer's session and
its *instance*, the name of its state directory. A coordinator reads it after every connect, before it publishes
anything, and goes on listening to it.

    newcomer:  away --connected--> looking --nobody, or one that has ended--> leading
                                      +--one that serves, or is offline--> doubting --silence--> leading
                                                                              +--sign of life--> it gives up
    in office: away --connected--> looking --> leading, and gives up wherever a higher rank shows,
               to begin again as a newcomer where that one doesn't serve

* A *newcomer* has published nothing yet and leaves no last will, so that it harms nobody when it gives up. It waits
  for a sign of life of a coordinator that serves for ``PATIENCE`` of that one's heartbeats, at most ``LONGEST_S``. It
  asks for one, since who has nothing at stake seldom gives one unasked.
* Where the broker knows both by one user name, a newcomer's connection ends the other one's. That one comes back at
  once, ends the newcomer's, and says its status anew: the newcomer finds another one than before, which is a sign of
  life too. So a coordinator that is offline is doubted for ``RETURN_S``.
* Ranks are sessions, then instances. A newcomer that goes on takes a session above all it has seen, so the one that
  came last is the highest, and devices follow it. Of two that started together the lower gives up. A higher one that
  has ended, or whose will comes late, has left devices to nobody: so one in office takes a session above that.
* No clock gives a session of ``BEYOND``, and above the last one there can be nobody could serve. So nobody rises above
  such a claim, and it stops nobody unless somebody speaks under it; devices let go of it after a while.
* One that stood still for ``standstill_s``, as a process that was stopped, connects anew before it publishes.
* A last will, or whatever else shows in the place of the leader's status, is answered with that status; one of a lower
  rank that serves, with the whole tree, and once more a heartbeat later: for an instant both led, and both wrote.
* The status comes every ``heartbeat_s``, or every ``idle_heartbeat_s`` where nothing is at stake as it becomes due. As
  soon as something is, one is due that promises the next ones sooner. What it says of the round is news for people
  alone, which each device gets and pays for: it comes every ``NEWS_S`` at most.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Final

from schemas.messages import CoordinatorState, CoordinatorStatus
from schemas.printable import printable

PATIENCE: Final = 2.5  # heartbeats without a sign of life
LONGEST_S: Final = 75.0  # in which one that is asked answers
RETURN_S: Final = 2.0  # in which a coordinator that lost its connection to us has taken it back
NEWS_S: Final = 10.0  # between two statuses that say something new for people; ``rounds/current`` tells it at once
BEYOND: Final = 2**50  # seconds since 1970 are 2^31 now, and each start adds one
LOOKS: Final = 2  # subscriptions to the status: as the second is answered, what was retained for the first is here
SERVING: Final = frozenset({CoordinatorState.STARTING, CoordinatorState.RUNNING, CoordinatorState.PAUSED})

# -- events ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Tick:
    """It is now ``now``, in monotonic seconds that never stand still.

    ``idle``: nothing is at stake. ``news``: the status says something that it didn't when it was last published.
    """

    now: float
    idle: bool = False
    news: bool = False


@dataclass(frozen=True, slots=True)
class Connected:
    """The broker took us."""


@dataclass(frozen=True, slots=True)
class Disconnected:
    """The connection is gone."""


@dataclass(frozen=True, slots=True)
class Looked:
    """The broker has answered a ``Look``."""


@dataclass(frozen=True, slots=True)
class Seen:
    """A status on our topic; None for what is none. ``retained``: the broker had kept it, so it may be old."""

    status: CoordinatorStatus | None
    retained: bool


Event = Tick | Connected | Disconnected | Looked | Seen

# -- effects -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Look:
    """Subscribe to the status, and say when the broker has answered."""


@dataclass(frozen=True, slots=True)
class Doubt:
    """Ask for a status: ``rival`` may be at work, and is given ``wait_s`` to show it."""

    rival: CoordinatorStatus
    wait_s: float


@dataclass(frozen=True, slots=True)
class Lead:
    """Publish from now on over this connection, the status first; a newcomer, with a session above ``above``.

    ``after``: whom a newcomer takes over from without having been told that it ended.
    """

    above: int
    after: CoordinatorStatus | None = None


@dataclass(frozen=True, slots=True)
class Say:
    """Publish the status: it is time, somebody asks for it, or something else stands in its place."""


@dataclass(frozen=True, slots=True)
class Repeat:
    """Publish the whole tree again: another one that serves may have written there."""


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Publish nothing more, and end with this error; ``again``: nobody serves, so go on as a newcomer does.

    ``session`` is the one to be above from now on: devices may follow it, and it may not be seen again.
    """

    error: str
    session: int
    again: bool = False


Effect = Look | Doubt | Lead | Say | Repeat | GiveUp

# -- states ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Away:
    """Without a connection."""


@dataclass(frozen=True, slots=True)
class Looking:
    """Waiting for the broker's answers, ``left`` of them."""

    left: int = LOOKS
    contested: bool = False  # in office: another one serves, and writes until it hears of us


@dataclass(frozen=True, slots=True)
class Doubting:
    """Waiting for a sign of life."""

    rival: CoordinatorStatus
    until: float


@dataclass(frozen=True, slots=True)
class Leading:
    """The one writer."""

    said_at: float  # the last heartbeat, or news
    due_at: float  # the next heartbeat
    repeats: bool = False  # the tree, with that
    slow: bool = False  # whether the last status promised no other one for ``idle_heartbeat_s``
    news: bool = False  # whether there are some


@dataclass(frozen=True, slots=True)
class GaveUp:
    """Nothing happens any more."""


Stage = Away | Looking | Doubting | Leading | GaveUp


@dataclass(frozen=True, slots=True)
class State:
    """Where a coordinator stands. ``session`` is 0 for a newcomer."""

    instance: str
    session: int
    heartbeat_s: float
    now: float
    idle_heartbeat_s: float = 0.0  # instead of a shorter ``heartbeat_s`` where nothing is at stake
    stage: Stage = field(default_factory=Away)
    newest: CoordinatorStatus | None = None  # on the topic, as far as we have seen
    highest: int = 0  # of all sessions seen below ``BEYOND``

    @property
    def newcomer(self) -> bool:
        """Whether it has yet to find out whether it may write at all."""
        return self.session == 0

    @property
    def leading(self) -> bool:
        """Whether it may publish."""
        return isinstance(self.stage, Leading)

    @property
    def slow(self) -> bool:
        """Whether it has promised its status for as seldom as it comes where nothing is at stake."""
        return isinstance(self.stage, Leading) and self.stage.slow

    @property
    def promised_s(self) -> float:
        """How often its status is to come, as that says."""
        return self.idle_heartbeat_s if self.slow else self.heartbeat_s


Step = tuple[State, tuple[Effect, ...]]


def step(state: State, event: Event) -> Step:
    """What ``event`` changes, and what is to be done about it."""
    if isinstance(state.stage, GaveUp):
        return state, ()
    match event:
        case Tick():
            return _advance(replace(state, now=max(event.now, state.now)), event)
        case Connected():
            return replace(state, stage=Looking()), (Look(),)
        case Disconnected():
            return replace(state, stage=Away()), ()
        case Looked():
            return _looked(state)
        case Seen(status, retained):
            return _newcomer_sees(state, status, retained) if state.newcomer else _sees(state, status, retained)


def standstill_s(heartbeat_s: float) -> float:
    """For how long one in office may stand still: after that a newcomer may have taken its silence for its end.

    Less by a fifth than a newcomer waits, since that may have asked a little before.
    """
    return 0.8 * _silence_s(heartbeat_s)


def wake_at(state: State) -> float:
    """When the next ``Tick`` matters, if nothing else happens."""
    match state.stage:
        case Doubting(until=until):
            return until
        case Leading(said_at, due_at, news=news):
            return min(due_at, said_at + NEWS_S) if news else due_at
        case _:
            return math.inf


def _advance(state: State, tick: Tick) -> Step:
    match state.stage:
        case Doubting(rival, until) if state.now >= until:
            return _lead(state, rival)
        case Leading(_, due_at, repeats, slow) if state.now >= due_at or (slow and not tick.idle):
            return _leading(state, slow=tick.idle), (Say(), *[Repeat()] * repeats)
        case Leading(said_at) if tick.news and state.now >= said_at + NEWS_S:
            return replace(state, stage=replace(state.stage, said_at=state.now, news=False)), (Say(),)
        case Leading(news=news) if news != tick.news:
            return replace(state, stage=replace(state.stage, news=tick.news)), ()
        case _:
            return state, ()


def _looked(state: State) -> Step:
    stage = state.stage
    if not isinstance(stage, Looking):
        return state, ()
    if stage.left > 1:
        return replace(state, stage=replace(stage, left=stage.left - 1)), (Look(),)
    rival = _rival(state) if state.newcomer else None
    return _lead(state, repeats=stage.contested) if rival is None else _doubt(state, rival)


def _newcomer_sees(state: State, status: CoordinatorStatus | None, retained: bool) -> Step:  # noqa: FBT001 - an event's
    if status is None:
        return state, ()
    before = state.newest
    highest = max(state.highest, status.session) if status.session < BEYOND else state.highest
    state = replace(state, newest=status, highest=highest)
    rival = _rival(state)
    if rival is None:
        return _lead(state) if isinstance(state.stage, Doubting) else (state, ())
    said_anew = before is not None and before.instance == rival.instance and before != rival
    if rival.state in SERVING and (said_anew or not retained):
        return _give_up(state, _refusal(rival), rival)
    if isinstance(state.stage, Doubting) and not retained:
        return _doubt(state, rival)
    return state, ()


def _sees(state: State, status: CoordinatorStatus | None, retained: bool) -> Step:  # noqa: FBT001 - an event's
    serves = status is not None and status.state in SERVING
    ours = status is not None and (status.session, status.instance) == (state.session, state.instance)
    idle_claim = status is not None and status.session >= BEYOND and (retained or not serves)
    if status is not None and (status.session, status.instance) > (state.session, state.instance) and not idle_claim:
        return _give_up(state, _deposition(status), status, again=not serves)
    contested = status is not None and serves and status.instance != state.instance
    match state.stage:
        case Looking(contested=before):
            return replace(state, stage=replace(state.stage, contested=before or contested)), ()
        case Leading() if serves and ours:
            return state, ()  # come back to us
        case Leading(repeats=True):  # however often another one shows, the tree goes out twice a heartbeat at most
            return state, (Say(),)
        case Leading(slow=slow):  # that one may write once more after what is repeated now
            leading = _leading(state, repeats=contested, slow=slow and not contested)
            return leading, (Say(), *[Repeat()] * contested)
        case _:
            return state, ()


def _rival(state: State) -> CoordinatorStatus | None:
    """The coordinator that the topic shows, unless it is of our own state directory or has said that it ended."""
    newest = state.newest
    if newest is None or newest.instance == state.instance:
        return None
    return newest if newest.state in SERVING or newest.state is CoordinatorState.OFFLINE else None


def _doubt(state: State, rival: CoordinatorStatus) -> Step:
    serving = rival.state in SERVING
    wait_s = _silence_s(rival.heartbeat_s) if serving else RETURN_S
    return replace(state, stage=Doubting(rival, state.now + wait_s)), (Doubt(rival, wait_s),)


def _silence_s(heartbeat_s: float) -> float:
    """For how long a newcomer waits for a sign of life of one that serves."""
    return min(PATIENCE * heartbeat_s, LONGEST_S)


def _lead(state: State, after: CoordinatorStatus | None = None, *, repeats: bool = False) -> Step:
    return _leading(state, repeats=repeats), (Lead(state.highest, after),)


def _leading(state: State, *, repeats: bool = False, slow: bool = False) -> State:
    """In office, the status having just been said."""
    slow = slow and state.idle_heartbeat_s > state.heartbeat_s
    wait_s = state.idle_heartbeat_s if slow else state.heartbeat_s
    return replace(state, stage=Leading(state.now, state.now + wait_s, repeats, slow))


def _give_up(state: State, error: str, rival: CoordinatorStatus, *, again: bool = False) -> Step:
    return replace(state, stage=GaveUp()), (GiveUp(error, rival.session, again),)


def _refusal(rival: CoordinatorStatus) -> str:
    return f"another coordinator ({_name(rival)}) serves this federation: stop it, or choose another --federation"


def _deposition(rival: CoordinatorStatus) -> str:
    return (
        f"a newer coordinator ({_name(rival)}) has taken this federation over. All this one had is on disk: to go on "
        "with it, stop the newer one and start this one again, or choose another --federation"
    )


def _name(rival: CoordinatorStatus) -> str:
    since = f", since {printable(rival.since)}" if rival.since else ""
    return f"run {rival.run or 'unknown'}, session {rival.session}{since}"
