"""The round, stepped from event to event, and what it wants done, carried out in batches that can be tried again.

A batch is what has become pending since the one before: effects, statuses to be noted with them, and the messages they
come from, which are acknowledged once all of it is done. Where carrying it out brings an event, the round is stepped
through that, and what follows makes a batch of its own, done before the rest. A full disk stops in the midst of it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from coordinator.attendance import Attendance
from coordinator.events import Abandon, Conclude, Effect, Event, Finish, Header, Open, Reopened
from coordinator.inbox import Content
from coordinator.performer import Batch, Performer
from coordinator.round import begin, step
from coordinator.round_state import State, expired

WEIGHTY: Final = (Open, Conclude, Abandon, Finish)  # done before anything else is stepped


class Stepper:
    """Holds the round's state. ``now`` is the round's clock; ``attendance`` has the statuses to be noted."""

    state: State

    def __init__(self, performer: Performer, attendance: Attendance, now: Callable[[], float]) -> None:
        """Nothing may be asked of it before ``begin``."""
        self._performer = performer
        self._attendance = attendance
        self._now = now
        self._pending: list[Effect] = []
        self._acks: list[Callable[[], None]] = []  # of messages that what is pending comes from
        self._batches: list[Batch] = []  # being carried out: each but the first follows from the one before
        self.held = 0  # bytes of whole updates that wait for the next batch

    def begin(self, state: State, reopened: Reopened | None) -> None:
        """Take the run's first step. Raises ``DiskFull``, as the others do."""
        self.state, effects = begin(state, reopened)
        self._pending.extend(effects)
        self.flush()

    def hold(self, header: Header, content: Content) -> None:
        """Have the content of an update at hand, which the next event may be about."""
        self._performer.hold(header, content)
        self.held += len(content.blob)

    def owe(self, ack: Callable[[], None]) -> None:
        """Call ``ack`` once all is done that follows from its message, which is to be stepped through next."""
        self._acks.append(ack)

    def step(self, event: Event) -> None:
        """Step the round through an event, and carry out at once what is ``WEIGHTY``."""
        before = self.state
        self.state, effects = step(before, event)
        if (ended := expired(before, self.state)) is not None:
            self._attendance.expired(ended, self._now())
        self._pending.extend(effects)
        if any(isinstance(effect, WEIGHTY) for effect in effects):
            self.flush()
            self._performer.tidy(idle=False)  # one turn may commit many small rounds

    def flush(self) -> None:
        """Carry out what is pending and what follows from it, then acknowledge what it came from.

        After ``DiskFull`` the next call goes on where it stopped.
        """
        self._gather(behind=True)
        while self._batches:
            event = self._performer.perform(self._batches[-1])
            if event is not None:
                self.state, effects = step(self.state, event)
                self._pending.extend(effects)
                self._gather()
                continue
            for ack in self._batches.pop().acks:
                ack()
        self._performer.announce()

    def _gather(self, *, behind: bool = False) -> None:
        """Make a batch of what is pending: what follows from another goes before the rest of that, all else behind."""
        if self._pending or self._attendance.met or self._acks:
            batch = Batch(self._pending, tuple(self._attendance.met.values()), self._acks)
            self._batches.insert(0 if behind else len(self._batches), batch)
            self._pending, self._acks, self.held = [], [], 0
            self._attendance.met.clear()
