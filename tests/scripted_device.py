"""A device that answers a coordinator by a script instead of training: real messages, real bytes, no edge code."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from schemas import codec, cohort, compression
from schemas.errors import WireError
from schemas.link.link import Connected, Event, Inbound, Link, Sink, Will
from schemas.messages import (
    TAG,
    Counts,
    DeviceState,
    DeviceStatus,
    Join,
    Outcome,
    Phase,
    Receipt,
    RoundAnnouncement,
    Task,
    Update,
)
from schemas.parameters import Manifest, Parameters
from schemas.parts import cut, describe
from schemas.topics import Address, Kind, Topics

Factory = Callable[[str, Sink, Will], Link]


@dataclass(frozen=True, slots=True)
class Script:
    """How a device behaves."""

    examples: int = 10
    held_out: int = 0
    synthetic: bool | None = None  # whether it says that its people are made up
    declines: str = ""
    silent: bool = False  # takes part, and is never heard of again
    codec: str = "float32"
    spoil: Callable[[bytes], bytes] = bytes  # done to the encoded update before it is cut
    twice: bool = False  # sends every part two times, in reverse order
    part_size: int = 1024


def delta_of(device: str, number: int, manifest: Manifest) -> Parameters:
    """What a scripted device has learnt in a round: the same values wherever they are asked for."""
    seed = int.from_bytes(hashlib.sha256(f"{device}/{number}".encode()).digest()[:8], "big")
    return Parameters(manifest, np.random.default_rng(seed).normal(0, 0.1, manifest.size).astype(np.float32))


def counts_of(device: str, held_out: int) -> Counts:
    """What a scripted device counts: all right but one of each two classes."""
    wrong = len(device) % 2
    return Counts(examples=held_out, loss_sum=0.5 * held_out, confusion=((held_out - wrong, wrong), (0, 0)))


@dataclass(eq=False)
class ScriptedDevice:
    """One device on a link of its own; all happens on the link's thread."""

    name: str
    topics: Topics
    manifest: Manifest
    connect: Factory
    script: Script = Script()
    session: int = 1
    receipts: list[Receipt] = field(default_factory=list)
    asked: list[RoundAnnouncement] = field(default_factory=list)
    updates: dict[tuple[int, Task], Update] = field(default_factory=dict)
    answered: set[str] = field(default_factory=set)  # nonces

    def start(self) -> ScriptedDevice:
        """Connect, and take part from now on."""
        will = Will(self.topics.topic(Address(Kind.DEVICE, device=self.name)), self._status(DeviceState.OFFLINE))
        self.link = self.connect(self.name, self._on_event, will)
        self.link.subscribe(self.topics.filter(Kind.ROUND), self.topics.filter(Kind.RECEIPT, device=self.name))
        self.link.open()
        return self

    def stop(self) -> None:
        """Say goodbye."""
        topic = self.topics.topic(Address(Kind.DEVICE, device=self.name))
        self.link.close(Will(topic, self._status(DeviceState.STOPPED)))

    def outcomes(self, number: int, task: Task = "train") -> list[Outcome]:
        """The receipts for a round's task, in order."""
        return [receipt.outcome for receipt in self.receipts if (receipt.round, receipt.task) == (number, task)]

    def send(self, update: Update, indices: range | tuple[int, ...] | None = None) -> None:
        """Publish an update's parts, all or some."""
        blob = self.script.spoil(codec.encode_update(update))
        ref = describe(blob, self.script.part_size)
        order = list(range(ref.parts) if indices is None else indices)
        for index in order[::-1] * 2 if self.script.twice else order:
            address = Address(Kind.UPDATE_PART, number=update.round, device=self.name, part=index)
            self.link.publish(self.topics.topic(address), codec.encode_part(cut(blob, ref, index)), bulk=True)

    def _status(self, state: DeviceState) -> bytes:
        return codec.encode(
            DeviceStatus(
                device=self.name,
                session=self.session,
                state=state,
                examples=self.script.examples,
                held_out=self.script.held_out,
                synthetic=self.script.synthetic,
            )
        )

    def _on_event(self, event: Event) -> None:
        match event:
            case Connected():
                topic = self.topics.topic(Address(Kind.DEVICE, device=self.name))
                self.link.publish(topic, self._status(DeviceState.IDLE), retain=True)
            case Inbound(topic=topic, payload=payload, ack=ack):
                ack()
                address = self.topics.parse(topic)
                assert address is not None
                try:
                    message = codec.decode(address.kind, payload)
                except WireError:  # somebody else's rubbish
                    return
                if isinstance(message, Receipt):
                    self.receipts.append(message)
                elif isinstance(message, RoundAnnouncement):
                    self._answer(message)
            case _:
                pass

    def _answer(self, asked: RoundAnnouncement) -> None:
        if asked.phase is not Phase.COLLECTING or asked.nonce in self.answered:
            return
        wanted = self.script.held_out if asked.task == "evaluate" else self.script.examples
        if not wanted or cohort.draw(asked.nonce, self.name) >= asked.cohort:
            return
        self.answered.add(asked.nonce)
        self.asked.append(asked)
        self._join(asked)
        if self.script.declines or self.script.silent:
            return
        update = self.update(asked, wanted)
        self.updates[asked.round, asked.task] = update
        self.send(update)

    def _join(self, asked: RoundAnnouncement) -> None:
        join = Join(
            run=asked.run,
            round=asked.round,
            task=asked.task,
            nonce=asked.nonce,
            device=self.name,
            accepts=not self.script.declines,
            reason=self.script.declines,
        )
        address = Address(Kind.JOIN, number=asked.round, device=self.name)
        self.link.publish(self.topics.topic(address), codec.encode(join))

    def update(self, asked: RoundAnnouncement, examples: int) -> Update:
        """The answer to an announcement."""
        training = Update(
            round=asked.round,
            task="train",
            nonce=asked.nonce,
            device=self.name,
            model_version=asked.model_version,
            model_tag=asked.model_digest[:TAG],
            examples=examples,
            payload=compression.encode(
                self.script.codec, delta_of(self.name, asked.round, self.manifest), np.random.default_rng(asked.round)
            ),
            train_loss=1.0 / asked.round,
        )
        if asked.task == "train":
            return training
        counts = counts_of(self.name, examples)
        return training.model_copy(update={"task": "evaluate", "payload": b"", "counts": counts, "train_loss": None})
