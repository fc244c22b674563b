"""Many devices in one process: each the real agent with its own session, state and share of the data, one trainer.

To try a plan without a fleet, and as the load generator of the benchmarks.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from edge.agent import Agent, MakeLink
from edge.core.jobs import Describe, Failure, Job, Progressed, Result, Train, Trainer
from edge.core.personal_settings import PersonalSettings
from edge.dataspec import EVALUATOR, DataSpec, parse_people
from edge.device import Device
from edge.reactor import Reactor
from edge.store import claim
from schemas.errors import DataError, FedbeatError, PlanError
from schemas.messages import Health
from schemas.topics import Topics, check_name

_STOP_S = 30.0
USELESS: Final[dict[str, type[FedbeatError]]] = {"data": DataError, "plan": PlanError}  # by a failure's kind


@dataclass(frozen=True, slots=True)
class Fleet:
    """What a virtual fleet is: ``devices`` that train on shares of ``data``, and one that only evaluates, if any."""

    devices: int
    data: str  # a path, or the name of a bundled source
    state: Path
    partition: str = "auto"
    held_out: str = "auto"  # as ``DataSpec`` has it
    seed: int = 0
    prefix: str = "virtual"
    heartbeat_s: float = 30.0
    software: str = ""
    budget: int | None = None  # bytes of payload each may move within a day of running
    personal: PersonalSettings | None = None  # how each device that trains fits the global model to its own share

    def members(self, session: int) -> tuple[Device, ...]:
        """Every device. Raises ``SettingsError``.

        Held-out people belong to nobody who trains, so one more device has them: under the recipe's own rule, and where
        several devices share recordings of people who are held out by name.
        """
        check_name(f"{self.prefix}-000", "device")
        names = {f"{self.prefix}-{index:03d}": index for index in range(self.devices)}
        if self.held_out == "auto" or (parse_people(self.held_out) and self.devices > 1):
            names[f"{self.prefix}-held-out"] = EVALUATOR
        return tuple(
            Device(
                name,
                session,
                self._share(index),
                self.state / name,
                self.heartbeat_s,
                self.software,
                durable=False,
                budget=self.budget,
                personal=None if index == EVALUATOR else self.personal,
            )
            for name, index in names.items()
        )

    def _share(self, index: int) -> DataSpec:
        return DataSpec.of(
            path=self.data,
            partition=self.partition,
            devices=self.devices,
            index=index,
            seed=self.seed,
            held_out=self.held_out,
        )


class SharedRecordings:
    """The fleet's trainer, as its devices see it; it notices when no device that trains can use the recordings.

    One device may be without; where all are, what is given as ``--data`` is not what the plan is about: none of it
    can be read, or what can be doesn't fit the plan.
    """

    def __init__(self, trainer: Trainer, devices: int, on_useless: Callable[[FedbeatError], None]) -> None:
        """``on_useless`` is called on a thread of the trainer's."""
        self._trainer = trainer
        self._devices = devices
        self._on_useless = on_useless
        self._failed: set[int] = set()

    def submit(self, job: Job, on_result: Callable[[Progressed | Result | Failure], None]) -> None:
        """Have it done; as ``Trainer`` has it."""

        def look(result: Progressed | Result | Failure) -> None:
            if isinstance(job, Describe | Train):
                self._look(job.data.index, result)
            on_result(result)

        self._trainer.submit(job, look)

    def cancel(self, key: str) -> None:
        """As ``Trainer`` has it."""
        self._trainer.cancel(key)

    def suspend(self, key: str) -> Progressed | None:
        """As ``Trainer`` has it."""
        return self._trainer.suspend(key)

    def warm(self) -> None:
        """As ``Trainer`` has it."""
        self._trainer.warm()

    def _look(self, index: int, result: Progressed | Result | Failure) -> None:
        if not isinstance(result, Failure) or result.kind not in USELESS:
            self._failed.discard(index)
        elif index != EVALUATOR:
            self._failed.add(index)
            if len(self._failed) == self._devices:
                self._on_useless(USELESS[result.kind](result.message))


class VirtualFleet:
    """The fleet at work: in this thread with ``run``, or in one of its own for as long as a ``with`` block lasts."""

    def __init__(
        self,
        fleet: Fleet,
        topics: Topics,
        make_link: MakeLink,
        trainer: Trainer,
        health: Callable[[], Health] = Health,
        reactor: Reactor | None = None,
    ) -> None:
        """``trainer`` is shared by all; it stays open. Raises ``SettingsError``, ``StateError``."""
        self._reactor = reactor or Reactor()
        self._claim = claim(fleet.state)
        self._useless: FedbeatError | None = None
        self._error: FedbeatError | None = None
        self._thread = threading.Thread(target=self._run, name="virtual-fleet")
        recordings = SharedRecordings(trainer, fleet.devices, self._give_up)
        session = self._claim.__enter__()
        try:
            self.agents = tuple(
                Agent(member, topics, make_link, recordings, self._reactor.post, health)
                for member in fleet.members(session)
            )
        except BaseException:
            self._claim.__exit__(None, None, None)
            raise
        for agent in self.agents:
            self._reactor.add(agent)

    def run(self) -> None:
        """Be the fleet until ``stop``.

        Raises ``LinkError`` where the broker will never take it, ``DataError`` where no device can read the recordings,
        ``PlanError`` where nothing that can be read fits the plan.
        """
        try:
            self._reactor.run()
        finally:
            self._claim.__exit__(None, None, None)
        if self._useless is not None:
            raise self._useless

    def stop(self) -> None:
        """Have ``run`` return soon; from any thread, or from a signal handler."""
        self._reactor.stop()

    @property
    def makes_own(self) -> bool:
        """Whether a device has yet to make its owner a model of the newest global one; from any thread."""
        return any(agent.makes_own for agent in self.agents)

    def __enter__(self) -> Self:
        """Start."""
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop; raises what ``run`` would have raised, unless something else is on its way."""
        self.stop()
        self._thread.join(_STOP_S)
        if error is None and self._error is not None:
            raise self._error

    def _run(self) -> None:
        try:
            self.run()
        except FedbeatError as error:
            self._error = error

    def _give_up(self, why: FedbeatError) -> None:
        self._useless = why
        self.stop()
