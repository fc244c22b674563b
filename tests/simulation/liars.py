"""Devices that lie, on topics of their own: what a broker's access list can't keep out."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Final

import numpy as np

from schemas import codec, cohort, compression
from schemas.errors import WireError
from schemas.link.link import Connected, Event, Inbound, Will
from schemas.link.memory import MemoryLink
from schemas.messages import TAG, DeviceState, DeviceStatus, Join, Phase, RoundAnnouncement, Update
from schemas.parameters import Parameters
from schemas.parts import cut, describe
from schemas.topics import Address, Kind
from tests.simulation.scenario import TOPICS, Member

if TYPE_CHECKING:
    from tests.simulation.world import World

HEARTBEAT_S: Final = 30.0
THINKS_S: Final = 1.0


class Liar:
    """Answers each round with what its kind says: see ``scenario``."""

    def __init__(self, world: World, member: Member) -> None:
        self.world = world
        self.member = member
        self.name = member.name
        self._draw = random.Random(f"{world.scenario.seed}/{self.name}")  # noqa: S311  - no secret
        self._answered: set[str] = set()

    def start(self) -> None:
        """Connect; it is never down."""
        will = Will(TOPICS.topic(Address(Kind.DEVICE, device=self.name)), self._status(DeviceState.OFFLINE))
        self._link = MemoryLink(self.world.broker, self.name, self._hear, will)
        self._link.subscribe(TOPICS.filter(Kind.ROUND))
        self._link.open()
        self._beat()

    def _beat(self) -> None:
        topic = TOPICS.topic(Address(Kind.DEVICE, device=self.name))
        self._link.publish(topic, self._status(DeviceState.IDLE), retain=True)
        self.world.at(self.world.now + HEARTBEAT_S, self._beat)

    def _status(self, state: DeviceState) -> bytes:
        return codec.encode(DeviceStatus(device=self.name, session=1, state=state, examples=self.member.examples))

    def _hear(self, event: Event) -> None:
        if isinstance(event, Inbound):
            event.ack()
            try:
                asked = codec.decode(Kind.ROUND, event.payload)
            except WireError:
                return
            assert isinstance(asked, RoundAnnouncement)
            if asked.phase is Phase.COLLECTING and asked.task == "train" and asked.nonce not in self._answered:
                self._answered.add(asked.nonce)
                if cohort.draw(asked.nonce, self.name) < asked.cohort:
                    self.world.at(self.world.now + THINKS_S * self._draw.random(), lambda: self._answer(asked))
        elif isinstance(event, Connected):
            topic = TOPICS.topic(Address(Kind.DEVICE, device=self.name))
            self.world.at(self.world.now, lambda: self._say(topic, self._status(DeviceState.IDLE), retain=True))

    def _say(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        self._link.publish(topic, payload, retain=retain)

    def _answer(self, asked: RoundAnnouncement) -> None:
        join = Join(
            run=asked.run, round=asked.round, task=asked.task, nonce=asked.nonce, device=self.name, accepts=True
        )
        self._say(TOPICS.topic(Address(Kind.JOIN, number=asked.round, device=self.name)), codec.encode(join))
        match self.member.kind:
            case "wrong nonce":
                self._send(asked.model_copy(update={"nonce": f"{self._draw.getrandbits(64):016x}"}), self.name)
            case "other's name":
                self._send(asked, "dev-0" if self.name != "dev-0" else "dev-1")
            case "not finite":
                self._send(asked, self.name, spoilt=True)
            case "equivocating":
                self._send(asked, self.name)
                self._send(asked, self.name)
            case _:
                pass  # it said that it would, and never does

    def _send(self, asked: RoundAnnouncement, name: str, *, spoilt: bool = False) -> None:
        manifest = self.world.scenario.plan.manifest()
        values = np.random.default_rng(self._draw.getrandbits(64)).normal(size=manifest.size).astype(np.float32)
        payload = compression.encode("float32", Parameters(manifest, values), np.random.default_rng(0))
        if spoilt:  # the header of values that are not there
            body = np.full(manifest.size, np.nan, np.float32).tobytes()
            payload = compression.HEADER.pack(compression.MARK, compression.TABLE["float32"].ID, 0, len(body)) + body
        update = Update(
            round=asked.round,
            task="train",
            nonce=asked.nonce,
            device=name,
            model_version=asked.model_version,
            model_tag=asked.model_digest[:TAG],
            examples=self.member.examples,
            payload=payload,
        )
        blob = codec.encode_update(update)
        ref = describe(blob, 1024)
        for index in range(ref.parts):
            address = Address(Kind.UPDATE_PART, number=asked.round, device=self.name, part=index)
            self._say(TOPICS.topic(address), codec.encode_part(cut(blob, ref, index)))
