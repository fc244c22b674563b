"""Sees everything that nodes do, and knows what must hold. The numbers are those of the design's invariants.

Nothing here asks a node what it thinks where the referee can see for itself: what is on disk it reads from the journal
by SQL of its own, what a device knows from the messages it was given, and the next model it computes.
"""

from __future__ import annotations

import json
from collections import Counter
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from coordinator import observers as seen
from coordinator.round_state import Collecting
from edge.agent import Agent, Happening
from schemas import codec
from schemas.errors import DiskFull, StateError, WireError
from schemas.link.link import Inbound
from schemas.messages import DeviceState, RoundSummary
from schemas.topics import Address, Kind
from tests.simulation.coordinators import NAME
from tests.simulation.disk import Journal
from tests.simulation.known_device import EPSILON_S, KnownDevice
from tests.simulation.ledger import Ledger, Violation
from tests.simulation.scenario import TOPICS

if TYPE_CHECKING:
    from coordinator.reactor import Reactor
    from coordinator.service import RunResult
    from tests.simulation.coordinators import Life as CoordinatorLife
    from tests.simulation.devices import Life as DeviceLife
    from tests.simulation.world import World

__all__ = ["Referee", "Violation"]

QUEUE: Final = 100  # publications that wait at the coordinator
TREE: Final = 60  # what it keeps on the broker, blobs counted once
PUT_ASIDE: Final = 1024  # messages, while its disk is full
SPINS: Final = 1000  # turns at one instant
_MODEL: Final = TOPICS.topic(Address(Kind.MODEL))
_ROUND: Final = TOPICS.topic(Address(Kind.ROUND))


class Referee:
    """One world's."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.garbage: set[bytes] = set()  # payloads nobody must take for anything
        self._coordinators: dict[str, _Coordinator] = {}
        self._devices: dict[str, KnownDevice] = {}
        self._limit_s: float | None = None
        self._looked: dict[str, tuple[float, int]] = {}

    @property
    def rounds(self) -> int:
        """How many attempts at training have ended."""
        return self._of(NAME).ledger.closed

    @property
    def versions(self) -> int:
        """How many rounds were committed."""
        return len(self._of(NAME).ledger.chain) - 1 if self._of(NAME).ledger.chain else 0

    def _of(self, name: str) -> _Coordinator:
        """What is known of a coordinator."""
        if name not in self._coordinators:
            scenario = self._world.scenario
            settings = scenario.settings if name == NAME else scenario.second_settings
            self._coordinators[name] = _Coordinator(Ledger(scenario, settings))
        return self._coordinators[name]

    # -- the coordinator -----------------------------------------------------------------------------------------------

    def committed(self, life: CoordinatorLife, journal: Journal) -> bool:
        """A transaction of the journal is on disk; whether it was a new version's."""
        ledger = self._of(life.node.name).ledger
        before = len(ledger.chain)
        for line in ledger.read(journal, can_evaluate=self._can_evaluate(life)):
            self._world.note(line)
        return len(ledger.chain) > before

    def _can_evaluate(self, life: CoordinatorLife) -> bool:
        """Whether it knows devices that could evaluate, and has not waited a deadline for them."""
        if life.reactor is None or not hasattr(life.reactor, "_state"):
            return False
        waited_s = self._world.now - life.began_at
        return bool(life.reactor._state.view.evaluators) and waited_s < self._world.scenario.settings.deadline_s

    def observed(self, life: CoordinatorLife, event: seen.Observation) -> None:
        """The coordinator let something be seen."""
        match event:
            case seen.Started(version=version):
                assert life.disk.journal is not None
                known = self._of(life.node.name)
                known.began_with = version
                known.ledger.audit(life.disk.journal)
                known.desk = _Desk()
            case seen.Paused():
                self._world.note("coordinator pauses")
                self._world.faults["pause"] += 1
            case seen.Resumed():
                self._world.note("coordinator goes on")
            case seen.MessageRejected(topic=topic):
                self._of(life.node.name).desk.garbage[topic] -= 1
            case seen.RoundClosed(summary) if "declined" in summary.reason:
                self._of(life.node.name).given_up(summary)
            case _:
                pass

    def coordinator_hears(self, life: CoordinatorLife, message: Inbound) -> None:
        """It takes a message from its queue."""
        desk, ledger = self._of(life.node.name).desk, self._of(life.node.name).ledger
        desk.unacknowledged += 1
        reactor = life.reactor
        if message.payload in self.garbage:
            # While its disk is full it has nowhere to count what it hears all the same: who is there, and what is ours.
            uncounted = (
                reactor is not None
                and reactor._pause is not None
                and ("/devices/" in message.topic or reactor._office.minds(message.topic))
            )
            desk.garbage[message.topic] += not uncounted
        elif "/devices/" in message.topic and message.payload:
            status = _json(message.payload)
            if status["state"] != "offline":
                desk.sessions[status["device"]] = status["session"]
        elif "/update/" in message.topic:
            part = _part(message)
            if part is not None:
                device, digest, _, index = part
                desk.acked.setdefault((device, digest), set()).discard(index)
                ledger.early.discard((device, digest))

    def coordinator_acked(self, life: CoordinatorLife, message: Inbound) -> None:
        """It acknowledges a message to the broker."""
        desk, ledger = self._of(life.node.name).desk, self._of(life.node.name).ledger
        desk.unacknowledged -= 1
        if message.payload not in self.garbage and "/update/" in message.topic and (part := _part(message)):
            device, digest, parts, index = part
            acked = desk.acked.setdefault((device, digest), set())
            acked.add(index)
            if len(acked) == parts and not ledger.keeps(device, digest):
                ledger.early.add((device, digest))

    def coordinator_waits(self, life: CoordinatorLife) -> None:
        """A turn is over; it waits for what comes next."""
        self.moves(life.node.name)
        reactor, known = life.reactor, self._of(life.node.name)
        if reactor is None or reactor._performer.finish is not None:
            return
        self._world.leaders.waits(life)
        self._check_messages(reactor, known.desk)
        state, clock = reactor._state, reactor._clock
        if isinstance(stage := state.stage, Collecting) and not clock.stopped_for:
            left_s = stage.opened_at + state.rules.deadline_s - clock.now()
            if left_s < -EPSILON_S:
                raise Violation(0, f"round {state.round} is open {-left_s:.3f} s after its deadline")
            known.ledger.left = {stage.ticket.nonce: left_s}
        for name, member in reactor._attendance.fleet.members.items():
            if member.state is DeviceState.OFFLINE and member.session != known.desk.sessions.get(name, member.session):
                raise Violation(0, f"the stale will of {name}'s session {member.session} is believed")
        publisher, inbox = reactor._publisher, reactor._inbox
        if len(publisher._queue) > QUEUE or len(publisher._tree) > TREE:
            raise Violation(11, f"{len(publisher._queue)} publications wait, {len(publisher._tree)} are kept")
        if inbox.buffered > inbox._room:
            raise Violation(11, f"{inbox.buffered} bytes of unfinished updates")

    def _check_messages(self, reactor: Reactor, desk: _Desk) -> None:
        """What a turn leaves behind; one that begins or ends a pause may leave some of it to the next."""
        rests = reactor._pause is not None or bool(reactor._aside)
        if len(reactor._aside) > PUT_ASIDE:
            raise Violation(11, f"{len(reactor._aside)} messages are put aside")
        if not (rests or desk.rested):
            if desk.unacknowledged:
                raise Violation(2, f"{desk.unacknowledged} messages are dealt with and not acknowledged to the broker")
            if ignored := +desk.garbage:
                raise Violation(13, f"garbage that nobody counted: {dict(ignored)}")
            desk.garbage.clear()
        desk.rested = rests

    def moves(self, name: str) -> None:
        """A node looks at its clock; if it does so without end and no time passes, it spins."""
        at, times = self._looked.get(name, (-1.0, 0))
        times = times + 1 if at == self._world.now else 0
        self._looked[name] = (self._world.now, times)
        if times > SPINS:
            raise Violation(0, f"{name} spins")

    def coordinator_said(self, life: CoordinatorLife, topic: str, payload: bytes) -> None:
        """It publishes something."""
        known = self._of(life.node.name)
        ledger = known.ledger
        if topic == _ROUND:
            self._announced(known, _json(payload))
        elif topic == _MODEL:
            pointer = _json(payload)
            ledger.published(pointer["version"], pointer["digest"], pointer["previous"])
        elif "/receipt/" in topic:
            receipt = _json(payload)
            self._world.note(f"receipt {receipt['round']} {receipt['task']} {receipt['device']} {receipt['outcome']}")
            if receipt["outcome"] in {"accepted", "duplicate"}:
                ledger.receipted(receipt["nonce"], receipt["device"], receipt["outcome"])

    def _announced(self, known: _Coordinator, announcement: dict[str, Any]) -> None:
        self._world.note(f"announces {announcement['round']} {announcement['task']} {announcement['phase']}")
        if announcement["phase"] == "collecting":
            known.announced(announcement)
            known.ledger.announced(announcement["nonce"], announcement["remaining_s"])

    def disk_refused(self, life: CoordinatorLife, error: StateError) -> None:
        """The coordinator ended because its disk won't."""
        if not life.disk.refused:
            raise Violation(4, f"its disk is all right, and the coordinator can't go on: {error}")
        if isinstance(error, DiskFull) and life.reactor is not None and life.reactor.finish is None:
            raise Violation(11, f"a full disk ends the coordinator, and should have paused it: {error}")

    def failed(self) -> None:
        """The run ended with its documented error."""

    def finished(self, result: RunResult) -> None:
        """The run has come to its end."""
        self._world.note(f"finished at version {result.version}")
        if (result.version, result.digest) != self._of(NAME).ledger.newest:
            raise Violation(5, f"the run ends with version {result.version}, and not with the newest committed")
        if result.version != self._world.scenario.settings.rounds:
            raise Violation(0, f"the run is over at version {result.version}")
        if not self._world.scenario.second:  # else another run's may be there
            self._check_tree(self._of(NAME).began_with, result.version)

    def _check_tree(self, oldest: int, newest: int) -> None:
        """Of older models and their steps the broker has nothing, once all can be heard.

        Before, what a link has lost may stay: what a start was to hear of what earlier lives were killed over. One that
        hung at the end may have swallowed the last clearing, which is the next start's to repeat.
        """
        if self._world.calm:
            oldest = 0
        for topic in self._world.broker.retained:
            address = TOPICS.parse(topic)
            if address is None or address.number is None or address.kind not in {Kind.MODEL_PART, Kind.DELTA_PART}:
                continue
            if oldest - 2 <= address.number < newest - 2:
                raise Violation(11, f"the run ends with version {newest}, and {topic} is still on the broker")

    def time_passes(self) -> None:
        """Now and then: is all of this coming to an end?"""
        world = self._world
        if self._limit_s is None:
            settings = world.scenario.settings
            self._limit_s = world.scenario.calm_at + 300.0 + settings.rounds * 8.0 * settings.deadline_s
        if world.now > self._limit_s:
            raise Violation(0, f"nothing has gone wrong for long, and after {world.now:.0f} s the run is not over")

    # -- devices -------------------------------------------------------------------------------------------------------

    def device_started(self, life: DeviceLife, agent: Agent) -> None:
        """A device's agent has read its disk."""
        known = self._devices.setdefault(life.node.name, KnownDevice())
        known.begin(agent)
        self._world.note(f"{life.node.name} starts")

    def device_died(self, life: DeviceLife, *, power_cut: bool) -> None:
        """A device's process is gone; a power cut may bring back an older model, which it needs no disk for."""
        known = self._devices.get(life.node.name)
        if known is not None and power_cut:
            known.version = -1

    def device_hears(self, life: DeviceLife, happening: Happening) -> None:
        """A device takes in what was posted for it."""
        if not isinstance(happening, Inbound):
            return
        known = self._devices[life.node.name]
        if happening.payload in self.garbage:
            known.garbage += 1
        elif happening.topic.endswith("/command"):
            known.told(_json(happening.payload)["command"], life)
        elif happening.topic == _ROUND:
            message = _json(happening.payload)
            known.until[message["nonce"]] = self._world.now + message["remaining_s"]

    def device_turned(self, life: DeviceLife) -> None:
        """A device has done what followed from an event."""
        if not life.alive:
            return
        known = self._devices[life.node.name]
        known.look(life.node)
        known.evicted |= known.evicting

    def device_trains(self, life: DeviceLife, key: str) -> None:
        """A device has its trainer begin."""
        self._world.note(f"{life.node.name} works on {key}")
        known, (_, _, number, task, nonce) = self._devices[life.node.name], key.split("/")
        if (number, task, nonce) in known.digests:
            raise Violation(8, f"{key} is trained again, though its update was on disk")
        known.in_time(nonce, self._world.now, "is worked on")
        known.joined.add(nonce)  # without a connection there is no join yet
        known.is_free(f"{life.node.name} works on {key}")

    def device_said(self, life: DeviceLife, topic: str, payload: bytes) -> None:
        """A device publishes something."""
        known = self._devices[life.node.name]
        if "/join/" in topic:
            join = _json(payload)
            self._world.note(f"{life.node.name} joins {join['round']} {join['task']} {join['accepts']}")
            if join["accepts"]:
                known.answers(join["nonce"], self._world)
                known.is_free(f"{life.node.name} joins round {join['round']}")
        elif "/update/" in topic:
            digest = codec.decode_part(payload).blob.digest
            self._world.note(f"{life.node.name} sends {topic[len(TOPICS.prefix) :]} of {digest[:8]}")
            known.look(life.node)
            if digest not in known.digests.values():
                raise Violation(8, f"{life.node.name} sends an update that is not on its disk")
            if digest in known.evicted:
                raise Violation(33, f"{life.node.name} was evicted, and sends the update {digest[:8]} all the same")


class _Coordinator:
    """What is known of one coordinator through all its lives."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.desk = _Desk()
        self.began_with = 0  # the version at its last start
        self._nonce = ""  # of the attempt announced last
        self._round = 0
        self._selected = 0
        self._quorum = 0

    def announced(self, announcement: dict[str, Any]) -> None:
        """An attempt is open; that a restart forgets who was selected makes them no fewer."""
        known = self._selected if announcement["nonce"] == self._nonce else 0
        self._nonce, self._round, self._quorum = announcement["nonce"], announcement["round"], announcement["quorum"]
        self._selected = max(known, announcement.get("selected", 0))

    def given_up(self, summary: RoundSummary) -> None:
        """An attempt is abandoned before its deadline for those who declined: all others would be too few.

        One that is given up in the turn in which it was opened has not been announced.
        """
        declined = len(summary.declined)
        if summary.round == self._round and self._selected - declined >= self._quorum:
            text = f"given up, though {declined} of {self._selected} declined and {self._quorum} updates are enough"
            raise Violation(4, text)


class _Desk:
    """What one life of the coordinator has in hand."""

    def __init__(self) -> None:
        self.unacknowledged = 0
        self.rested = False  # at the end of the turn before
        self.garbage: Counter[str] = Counter()  # by topic
        self.sessions: dict[str, int] = {}  # of each device's newest status but wills
        self.acked: dict[tuple[str, str], set[int]] = {}  # parts by device and digest, of what it was given last


@lru_cache(256)
def _json(payload: bytes) -> dict[str, Any]:
    """A message, not to be changed; many devices hear the same one."""
    message: dict[str, Any] = json.loads(payload)
    return message


def _part(message: Inbound) -> tuple[str, str, int, int] | None:
    """Device, digest, number of parts and index of an update's part."""
    try:
        part = codec.decode_part(message.payload)
    except WireError:
        return None
    return message.topic.split("/")[-2], part.blob.digest, part.blob.parts, part.index
