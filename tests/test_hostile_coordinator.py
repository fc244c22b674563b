"""A real coordinator among liars: floods of mutated messages on every topic, and updates that are not what they say.

What must hold each time is that the run ends as if they had not been there, to the last bit of its model.
"""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import pytest

from coordinator import observers as seen
from coordinator.journal import Journal
from schemas import codec
from schemas.errors import Reject
from schemas.link.filters import matches
from schemas.messages import DeviceState, DeviceStatus, Join, Outcome, RoundAnnouncement
from schemas.parts import cut, describe
from schemas.topics import Address, Kind
from tests.hostile.chance import draw
from tests.hostile.flood import READ, flood, is_bad
from tests.running_coordinator import RunningCoordinator
from tests.scripted_device import Script, ScriptedDevice
from tests.test_service import TOPICS

ROUNDS = 3


def finished(directory: Path, messages: int, seed: str = "") -> tuple[RunningCoordinator, str, int]:
    """A run of three devices to its end, with so many hostile messages before, in and between its rounds.

    With its model's digest, and how many messages could be nothing but rejections.
    """
    running = RunningCoordinator(directory / "state", rounds=ROUNDS, evaluate=False)
    rng, bad = draw("coordinator", seed), 0
    filters = [TOPICS.filter(kind) for kind in READ]
    devices = [running.device(f"dev-{number}", start=False) for number in range(3)]

    def throw() -> None:
        nonlocal bad
        for topic, payload, retain in flood(rng, messages):
            running.say(topic, payload, retain=retain)
            read = any(matches(one, TOPICS.prefix + topic) for one in filters)
            bad += read and is_bad(topic, payload)
        running.handled()

    with running:
        throw()
        for device in devices:
            device.start()
        for number in range(1, ROUNDS + 1):
            asked = running.opened(number)
            throw()
            for device in devices[:-1]:
                device.send(device.update(asked, 10))
            running.handled()
            throw()
            devices[-1].send(devices[-1].update(asked, 10))
        return running, running.result().digest, bad


def test_invariant_13_a_flood_of_mutated_messages_on_every_topic_changes_no_bit_of_the_model(tmp_path: Path) -> None:
    """Before, in and between the rounds, retained or not.

    Seen to fail with ``except ValueError`` instead of ``WireError`` in ``Inbox.receive``, with ``Heading`` unchecked
    in ``codec``, and with ``_status`` taking any device's name.
    """
    _, expected, _ = finished(tmp_path / "quiet", 0)
    running, digest, bad = finished(tmp_path / "loud", 150)
    assert digest == expected
    reasons = Counter(one.reason for one in running.of(seen.MessageRejected))
    assert {Reject.MALFORMED, Reject.UNEXPECTED, Reject.WRONG_SENDER, Reject.WRONG_RUN} <= reasons.keys()
    assert reasons.total() >= bad > 300  # what is well formed is mostly refused too, for what it says
    with Journal(running.directory / "journal.db") as journal:
        counted = journal.rejections("run-1")
    assert counted.keys() <= set(Reject)
    assert sum(counted.values()) >= bad
