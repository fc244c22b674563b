"""Links and clocks of simulated nodes: what all nodes have in common."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Protocol

from schemas.link.link import Event, Inbound, Qos, Sink, Will
from schemas.link.memory import MemoryBroker, MemoryLink


class Process(Protocol):
    """One life of a node's process, as its link sees it."""

    def step(self) -> None:
        """Something is about to be done that a crash may come before."""

    def said(self, topic: str, payload: bytes) -> None:
        """It has published something."""

    def acked(self, message: Inbound) -> None:
        """It has acknowledged a message."""


class SimLink(MemoryLink):
    """A link that tells what is done with it, and that dies with its process: nothing goes in or out any more."""

    def __init__(
        self,
        process: Process,
        broker: MemoryBroker,
        client_id: str,
        sink: Sink,
        will: Will | None = None,
        *,
        keep_session: bool = False,
        gated: bool = False,
    ) -> None:
        super().__init__(broker, client_id, self._hear, will, keep_session=keep_session, gated=gated)
        self.dead = False
        self._process = process
        self._sink = sink

    def die(self) -> None:
        """End without a goodbye; the broker has yet to notice."""
        self.dead = self._closed = True

    def publish(self, topic: str, payload: bytes, *, qos: Qos = 1, retain: bool = False, bulk: bool = False) -> int:
        """Publish, unless dead."""
        if self.dead:
            return 0
        self._process.step()
        self._process.said(topic, payload)
        return super().publish(topic, payload, qos=qos, retain=retain, bulk=bulk)

    def close(self, farewell: Will | None = None, timeout_s: float = 5.0) -> None:
        """Say goodbye, unless dead."""
        if not self.dead:
            super().close(farewell, timeout_s)

    def _hear(self, event: Event) -> None:
        if self.dead:
            return
        if isinstance(event, Inbound):
            event = replace(event, ack=partial(self._ack, event, event.ack))
        self._sink(event)

    def _ack(self, message: Inbound, ack: Callable[[], None]) -> None:
        if self.dead:
            return
        self._process.step()
        self._process.acked(message)
        ack()


class Clock:
    """A monotonic clock that starts anywhere with each life of a process, and a wall clock that may be wrong."""

    def __init__(self, now: Callable[[], float], draw: random.Random) -> None:
        self._now = now
        self._offset = draw.uniform(0.0, 1e6) - now()

    def monotonic(self) -> float:
        """Seconds since some instant before this life."""
        return self._now() + self._offset
