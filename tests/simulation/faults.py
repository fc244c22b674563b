"""What befalls a world, kind by kind: when, drawn from the seed, and how."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from schemas import codec
from schemas.link.memory import MemoryLink
from schemas.messages import Command
from schemas.topics import Address, Kind
from tests.simulation.coordinators import NAME, SECOND
from tests.simulation.scenario import TOPICS

if TYPE_CHECKING:
    from tests.simulation.coordinators import CoordinatorNode
    from tests.simulation.devices import DeviceNode
    from tests.simulation.world import World

AT_ONCE: Final = 0.3  # share of crashes between two events; the others come in the middle of one
AIMED: Final = 0.4  # share of a coordinator's crashes that wait for a commit, and come right after it
SOON: Final = 60  # operations within which those come
AFTER: Final = 15  # operations after a commit within which an aimed one comes
LASTS_S: Final = (1.0, 10.0, 60.0)
GONE: Final = 0.5  # share of the starts of a second coordinator at which the first has lost its connection
STAYS_S: Final = (5.0, 60.0, 300.0)  # a second coordinator
PULLED: Final = 0.3  # share of evicted devices that are then cut from their power
RESUMED_S: Final = 30.0  # between two words of the operator that all may go on, once it is calm
YEAR_S: Final = 365.0 * 86_400


class Mishaps:
    """All that goes wrong in one world until it is calm."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._draw = random.Random(f"{world.scenario.seed}/mishaps")  # noqa: S311  - no secret
        self._jumps = random.Random(f"{world.scenario.seed}/jumps")  # noqa: S311  - apart: they must change nothing
        self._vandal = MemoryLink(world.broker, "vandal", lambda _event: None)
        self._operator = MemoryLink(world.broker, "operator", lambda _event: None)
        self._ways: dict[str, Callable[[], None]] = {
            "device crash": lambda: self._device_dies(power_cut=False),
            "device power cut": lambda: self._device_dies(power_cut=True),
            "coordinator crash": lambda: self._coordinator_dies(power_cut=False),
            "coordinator power cut": lambda: self._coordinator_dies(power_cut=True),
            "coordinator stop": self._coordinator_stops,
            "broker restart": lambda: self._broker_restarts(forget=False),
            "broker restart without memory": lambda: self._broker_restarts(forget=True),
            "cut": lambda: self._world.broker.cut(self._anybody()),
            "partition": self._partition,
            "half-open": self._half_open,
            "full disk of a device": lambda: self._fills(self._device()),
            "full disk of the coordinator": lambda: self._fills(world.coordinator),
            "wall clock jump": self._clock_jumps,
            "garbage": self._garbage,
            "replay": self._replay,
            "command": self._command,
            "second coordinator": self._second,
        }

    def begin(self) -> None:
        """Have each kind come as often as the scenario has it."""
        self._vandal.open()
        self._operator.open()
        for name, rate in self._world.scenario.mishaps.items():
            if rate:
                self._next(name, rate)
        if self._world.scenario.second:
            self._next("second coordinator", self._world.scenario.second)

    def _next(self, name: str, rate: float) -> None:
        draw = self._jumps if name == "wall clock jump" else self._draw

        def happen() -> None:
            if not self._world.calm:
                self._world.faults[name] += 1
                self._ways[name]()
                self._next(name, rate)

        self._world.at(self._world.now + draw.expovariate(rate), happen)

    def _later(self, action: Callable[[], None]) -> None:
        self._world.at(self._world.now + self._draw.random() * self._draw.choice(LASTS_S), action)

    def _device(self) -> DeviceNode:
        return self._draw.choice(self._world.devices)

    def _anybody(self) -> str:
        names: list[str] = [NAME, *(device.name for device in self._world.devices)]
        if self._world.is_contested:
            names.append(SECOND)
        return self._draw.choice(names)

    # -- processes -----------------------------------------------------------------------------------------------------

    def _device_dies(self, *, power_cut: bool) -> None:
        node = self._device()
        if node.life is None:
            return
        if self._draw.random() < AT_ONCE:
            node.kill(power_cut=power_cut)
        else:
            node.life.doom(self._draw.randint(1, SOON), power_cut=power_cut)

    def _coordinator_dies(self, *, power_cut: bool) -> None:
        life = self._world.coordinator.life
        if life is None:
            return
        chance = self._draw.random()
        if chance < AT_ONCE:
            life.doomed = power_cut
        elif chance < AT_ONCE + AIMED:
            life.aim(self._draw.randint(1, AFTER), power_cut=power_cut)
        else:
            life.doom(self._draw.randint(1, 3 * SOON), power_cut=power_cut)

    def _coordinator_stops(self) -> None:
        life = self._world.coordinator.life
        if life is not None:
            self._world.note("coordinator is asked to stop")
            life.service.stop()

    def _second(self) -> None:
        """Somebody starts another coordinator, where the first seems gone or not, and ends it, kindly or not."""
        if self._world.is_contested:
            return
        if self._draw.random() < GONE:
            self._world.broker.cut(NAME, bar=True)
            self._later(lambda: self._world.broker.mend(NAME))
        life, lasts_s = self._world.start_second(), self._draw.random() * self._draw.choice(STAYS_S)
        way = self._draw.choice(("stop", "crash", "power cut"))

        def end() -> None:
            if life is not self._world.second.life or self._world.calm:
                return
            if way == "stop":
                life.service.stop()
            else:
                self._world.end_second(power_cut=way == "power cut")

        self._world.at(self._world.now + lasts_s, end)

    # -- the link ------------------------------------------------------------------------------------------------------

    def _broker_restarts(self, *, forget: bool) -> None:
        self._world.note(f"broker goes down{' and forgets' if forget else ''}")
        self._world.broker.stop(forget=forget)
        self._later(self._world.broker.start)

    def _partition(self) -> None:
        name = self._anybody()
        self._world.note(f"{name} is cut off")
        self._world.broker.cut(name, bar=True)
        self._later(lambda: self._world.broker.mend(name))

    def _half_open(self) -> None:
        name = self._anybody()
        self._world.note(f"{name} hangs")
        self._world.broker.freeze(name)
        self._later(lambda: self._world.broker.cut(name))

    def _garbage(self) -> None:
        number, device = self._draw.randint(0, 30), self._draw.choice((self._device().name, "dev-ghost"))
        address = self._draw.choice(
            (
                Address(Kind.JOIN, number=number, device=device),
                Address(Kind.UPDATE_PART, number=number, device=device, part=self._draw.randint(0, 3)),
                Address(Kind.DEVICE, device="dev-ghost"),
                Address(Kind.ROUND),
                Address(Kind.MODEL),
                Address(Kind.RUN),
                Address(Kind.COORDINATOR),
                Address(Kind.RECEIPT, number=number, device=device),
            )
        )
        payload = b"\xff" + self._draw.randbytes(self._draw.choice((15, 15, 200)))
        self._world.referee.garbage.add(payload)
        self._vandal.publish(TOPICS.topic(address), payload, retain=address.device == "dev-ghost")

    def _replay(self) -> None:
        if self._world.heard:
            kind = self._draw.choice(sorted(self._world.heard))
            self._vandal.publish(*self._draw.choice(self._world.heard[kind]))

    # -- the operator --------------------------------------------------------------------------------------------------

    def _command(self) -> None:
        node = self._device()
        command = self._draw.choice(("pause", "evict", "evict", "resume", "query"))
        if command == "evict":  # rather one that has something to lose
            node = next((one for one in self._world.devices if one.life and one.life.has_updates), node)
        self._world.note(f"{node.name} is to {command}")
        self._say_command(node.name, Command(command=command, reason="spring cleaning"))
        if command in {"pause", "evict"}:
            self._later(lambda: self._say_command(node.name, Command(command="resume")))
        if command == "evict" and self._draw.random() < PULLED:
            pull = 2.0 * self._draw.random()
            self._world.at(self._world.now + pull, lambda: None if self._world.calm else node.kill(power_cut=True))

    def _say_command(self, name: str, command: Command) -> None:
        self._operator.publish(TOPICS.topic(Address(Kind.COMMAND, device=name)), codec.encode(command))

    def resume_all(self) -> None:
        """Let all devices go on, again and again, since a command is lost on one that is not there."""
        for device in self._world.devices:
            self._say_command(device.name, Command(command="resume"))
        self._world.at(self._world.now + RESUMED_S, self.resume_all)

    # -- disks and clocks ----------------------------------------------------------------------------------------------

    def _fills(self, node: DeviceNode | CoordinatorNode) -> None:
        self._world.note(f"the disk of {node.name} is full")
        node.fill(full=True)
        self._later(lambda: node.fill(full=False))

    def _clock_jumps(self) -> None:
        nodes: list[DeviceNode | CoordinatorNode] = [self._world.coordinator, *self._world.devices]
        node = self._jumps.choice(nodes)
        node.wall_s += self._jumps.choice((-YEAR_S, -60.0, 60.0, YEAR_S)) * self._jumps.random()
