"""What is told of rounds goes to every device, which pays for it: nothing is said twice, nor what is over at once."""

from __future__ import annotations

from collections import Counter
from functools import partial
from itertools import groupby
from pathlib import Path

import numpy as np
import pytest

from coordinator import observers as seen
from coordinator import pause, run_store
from coordinator.service import CoordinatorService
from schemas import codec
from schemas.link.address import BrokerAddress
from schemas.link.link import Inbound, Sink, Will
from schemas.link.mqtt import MqttLink, MqttSettings
from schemas.messages import Counts, Phase, PlanRef, RoundAnnouncement, Task
from schemas.parameters import Parameters
from schemas.parts import describe
from schemas.topics import Address, Kind
from tests import scripted_device
from tests.full_disks import Disk, full
from tests.link_bench import Ear
from tests.link_mosquitto import Mosquitto
from tests.scripted_device import Script, ScriptedDevice
from tests.test_performer import plan_of
from tests.test_service import TOPICS, Home, run_settings

CLASSES = 7  # of the plan that ``watch`` has
COUNTS = Counts(examples=CLASSES**2, loss_sum=31.4159265, confusion=((1,) * CLASSES,) * CLASSES)


def announced(home: Home, **settings: object) -> list[tuple[int, Task, Phase]]:
    """What three devices are told on ``rounds/current`` in a run, but for how many have joined and answered."""
    for number in range(3):
        home.device(f"dev-{number}", Script(held_out=2))
    ear = Ear()
    link = home.link("ear", ear, Will("ear", b""))
    link.subscribe(TOPICS.topic(Address(Kind.ROUND)))
    link.open()
    home.service(run_settings(**settings)).run()
    told = [codec.decode(Kind.ROUND, payload) for payload in ear.payloads()]
    link.close()
    messages = [one for one in told if isinstance(one, RoundAnnouncement)]
    return [phase for phase, _ in groupby((one.round, one.task, one.phase) for one in messages)]


def test_what_the_next_announcement_says_too_is_not_announced(tmp_path: Path) -> None:
    """A round that begins tells that the one before is over. Seen to fail with each phase announced: 5 a round."""
    rounds = announced(Home(tmp_path / "state"), rounds=3)
    assert [one for one in rounds if one[2] is not Phase.SELECTING] == [
        (1, "train", Phase.COLLECTING),
        (1, "evaluate", Phase.COLLECTING),
        (2, "train", Phase.COLLECTING),
        (2, "evaluate", Phase.COLLECTING),
        (3, "train", Phase.COLLECTING),
        (3, "evaluate", Phase.COLLECTING),
        (3, "evaluate", Phase.COMMITTED),
    ]


def test_who_still_trains_is_told_at_once_that_a_large_model_is_being_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What follows may be minutes away. Seen to fail without ``takes_long``."""
    monkeypatch.setattr(run_store, "LARGE", 0)
    rounds = announced(Home(tmp_path / "state"), rounds=2)
    tasks: list[tuple[int, Task]] = [(1, "train"), (1, "evaluate"), (2, "train"), (2, "evaluate")]
    phases = (Phase.COLLECTING, Phase.AGGREGATING)
    each = [(number, task, phase) for number, task in tasks for phase in phases]
    assert [one for one in rounds if one[2] is not Phase.SELECTING] == [*each, (2, "evaluate", Phase.COMMITTED)]


def test_who_still_trains_is_told_that_a_round_is_over_whose_model_the_disk_does_not_take(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be full for days. Seen to fail without ``announce`` in ``Reactor._hold_on``."""
    monkeypatch.setattr(pause, "RETRY_S", 0.001)
    settings = {"rounds": 1, "evaluate": False}
    with Disk() as to_count:
        announced(Home(tmp_path / "undisturbed"), **settings)
    commit = to_count.operations.index("sqlite UPDATE rounds SET")
    home = Home(tmp_path / "state")
    with Disk(commit, full, times=3):
        rounds = announced(home, **settings)
    assert home.watch.of(seen.Paused)
    assert [phase for _, _, phase in rounds if phase is not Phase.SELECTING] == [
        Phase.COLLECTING,
        Phase.AGGREGATING,
        Phase.COMMITTED,
    ]


def test_on_mosquitto_a_round_costs_each_device_two_kilobytes_of_what_is_said_of_it(
    tmp_path: Path, mosquitto: Mosquitto, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While no second passes, in which there would be news. It was 4.1 kB.

    Seen to fail with all metrics in the pointer, with each phase announced, and with defaults in what is said.
    """

    def link(name: str, sink: Sink, will: Will) -> MqttLink:
        return MqttLink(MqttSettings(BrokerAddress.parse(mosquitto.address), name), sink, will)

    monkeypatch.setattr(scripted_device, "counts_of", lambda _device, _held_out: COUNTS)
    plan, rounds = plan_of(CLASSES), 5
    settings = run_settings(rounds=rounds, plan=PlanRef(name="wide", blob=describe(plan.to_bytes(), 100_000)))
    model = Parameters(plan.manifest(), np.zeros(plan.manifest().size, np.float32))
    ear = Ear()
    follower = link("follower", ear, Will("follower", b""))
    for kind in (Kind.ROUND, Kind.MODEL, Kind.RUN, Kind.COORDINATOR):
        follower.subscribe(TOPICS.topic(Address(kind)))
    follower.subscribe(TOPICS.filter(Kind.RECEIPT, device="dev-0"))
    follower.open()
    ear.until_connected()
    script = Script(held_out=COUNTS.examples, part_size=100_000)
    devices = [ScriptedDevice(f"dev-{number}", TOPICS, plan.manifest(), link, script).start() for number in range(3)]
    coordinator = partial(link, "coordinator")
    CoordinatorService(coordinator, TOPICS, settings, plan, model, tmp_path / "state", clock=lambda: 1e6).run()
    status = TOPICS.topic(Address(Kind.COORDINATOR))
    ear.until(lambda: any(b'"finished"' in payload for payload in ear.payloads(status)), "the end of the run")
    follower.close()
    for device in devices:
        device.stop()
    size: Counter[Kind] = Counter()
    for message in ear.all(Inbound):
        address = TOPICS.parse(message.topic)
        assert address is not None
        size[address.kind] += len(message.payload)
    each = {kind: count / rounds for kind, count in size.items()}
    assert each[Kind.ROUND] <= 720, each
    assert each[Kind.MODEL] <= 730, each
    assert each[Kind.RECEIPT] <= 260, each
    assert sum(each.values()) <= 2000, each
