"""Devices in processes of their own, forked in no time from one that has imported everything, to be killed in numbers.

Each is the real agent on its real link with its state on disk; only the training is made up, and takes a moment.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import random
import signal
import threading
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Self

import numpy as np

from edge.agent import Agent
from edge.core.jobs import Describe, Described, Failure, Job, Merge, Merged, Result, Train, Trained
from edge.dataspec import DataSpec
from edge.device import Device
from edge.model_reader import ModelReader
from edge.reactor import Reactor
from edge.store import claim
from schemas import compression
from schemas.link.address import BrokerAddress
from schemas.link.link import Link, Sink, Will
from schemas.link.mqtt import MqttLink
from schemas.link.mqtt_settings import MqttSettings
from schemas.parameters import Parameters
from schemas.plan import Plan
from tests.chaos.spy import TOPICS

LONGEST_S = 0.5  # that a round's training takes
_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload([__name__])


class Apprentice:
    """A trainer that needs a moment, drawn from the job's seed, to learn what follows from that seed."""

    def submit(self, job: Job, on_result: Callable[[Result | Failure], None]) -> None:
        draw = random.Random(job.seed if isinstance(job, Train) else 0)  # noqa: S311 - to be the same again
        if isinstance(job, Describe):
            on_result(Described(key=job.key, examples=10, held_out=0, class_counts={}))
            return
        if isinstance(job, Merge):
            model = ModelReader().read(job.model, Plan.from_bytes(job.plan).manifest())
            whole = compression.encode("float32", model, np.random.default_rng(0))
            on_result(Merged(key=job.key, model=whole))
            return
        assert isinstance(job, Train)
        # The moment itself is what is wanted: the device is to be killed in the middle of it.
        threading.Timer(draw.uniform(0, LONGEST_S), on_result, (_learnt(job),)).start()

    def cancel(self, key: str) -> None:
        """What comes late is not wanted, and the agent sees that."""

    def suspend(self, key: str) -> None:
        """Nothing of it is kept."""

    def warm(self) -> None:
        """It always is."""


def _learnt(job: Train) -> Trained:
    manifest = Plan.from_bytes(job.plan).manifest()
    draw = np.random.default_rng(job.seed)
    delta = Parameters(manifest, draw.normal(0, 0.01, manifest.size).astype(np.float32))
    return Trained(
        key=job.key, payload=compression.encode(job.codec, delta, draw), examples=10, train_loss=0.5, seconds=0
    )


def live(name: str, port: int, state: Path) -> None:
    """Be a device, until killed."""
    logging.disable()

    def link(client_id: str, sink: Sink, will: Will) -> Link:
        return MqttLink(MqttSettings(BrokerAddress.parse(f"mqtt://127.0.0.1:{port}"), client_id), sink, will)

    reactor = Reactor()
    with claim(state) as session:
        data = DataSpec(path="none", held_out="none")
        reactor.add(Agent(Device(name, session, data, state), TOPICS, link, Apprentice(), reactor.post))
        reactor.run()


class Mortals:
    """So many of them, ``mortal-00`` and on. A context manager."""

    def __init__(self, home: Path, port: int, count: int) -> None:
        self.names = [f"mortal-{number:02d}" for number in range(count)]
        self._home = home
        self._port = port
        self._alive: dict[str, BaseProcess] = {}

    def __enter__(self) -> Self:
        """Start all."""
        for name in self.names:
            self.start(name)
        return self

    def __exit__(self, *_: object) -> None:
        """Kill all."""
        for name in list(self._alive):
            self.kill(name)

    @property
    def alive(self) -> list[str]:
        """Who is, by name."""
        return sorted(name for name, process in self._alive.items() if process.is_alive())

    def start(self, name: str) -> None:
        """Start one on the disk it had."""
        self._alive[name] = _FORKS.Process(target=live, args=(name, self._port, self._home / name), daemon=True)
        self._alive[name].start()

    def kill(self, name: str) -> None:
        """End one as the kernel does: its connection is closed, and the broker knows."""
        process = self._alive.pop(name)
        process.kill()
        process.join()
        process.close()

    def cut_power(self, name: str) -> None:
        """Take one's power: nothing closes its connection. To be followed by ``kill``, some time."""
        pid = self._alive[name].pid
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
