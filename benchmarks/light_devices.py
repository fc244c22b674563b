"""Devices that say on the wire what a real agent says, and spend next to nothing on it: a thousand fit one process.

A real agent takes about 13 ms of a core a round, and runs on a Pi of its own; a thousand of them on the machine of the
coordinator would be most of what is measured. These hold a real session each, subscribe to the same topics, fetch each
step, join, send the update in parts, wait for its receipt, and tell their status as often as ``edge.core.presence`` has
it. They look at no content: the model of version 0 is not fetched, and each sends the same delta.
"""

from __future__ import annotations

import argparse
import functools
import heapq
import os
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from crowd import Crowd
from paho.mqtt.client import MQTTMessage

from edge.core import presence
from edge.download import WINDOW
from schemas import codec
from schemas.link.address import BrokerAddress
from schemas.messages import (
    TAG,
    CoordinatorStatus,
    DeviceState,
    DeviceStatus,
    Join,
    Message,
    ModelPointer,
    Outcome,
    Phase,
    Receipt,
    RoundAnnouncement,
    RunSettings,
    Update,
)
from schemas.parts import cut, describe
from schemas.topics import RULES, Address, Kind, Topics

FOLLOWED: Final = (Kind.COORDINATOR, Kind.RUN, Kind.MODEL, Kind.ROUND)
EXAMPLES: Final = 100

_decode = functools.lru_cache(64)(codec.decode)  # what all are sent is read once


@dataclass(eq=False)
class LightDevice:
    """One session."""

    name: str
    crowd: Crowd
    topics: Topics
    delta: bytes
    run: RunSettings | None = None
    pointer: ModelPointer | None = None
    announced: RoundAnnouncement | None = None
    version: int = 0  # held
    missing: set[int] = field(default_factory=set)  # parts of the step that is being fetched
    answered: str = ""  # nonce
    state: DeviceState = DeviceState.IDLE
    last_round: int | None = None
    shown: DeviceStatus | None = None
    shown_at: float = 0.0

    def start(self) -> None:
        """Connect and subscribe."""
        self.client = self.crowd.add(self.name, self.hear)
        own = (self.topics.filter(kind, device=self.name) for kind in (Kind.RECEIPT, Kind.COMMAND))
        self.client.subscribe([(topic, 1) for topic in (*map(self.topics.filter, FOLLOWED), *own)])

    def hear(self, message: MQTTMessage) -> None:
        """Take a message and do what follows from it."""
        address = self.topics.parse(message.topic)
        assert address is not None
        if not message.payload:
            return
        if address.kind is Kind.DELTA_PART:
            self._fetched(address)
        else:
            self._take(_decode(address.kind, bytes(message.payload)))
        self._answer()
        self.show()

    def _take(self, message: Message) -> None:
        match message:
            case RunSettings():
                self.run = message
            case ModelPointer(version=version, step=step):
                self.pointer = message
                if step is None:
                    self.version = version
                else:
                    self.state = DeviceState.FETCHING
                    self.missing = set(range(step.parts))
                    self._subscribe(range(min(WINDOW, step.parts)))
            case RoundAnnouncement():
                self.announced = message
            case Receipt(outcome=Outcome.ACCEPTED | Outcome.DUPLICATE, round=number, come_back_after_s=0.0):
                self.state, self.last_round = DeviceState.IDLE, number
            case CoordinatorStatus():
                pass
            case _:
                raise SystemExit(f"{self.name}: {message}")

    def _subscribe(self, parts: range) -> None:
        assert self.pointer is not None
        addresses = (Address(Kind.DELTA_PART, number=self.pointer.version, part=part) for part in parts)
        if parts:
            self.client.subscribe([(self.topics.topic(address), 1) for address in addresses])

    def _fetched(self, address: Address) -> None:
        if self.pointer is None or address.number != self.pointer.version or address.part not in self.missing:
            return
        assert address.part is not None
        assert self.pointer.step is not None
        self.client.unsubscribe(self.topics.topic(address))
        self.missing.discard(address.part)
        following = address.part + WINDOW
        self._subscribe(range(following, min(following + 1, self.pointer.step.parts)))
        if not self.missing:
            self.version = self.pointer.version
            self.state = DeviceState.TRAINING

    def _answer(self) -> None:
        asked, run = self.announced, self.run
        if asked is None or run is None or asked.phase is not Phase.COLLECTING or asked.model_version != self.version:
            return
        if asked.nonce == self.answered:
            return
        self.answered = asked.nonce
        about = {"run": run.run, "round": asked.round, "task": asked.task, "nonce": asked.nonce, "device": self.name}
        self._publish(Kind.JOIN, codec.encode(Join(**about, accepts=True, examples=EXAMPLES)), asked.round)
        update = codec.encode_update(
            Update(
                **about,
                model_version=asked.model_version,
                model_tag=asked.model_digest[:TAG],
                examples=EXAMPLES,
                payload=self.delta,
                train_loss=1.0,
            )
        )
        ref = describe(update, run.part_size)
        for part in range(ref.parts):
            self._publish(Kind.UPDATE_PART, codec.encode_part(cut(update, ref, part)), asked.round, part)
        self.state = DeviceState.SENDING

    def show(self) -> None:
        """Tell the status where that is due."""
        now, at = self._status(), time.monotonic()
        due = self.shown_at + (0.0 if self.shown is None else presence.interval(now, self.shown))
        if at >= due:
            self.shown, self.shown_at = now, at
            self._publish(Kind.DEVICE, codec.encode(now))

    @property
    def show_at(self) -> float:
        """When ``show`` is to be called, if nothing else happens before."""
        now = self._status()
        return self.shown_at + (0.0 if self.shown is None else presence.interval(now, self.shown))

    def _status(self) -> DeviceStatus:
        about = self.state, self.version, self.last_round
        if self.shown is not None and about == (self.shown.state, self.shown.model_version, self.shown.last_round):
            return self.shown
        return DeviceStatus(
            device=self.name,
            session=1,
            state=self.state,
            examples=EXAMPLES,
            model_version=self.version,
            last_round=self.last_round,
        )

    def _publish(self, kind: Kind, payload: bytes, number: int | None = None, part: int | None = None) -> None:
        topic = self.topics.topic(Address(kind, number=number, device=self.name, part=part))
        self.client.publish(topic, payload, qos=RULES[kind].qos, retain=RULES[kind].retain)


def be_light_devices(broker: str, federation: str, devices: int, prefix: str, delta: Path) -> None:
    """A process of them, until standard input closes; says ``ready`` once all are connected."""
    address = BrokerAddress.parse(broker)
    crowd, payload = Crowd(address.host, address.port), delta.read_bytes()
    fleet = [LightDevice(f"{prefix}-{number:04}", crowd, Topics(federation), payload) for number in range(devices)]
    for device in fleet:
        device.start()
        crowd.turn(0.0)
    crowd.join()
    for device in fleet:
        device.show()
    print("ready", flush=True)
    ended: list[bool] = []
    crowd.watch(sys.stdin.fileno(), lambda: ended.append(not os.read(sys.stdin.fileno(), 1)))
    alarms = [(device.show_at, number) for number, device in enumerate(fleet)]
    heapq.heapify(alarms)
    while not any(ended):
        crowd.turn(0.1)
        while alarms[0][0] <= time.monotonic():
            device = fleet[alarms[0][1]]
            device.show()
            # Looked at again soon: what a device has to say may change before its alarm.
            heapq.heapreplace(alarms, (min(device.show_at, time.monotonic() + presence.STATUS_S), alarms[0][1]))


def main() -> None:
    """Play the devices that are asked for; ``fleet_scale.py`` starts these processes, and ends them."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="They play until standard input closes, and say `ready` once all are connected.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("broker", help="mqtt://HOST:PORT")
    parser.add_argument("federation")
    parser.add_argument("devices", type=int, help="how many")
    parser.add_argument("prefix", help="what their names begin with")
    parser.add_argument("delta", type=Path, help="a file with the encoded delta that each sends")
    given = parser.parse_args()
    be_light_devices(given.broker, given.federation, given.devices, given.prefix, given.delta)


if __name__ == "__main__":
    main()
