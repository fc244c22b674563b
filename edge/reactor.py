"""The one thread that owns the state of one agent or of many: a queue of what happened, and a clock.

Links and trainers post from threads of their own; each agent is called here alone, one event at a time.
"""

from __future__ import annotations

import heapq
import itertools
import math
import queue
import threading
import time
from collections.abc import Callable
from typing import Final

from edge.agent import Agent, Happening
from schemas.errors import LinkError
from schemas.link.notify import Notifier

HAPPENINGS_A_TURN: Final = 256
_STATUS_S: Final = 1.0  # between two lines to systemd


class Reactor:
    """Runs agents until told to stop. ``post`` and ``stop`` may be called from any thread."""

    def __init__(self, notifier: Notifier | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        """``clock`` is monotonic, in seconds."""
        self._notifier = notifier or Notifier()
        self._clock = clock
        self._queue: queue.SimpleQueue[tuple[Agent, Happening] | None] = queue.SimpleQueue()
        self._agents: list[Agent] = []
        self._due: dict[Agent, float] = {}
        self._alarms: list[tuple[float, int, Agent]] = []  # some of them outdated; ``_due`` says which
        self._order = itertools.count()
        self._stopping = threading.Event()
        self._endings: list[Callable[[], None]] = []

    def add(self, agent: Agent) -> None:
        """Run ``agent`` too; before ``run``."""
        self._agents.append(agent)

    def at_end(self, end: Callable[[], None]) -> None:
        """Have ``run`` call ``end`` once it is to stop, and handle what that posts before the agents leave.

        ``end`` may take some seconds, in which nothing else is handled.
        """
        self._endings.append(end)

    def post(self, agent: Agent, happening: Happening) -> None:
        """Have ``agent`` handle this."""
        self._queue.put((agent, happening))

    def stop(self) -> None:
        """Have ``run`` return soon. May be called from a signal handler."""
        self._stopping.set()
        self._queue.put(None)

    def run(self) -> None:
        """Start the agents, run them until ``stop``, and stop them.

        Raises ``LinkError`` where the broker will never take one of them.
        """
        for agent in self._agents:
            agent.start()
        self._notifier.ready()
        try:
            self._turn_until_stopped()
        finally:
            self._notifier.stopping()
            self._hear_the_last()
            for agent in self._agents:  # all of them before the first says goodbye, which may take seconds
                agent.leave()
            for agent in self._agents:
                agent.stop()

    def _hear_the_last(self) -> None:
        for end in self._endings:
            end()
        for _ in range(self._queue.qsize() if self._endings else 0):  # what came by then, and nothing that follows
            item = self._queue.get()
            if item is not None:
                item[0].handle(item[1], self._clock())

    def _turn_until_stopped(self) -> None:
        beat_s = (self._notifier.watchdog_s or math.inf) / 3
        alive_at = told_at = -math.inf
        told = ""
        while not self._stopping.is_set():
            now = self._clock()
            if now >= alive_at + beat_s:
                self._notifier.alive()
                alive_at = now
            if now >= told_at + _STATUS_S and (line := self._line()) != told:
                self._notifier.status(line)
                told, told_at = line, now
            self._ring(now)
            self._wait(min(self._alarms[0][0] if self._alarms else math.inf, alive_at + beat_s))

    def _wait(self, until: float) -> None:
        """Handle one happening, and those that wait behind it, up to a bound; or see the time come."""
        timeout = None if until == math.inf else max(0.0, until - self._clock())
        for _ in range(HAPPENINGS_A_TURN):
            try:
                item = self._queue.get(timeout=timeout)
            except queue.Empty:
                return
            if item is None:
                return
            agent, happening = item
            agent.handle(happening, self._clock())
            if agent.fatal is not None:
                raise _explained(agent.fatal, agent)
            self._set_alarm(agent)
            timeout = 0.0

    def _ring(self, now: float) -> None:
        while self._alarms and self._alarms[0][0] <= now:
            at, _, agent = heapq.heappop(self._alarms)
            if self._due.get(agent) == at:
                del self._due[agent]
                agent.tick(now)
                self._set_alarm(agent)

    def _set_alarm(self, agent: Agent) -> None:
        at = agent.wake_at()
        if at is None:
            self._due.pop(agent, None)
        elif self._due.get(agent) != at:
            self._due[agent] = at
            heapq.heappush(self._alarms, (at, next(self._order), agent))

    def _line(self) -> str:
        """What ``systemctl status`` shows."""
        if len(self._agents) != 1:
            return f"{sum(agent.connected for agent in self._agents)} of {len(self._agents)} devices connected"
        agent = self._agents[0]
        status = agent.status
        where = "" if agent.connected else " (no broker)"
        model = "no model yet" if status.model_version is None else f"model {status.model_version}"
        return f"{status.state}{where}, {model}{f': {status.detail}' if status.detail else ''}"


def _explained(error: LinkError, agent: Agent) -> LinkError:
    return type(error)(f"{agent.name}: {error}")
