"""A coordinator by hand on a real broker: it offers one round of real training, and assembles what comes back."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from schemas import codec, compression, parts
from schemas.link.address import BrokerAddress
from schemas.link.link import Inbound
from schemas.link.mqtt import MqttLink, MqttSettings
from schemas.messages import (
    BlobRef,
    Command,
    CoordinatorState,
    CoordinatorStatus,
    DeviceStatus,
    Message,
    ModelPointer,
    Outcome,
    Phase,
    PlanRef,
    Receipt,
    RoundAnnouncement,
    RunSettings,
    TrainSettings,
)
from schemas.plan_file import PlanFile
from schemas.topics import Address, Kind, Topics
from tests.edge_scripts import nonce
from tests.link_bench import Ear
from tests.plan_examples import CLASSES, tiny, windows

TOPICS = Topics("home")
MODEL = PlanFile(tiny(), {}).initial(0)
MODEL_BLOB = compression.encode("float32", MODEL, np.random.default_rng(0))
PLAN_BLOB = tiny().to_bytes()
PART = 1024


def recordings(directory: Path) -> Path:
    """Sixty windows on disk."""
    drawn = windows(60)
    np.savez(directory / "windows.npz", x=drawn.inputs[0], y=drawn.labels, classes=np.array(CLASSES))
    return directory / "windows.npz"


class DeviceDesk:
    """Everything a device needs to take part in one training, retained on the broker."""

    def __init__(self, address: str, train: TrainSettings, run: str = "run-one") -> None:
        self.ear = Ear()
        self.run = self.settings(train, run)
        self._link = MqttLink(MqttSettings(BrokerAddress.parse(address), "desk"), self.ear)
        self._link.subscribe(TOPICS.filter(Kind.UPDATE_PART), TOPICS.filter(Kind.DEVICE), TOPICS.filter(Kind.JOIN))
        self._link.open()
        self.ear.until_connected()
        status = CoordinatorStatus(state=CoordinatorState.RUNNING, session=1, heartbeat_s=3600.0)
        self.say(Kind.COORDINATOR, status)
        self._blob(Kind.PLAN_PART, PLAN_BLOB, self.run.plan.blob)
        self.say(Kind.RUN, self.run)
        self.offer(0)

    @staticmethod
    def settings(train: TrainSettings, run: str = "run-one") -> RunSettings:
        """The run, whose rounds train by ``train``."""
        plan = PlanRef(name="tiny", blob=parts.describe(PLAN_BLOB, PART))
        return RunSettings(run=run, rounds=9, plan=plan, train=train, part_size=PART, codec="int8", seed=7)

    def offer(self, version: int) -> None:
        """The model, the same under every version."""
        blob = parts.describe(MODEL_BLOB, PART)
        self._blob(Kind.MODEL_PART, MODEL_BLOB, blob, version)
        previous = MODEL.digest() if version else None
        pointer = ModelPointer(run=self.run.run, version=version, digest=MODEL.digest(), previous=previous, blob=blob)
        self.say(Kind.MODEL, pointer)

    def announce(self, number: int = 1, phase: Phase = Phase.COLLECTING, remaining_s: float = 3600.0) -> None:
        """Ask for a training."""
        message = RoundAnnouncement(
            run=self.run.run,
            round=number,
            task="train",
            phase=phase,
            nonce=nonce(number),
            model_version=number - 1,
            model_digest=MODEL.digest(),
            opened="2026-01-01T00:00:00Z",
            deadline_s=3600.0,
            remaining_s=remaining_s,
            goal=1,
            quorum=1,
        )
        self.say(Kind.ROUND, message)

    def accept(self, device: str, number: int = 1) -> None:
        """A receipt for the update of a round."""
        about = {"run": self.run.run, "round": number, "task": "train", "nonce": nonce(number), "device": device}
        message = Receipt.model_validate({**about, "outcome": Outcome.ACCEPTED})
        topic = TOPICS.topic(Address(Kind.RECEIPT, number=number, device=device))
        self._link.publish(topic, codec.encode(message))

    def update(self, number: int = 1) -> bytes | None:
        """The blob of the round's update, once all its parts have come."""
        found: dict[int, bytes] = {}
        ref: BlobRef | None = None
        for inbound in self.ear.all(Inbound):
            address = TOPICS.parse(inbound.topic)
            if address is not None and address.kind is Kind.UPDATE_PART and address.number == number:
                part = codec.decode_part(inbound.payload)
                ref, found[part.index] = part.blob, part.payload
        if ref is None or len(found) < ref.parts:
            return None
        return b"".join(found[index] for index in sorted(found))

    def progress(self, device: str) -> float:
        """How far the device says that its training is, when it is asked."""
        command = TOPICS.topic(Address(Kind.COMMAND, device=device))
        self._link.publish(command, codec.encode(Command(command="query")))
        payloads = self.ear.payloads(TOPICS.topic(Address(Kind.DEVICE, device=device)))
        newest = codec.decode(Kind.DEVICE, payloads[-1]) if payloads else None
        return (newest.progress or 0.0) if isinstance(newest, DeviceStatus) else 0.0

    def say(self, kind: Kind, message: Message) -> None:
        """Publish a message of the coordinator's."""
        self._link.publish(TOPICS.topic(Address(kind)), codec.encode(message), retain=Address(kind).rule.retain)

    def close(self) -> None:
        """Leave."""
        self._link.close()

    def _blob(self, kind: Kind, blob: bytes, ref: BlobRef, number: int | None = None) -> None:
        for index in range(ref.parts):
            topic = TOPICS.topic(Address(kind, number=number, digest=ref.digest, part=index))
            self._link.publish(topic, codec.encode_part(parts.cut(blob, ref, index)), retain=True)
