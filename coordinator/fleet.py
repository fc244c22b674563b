"""Who is there, as their retained statuses, last wills and heartbeats tell. Pure: time is an argument.

* A device is *ready* where its state is not offline, stopped, paused or in trouble, and it was heard within
  ``PATIENCE`` of its own heartbeats: a half-open connection fires no will for minutes.
* A retained status proves less than a fresh one, since a broker that lost its power fires no will: of a device that
  isn't known, or has started again since, it counts for ``UNPROVEN_S`` as a heartbeat at most, and of a known one its
  own last word does.
* Devices beat as seldom as a coordinator that has nothing at stake, and answer when it beats faster. From then on the
  promises they gave before count for ``UNPROVEN_S`` at most, so that one that hung meanwhile is missed soon. So do
  those of one that was asked and gave no answer until the deadline: a name alone would hold up every round for a year.
* A will that carries another session than the device's newest status is stale, and ignored.
* At most ``MAX_DEVICES`` are known. A newcomer then takes the place of one that is not ready: of the one that has said
  so longest ago, else of one that has missed its heartbeats. Where all are ready it is turned away, so that a flood of
  names can't push out devices that work.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from schemas.messages import MAX_DEVICES, DeviceState, DeviceStatus

PATIENCE: Final = 2.5  # heartbeats a device may miss
LOOK_S: Final = 1.0  # between two looks for devices that have missed their heartbeats, when there is no room
UNPROVEN_S: Final = 30.0  # devices that are there say so at once when they hear a new coordinator, or one hurry
AWAY: Final = frozenset({DeviceState.OFFLINE, DeviceState.STOPPED, DeviceState.PAUSED, DeviceState.TROUBLE})


@dataclass(frozen=True, slots=True)
class Member:
    """What the fleet knows of one device, and when it was last heard (monotonic seconds)."""

    session: int
    state: DeviceState
    examples: int
    held_out: int
    synthetic: bool
    heartbeat_s: float
    heard_at: float
    detail: str

    def ready(self, now: float) -> bool:
        """Whether it can be asked for anything."""
        return self.state not in AWAY and now - self.heard_at <= PATIENCE * self.heartbeat_s

    def worth(self, now: float) -> tuple[bool, bool, bool, bool, str | None]:
        """What of it is in a ``View``."""
        return self.ready(now), self.examples > 0, self.held_out > 0, self.synthetic, self.complaint

    @property
    def complaint(self) -> str | None:
        """Why it takes no part although it is there: it is in trouble, or its operator has paused it."""
        if self.state not in {DeviceState.TROUBLE, DeviceState.PAUSED}:
            return None
        what = "paused" if self.state is DeviceState.PAUSED else "in trouble"
        return self.detail or f"is {what} and does not say why"


@dataclass(frozen=True, slots=True)
class View:
    """What the round must know of the fleet at one instant."""

    ready: frozenset[str] = frozenset()
    trainers: frozenset[str] = frozenset()  # the ready ones with examples to train on
    evaluators: frozenset[str] = frozenset()  # the ready ones with held-out examples
    complaints: Mapping[str, str] = field(default_factory=dict)  # devices in trouble or paused, and what they say
    roll: frozenset[str] | None = None  # who is known, once nobody else can be; None while there is room
    synthetic: frozenset[str] = frozenset()  # those known, ready or not, whose examples are of made-up people


@dataclass(slots=True, eq=False)
class Fleet:
    """Every device heard of, by name; changed in place, so that a status costs the same however many there are."""

    members: dict[str, Member] = field(default_factory=dict)
    limit: int = MAX_DEVICES
    altered: bool = False  # since ``view`` was asked, in more than the time
    remembered: frozenset[str] = frozenset()  # with made-up people, by the journal, as long as they are not heard again
    _away: dict[str, None] = field(default_factory=dict, init=False)  # who has said so, the longest ago first
    _silent: deque[str] = field(default_factory=deque, init=False)  # who had missed heartbeats as we looked, likewise
    _looked_at: float = field(default=-math.inf, init=False)

    @property
    def full(self) -> bool:
        """Whether as many are known as may be."""
        return len(self.members) >= self.limit

    def hear(self, status: DeviceStatus, now: float, *, retained: bool = False) -> Fleet | None:
        """Itself, with ``status`` taken in; a stale one changes nothing. None where it is full, and turns it away.

        A retained one that the broker repeats, as after each connect, is no sign of life from a device that is known.
        """
        name = status.device
        known = self.members.get(name)
        if known is not None and status.state is DeviceState.OFFLINE and status.session != known.session:
            return self
        if known is None and self.full and not self._make_room(now):
            return None
        repeats = retained and known is not None and status.session <= known.session
        member = self.members[name] = Member(
            session=status.session,
            state=status.state,
            examples=status.examples,
            held_out=status.held_out,
            synthetic=status.synthetic or False,
            heartbeat_s=_promised(status, known if repeats else None) if retained else status.heartbeat_s,
            heard_at=known.heard_at if known is not None and repeats else now,
            detail=status.detail,
        )
        self.altered = self.altered or known is None or known.worth(now) != member.worth(now)
        self._away.pop(name, None)
        if status.state in AWAY:
            self._away[name] = None
        return self

    def rouse(self, now: float, names: Iterable[str] | None = None) -> None:
        """All who are there were asked for a sign of life, or these were and gave none."""
        for name in tuple(self.members if names is None else names):
            member = self.members.get(name)
            if member is not None and member.heartbeat_s > UNPROVEN_S and member.ready(now):
                self.members[name] = replace(member, heartbeat_s=UNPROVEN_S, heard_at=now)

    def forget(self, device: str) -> None:
        """Its retained status was cleared."""
        self.altered = self.altered or device in self.members
        self.members.pop(device, None)
        self._away.pop(device, None)

    def _make_room(self, now: float) -> bool:
        """Forget one that is not ready, if there is one."""
        if self._forget_one(now):
            return True
        if now < self._looked_at + LOOK_S:
            return False
        self._looked_at = now
        silent = (name for name, member in self.members.items() if not member.ready(now))
        self._silent.extend(sorted(silent, key=lambda name: self.members[name].heard_at))
        return self._forget_one(now)

    def _forget_one(self, now: float) -> bool:
        while self._away or self._silent:
            name = next(iter(self._away)) if self._away else self._silent.popleft()
            member = self.members.get(name)
            if member is not None and not member.ready(now):
                self.forget(name)
                return True
        return False

    def view(self, now: float) -> View:
        """Who is ready at ``now``, and for what."""
        self.altered = False
        ready = {name: member for name, member in self.members.items() if member.ready(now)}
        return View(
            ready=frozenset(ready),
            trainers=frozenset(name for name, member in ready.items() if member.examples > 0),
            evaluators=frozenset(name for name, member in ready.items() if member.held_out > 0),
            synthetic=self.remembered.difference(self.members).union(
                name for name, member in self.members.items() if member.synthetic
            ),
            complaints={
                name: complaint for name, member in self.members.items() if (complaint := member.complaint) is not None
            },
            roll=frozenset(self.members) if self.full else None,
        )


def _promised(status: DeviceStatus, known: Member | None) -> float:
    """The heartbeat by which a device is judged that has a retained status and may be gone."""
    return known.heartbeat_s if known else min(status.heartbeat_s, UNPROVEN_S)
