"""Who is there, as their retained statuses, last wills and heartbeats tell. Pure: time is an argument.

* A device is *ready* where its state is not offline, stopped, paused or in trouble, and it was heard within
  ``PATIENCE`` of its own heartbeats: a half-open connection fires no will for minutes.
* A will that carries another session than the device's newest status is stale, and ignored.
* At most ``MAX_DEVICES`` are known. A newcomer then takes the place of the one unheard for longest, if that one is not
  ready; otherwise it is turned away, so that a flood of names can't push out devices that work.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from schemas.messages import MAX_DEVICES, DeviceState, DeviceStatus

PATIENCE: Final = 2.5  # heartbeats a device may miss
AWAY: Final = frozenset({DeviceState.OFFLINE, DeviceState.STOPPED, DeviceState.PAUSED, DeviceState.TROUBLE})


@dataclass(frozen=True, slots=True)
class Member:
    """What the fleet knows of one device, and when it was last heard (monotonic seconds)."""

    session: int
    state: DeviceState
    examples: int
    held_out: int
    heartbeat_s: float
    heard_at: float
    detail: str

    def ready(self, now: float) -> bool:
        """Whether it can be asked for anything."""
        return self.state not in AWAY and now - self.heard_at <= PATIENCE * self.heartbeat_s


@dataclass(frozen=True, slots=True)
class View:
    """What the round must know of the fleet at one instant."""

    ready: frozenset[str] = frozenset()
    trainers: frozenset[str] = frozenset()  # the ready ones with examples to train on
    evaluators: frozenset[str] = frozenset()  # the ready ones with held-out examples
    complaints: Mapping[str, str] = field(default_factory=dict)  # devices in trouble, and what they say
    roll: frozenset[str] | None = None  # who is known, once nobody else can be; None while there is room


@dataclass(frozen=True, slots=True)
class Fleet:
    """Every device heard of, by name."""

    members: Mapping[str, Member] = field(default_factory=dict)
    limit: int = MAX_DEVICES

    def hear(self, status: DeviceStatus, now: float, *, retained: bool = False) -> Fleet | None:
        """The fleet after ``status``; itself where the status is stale, None where the fleet is full.

        A retained one, which the broker repeats after each connect, is no sign of life from a device that is known.
        """
        known = self.members.get(status.device)
        if known is not None and status.state is DeviceState.OFFLINE and status.session != known.session:
            return self
        members = dict(self.members)
        if known is None and len(members) >= self.limit:
            quietest = min(members, key=lambda device: (members[device].ready(now), members[device].heard_at))
            if members[quietest].ready(now):
                return None
            del members[quietest]
        members[status.device] = Member(
            session=status.session,
            state=status.state,
            examples=status.examples,
            held_out=status.held_out,
            heartbeat_s=status.heartbeat_s,
            heard_at=known.heard_at if retained and known else now,
            detail=status.detail,
        )
        return replace(self, members=members)

    def forget(self, device: str) -> Fleet:
        """The fleet after ``device``'s retained status was cleared."""
        return replace(self, members={name: member for name, member in self.members.items() if name != device})

    def view(self, now: float) -> View:
        """Who is ready at ``now``, and for what."""
        ready = {name: member for name, member in self.members.items() if member.ready(now)}
        return View(
            ready=frozenset(ready),
            trainers=frozenset(name for name, member in ready.items() if member.examples > 0),
            evaluators=frozenset(name for name, member in ready.items() if member.held_out > 0),
            complaints={
                name: member.detail or "is in trouble and does not say why"
                for name, member in self.members.items()
                if member.state is DeviceState.TROUBLE
            },
            roll=frozenset(self.members) if len(self.members) >= self.limit else None,
        )
