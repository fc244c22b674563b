"""A federation of real processes on a real broker, each of which is started again when it has been killed.

What systemd does for a fleet, ``Federation`` does here: a killed coordinator or device is started with the same command
on the same state directory, a killed broker with the configuration it had.
"""

from __future__ import annotations

import shutil
import signal
from pathlib import Path
from typing import Self

import numpy as np
import psutil

from edge.sources import load
from tests.chaos.evidence import Ledger
from tests.link_mosquitto import Mosquitto
from tests.running_commands import COORDINATOR, EDGE, Done, Running

WINDOWS = 48  # of each person: enough to train on, and no time to read
CHEAP = ("--plan", "watch", "--local-steps", "2", "--batch-size", "16", "--no-evaluate", "--json", "--deadline", "600")
QUICK = {"FEDBEAT_KEEPALIVE": "2", "FEDBEAT_HEARTBEAT": "1"}  # for whom silence is to be noticed soon
ALL = ("dev-0", "dev-1", "dev-2")


def recordings(folder: Path, people: int) -> list[Path]:
    """One person's real smartwatch windows in a file each, as a device would have them."""
    watch = load("watch", "watch")
    paths = []
    for person in sorted(set(watch.owners))[:people]:
        own = watch.take(np.flatnonzero(watch.owners == person)[:: 300 // WINDOWS][:WINDOWS])
        paths.append(folder / f"{person}.npz")
        np.savez(paths[-1], x=own.inputs[0], y=np.array([own.classes[k] for k in own.labels]))
    return paths


class Federation:
    """A coordinator and devices ``dev-0`` and on, all of which every round needs. A context manager."""

    def __init__(
        self,
        home: Path,
        broker: Mosquitto,
        devices: int = 3,
        *,
        rounds: int = 1_000_000,
        options: tuple[str, ...] = (),
        env: dict[str, str] | None = None,
        abroad: dict[str, tuple[str, tuple[str, ...]]] | None = None,
    ) -> None:
        """``options`` are the coordinator's, over ``CHEAP``; ``env`` is everybody's.

        ``abroad``: devices with a broker's address of their own, and the command within which they run.
        """
        self.home = home
        self.broker = broker
        self.names = [f"dev-{number}" for number in range(devices)]
        self.rounds = rounds
        self.env = env
        self._abroad = abroad or {}
        self.deaths: dict[str, list[Done]] = {}
        self.options = options
        self._data = dict(zip(self.names, recordings(home, devices), strict=True))
        self._alive: dict[str, Running] = {}

    def __enter__(self) -> Self:
        """Start everybody."""
        for name in (*self.names, "coordinator"):
            self.start(name)
        return self

    def __exit__(self, *_: object) -> None:
        """Kill whoever is left."""
        for running in self._alive.values():
            running.__exit__()

    def running(self, name: str) -> Running:
        """A process as it is now: ``coordinator`` or a device."""
        return self._alive[name]

    def fallen(self) -> list[str]:
        """Who has ended by itself."""
        return [name for name, running in self._alive.items() if not running.alive]

    def state(self, name: str) -> Path:
        """Its state directory."""
        return self.home / f"{name}-state"

    def start(self, name: str) -> None:
        """Start a process."""
        command = self._coordinator() if name == "coordinator" else self._device(name)
        self._alive[name] = Running(*command, cwd=self.home, env=self.env, within=self._place(name)[1])

    def kill(self, name: str) -> None:
        """End a process as the kernel does when memory is out."""
        running = self._alive.pop(name)
        running.send(signal.SIGKILL)
        self.deaths.setdefault(name, []).append(running.end())

    def trainer(self, name: str) -> int | None:
        """The process id of a device's trainer child, where it has one."""
        try:
            children = psutil.Process(self._alive[name].pid).children()
        except psutil.NoSuchProcess:
            return None
        return children[0].pid if children else None

    def finish(self) -> Done:
        """Wait for the coordinator's end, which is that of the run."""
        done = self._alive.pop("coordinator").end()
        self.deaths.setdefault("coordinator", []).append(done)
        return done

    def begin(self) -> None:
        """Have the coordinator make the run, and nothing of it yet."""
        self.start("coordinator")
        self._alive["coordinator"].wait_for('"started"')
        self.stop("coordinator")

    def twin(self, home: Path, broker: Mosquitto) -> Federation:
        """The same run before anything of it has happened, under the same name, on other disks; after ``begin``."""
        home.mkdir()
        twin = Federation(home, broker, len(self.names), options=self.options)
        shutil.copytree(self.state("coordinator"), twin.state("coordinator"))
        return twin

    def run_in_peace(self, rounds: int) -> Ledger:
        """Run so many rounds, with nothing happening to anybody; the journal they leave."""
        self.rounds = rounds
        with self:
            assert self.finish().code == 0, self.said("coordinator")
            self.stop()
        return Ledger.read(self.state("coordinator"))

    def conclude(self) -> Ledger:
        """Have the run end with the round that is open, or the next one, and end everybody; the journal it leaves."""
        self.stop("coordinator")
        self.rounds = Ledger.read(self.state("coordinator")).versions[-1].number + 1
        self.start("coordinator")
        assert self.finish().code == 0, self.said("coordinator")
        self.stop()
        return Ledger.read(self.state("coordinator"))

    def stop(self, *names: str) -> None:
        """End some, or everybody, politely, and look whether somebody had ended before."""
        for name in names or tuple(self._alive):
            running = self._alive.pop(name)
            running.send(signal.SIGTERM)
            done = running.end()
            self.deaths.setdefault(name, []).append(done)
            assert done.code in {0, -signal.SIGTERM}, f"{name}: {done.err}"  # the latter: it had not begun yet

    def said(self, name: str) -> str:
        """All that a process and those before it under its name have written, once they have ended."""
        return "".join(done.out + done.err for done in self.deaths.get(name, []))

    def _coordinator(self) -> tuple[str, ...]:
        quorum = ("--devices-min", str(len(self.names)), "--goal", str(len(self.names)))
        state = ("--state", str(self.state("coordinator")), "--broker", self.broker.address)
        return (*COORDINATOR, "start", *CHEAP, *quorum, "--rounds", str(self.rounds), *state, *self.options)

    def _device(self, name: str) -> tuple[str, ...]:
        about = ("--device", name, "--data", str(self._data[name]), "--held-out", "none")
        where = ("--broker", self._place(name)[0], "--state", str(self.state(name)))
        return (*EDGE, "run", *about, *where)

    def _place(self, name: str) -> tuple[str, tuple[str, ...]]:
        return self._abroad.get(name, (self.broker.address, ()))
