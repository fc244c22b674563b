"""A real coordinator and real devices on mosquitto, with a bad network between a device and its broker."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from coordinator.service import CoordinatorService, RunResult
from edge.core.jobs import Describe, Described, Failure, Job, Result, Train, Trained
from edge.download import WINDOW
from edge.fleet import Fleet, VirtualFleet
from schemas import compression
from schemas.link.address import BrokerAddress
from schemas.link.link import Link, Sink, Will
from schemas.link.mqtt import MqttLink
from schemas.link.mqtt_settings import MqttSettings
from schemas.messages import DeviceState, DeviceStatus, PlanRef, RoundSummary, RunSettings
from schemas.parameters import Parameters
from schemas.parts import describe
from schemas.plan import Plan
from schemas.topics import Kind
from tests.chaos.spy import TOPICS, Heard, Spy
from tests.link_mosquitto import Mosquitto
from tests.link_proxy import Proxy, Way
from tests.waiting import until

LIMIT_S = 60.0
PART = 64 * 1024
WIDTH = 2**19  # which makes 4 MB of parameters
PLAN = Plan.build(
    name="wide",
    data="windows",
    inputs=({"name": "x", "shape": (WIDTH,)},),
    classes=("calm", "brisk"),
    report=("calm", "brisk"),
    parameters=({"name": "weight", "shape": (2, WIDTH), "init": {"kind": "constant", "value": 0.0}},),
    operations=(
        {"out": "logits", "op": "linear", "args": ("%x", "%weight")},
        {"out": "loss", "op": "cross_entropy_loss", "args": ("%logits", "%labels", "%class_weights")},
    ),
    loss="loss",
    logits="logits",
)
NOISE = np.random.default_rng(0).normal(0, 0.1, PLAN.manifest().size).astype(np.float32)  # nothing to compress
MODEL = Parameters(PLAN.manifest(), NOISE)
SIZE = len(compression.encode("float32", MODEL, np.random.default_rng(0)))  # bytes of the model, and of an update


class Learnt:
    """A trainer that has always learnt the same noise, at once."""

    def submit(self, job: Job, on_result: Callable[[Result | Failure], None]) -> None:
        on_result(self._answer(job))

    def cancel(self, key: str) -> None:
        """Every answer has already been given."""

    def suspend(self, key: str) -> None:
        """No training takes any time."""

    def warm(self) -> None:
        """It always is."""

    def _answer(self, job: Job) -> Result:
        if isinstance(job, Describe):
            return Described(key=job.key, examples=10, held_out=0, class_counts={})
        assert isinstance(job, Train)
        delta = compression.encode(job.codec, MODEL, np.random.default_rng(job.seed))
        return Trained(key=job.key, payload=delta, examples=10, train_loss=0.5, seconds=0)


@dataclass(frozen=True, slots=True)
class Room:
    """One federation: every device goes through ``proxies``, by its index, where it has one."""

    home: Path
    broker: Mosquitto
    proxies: dict[int, Proxy]
    keepalive_s: int = 30
    heartbeat_s: float = 30.0

    def link(self, name: str, sink: Sink, will: Will) -> Link:
        index = int(name.rsplit("-", 1)[1]) if name.startswith("virtual") else -1
        port = self.proxies[index].port if index in self.proxies else self.broker.port
        settings = MqttSettings(BrokerAddress.parse(f"mqtt://127.0.0.1:{port}"), name, keepalive_s=self.keepalive_s)
        return MqttLink(settings, sink, will)

    def devices(self, count: int = 1) -> VirtualFleet:
        """Devices, to be entered; again with the disks they had, where there were some."""
        fleet = Fleet(count, "none", self.home / "fleet", held_out="none", heartbeat_s=self.heartbeat_s)
        return VirtualFleet(fleet, TOPICS, self.link, Learnt())

    @contextmanager
    def coordinator(self, *, endless: bool = False, **settings: object) -> Iterator[list[RunResult]]:
        """A coordinator of one round on a thread; its result stands in the list after the block.

        An ``endless`` one is stopped there, whatever round it is at.
        """
        about = {"run": "run-one", "rounds": 1, "part_size": PART, "evaluate": False, "deadline_s": LIMIT_S}
        about["plan"] = PlanRef(name="wide", blob=describe(PLAN.to_bytes(), PART))
        run = RunSettings.model_validate({**about, **settings})
        service = CoordinatorService(
            lambda sink, will: self.link("coordinator", sink, will), TOPICS, run, PLAN, MODEL, self.home / "coordinator"
        )
        results: list[RunResult] = []
        thread = threading.Thread(target=lambda: results.append(service.run()))
        thread.start()
        try:
            yield results
            thread.join(0.0 if endless else LIMIT_S)
        finally:
            service.stop()
            thread.join(LIMIT_S)


@pytest.fixture
def proxy(mosquitto: Mosquitto) -> Iterator[Proxy]:
    line = Proxy(mosquitto.port)
    yield line
    line.close()


def summary(spy: Spy) -> RoundSummary:
    heard = spy.until(ended, "how the round ended")
    assert isinstance(heard.message, RoundSummary)
    return heard.message


@pytest.mark.parametrize("restarted", [False, True])
def test_an_update_cut_at_three_quarters_sends_little_more_than_the_last_quarter_again(
    mosquitto: Mosquitto, proxy: Proxy, tmp_path: Path, *, restarted: bool
) -> None:
    """Also where the device was started anew in between.

    Seen to fail with all parts sent again at a reconnect, and with a receipt that does not name the missing parts.
    """
    proxy.cut_after("up", 3 * SIZE // 4)
    with Spy(mosquitto.port) as spy:
        room = Room(tmp_path, mosquitto, {0: proxy})
        with room.coordinator(codec="float32"):
            with room.devices():
                until(lambda: proxy.barred, "the cut")
                after = 0 if restarted else mended(proxy, spy, "up", ended)
            if restarted:
                with room.devices():
                    after = mended(proxy, spy, "up", ended)
        assert summary(spy).outcome == "committed"
    assert 0.2 * SIZE < after < 0.4 * SIZE, f"{after / SIZE:.0%} of the update went over the line after the cut"


@pytest.mark.parametrize("cut", [0.25, 0.75])
def test_a_download_that_is_cut_goes_on_where_it_was(
    mosquitto: Mosquitto, proxy: Proxy, tmp_path: Path, cut: float
) -> None:
    """What is still subscribed to comes again: the window of parts, and half a one of those that have come already.

    Seen to fail with the parts that had come thrown away at a reconnect.
    """
    proxy.cut_after("down", int(cut * SIZE))
    with Spy(mosquitto.port) as spy:
        room = Room(tmp_path, mosquitto, {0: proxy})
        with room.coordinator(codec="int8"), room.devices():
            until(lambda: proxy.barred, "the cut")
            after = mended(proxy, spy, "down", lambda heard: is_part_of(heard, "virtual-000"))
        assert summary(spy).outcome == "committed"
    rest = (1 - cut) * SIZE
    assert rest - PART < after < rest + (1.5 * WINDOW + 1) * PART, f"{after / SIZE:.0%} came after a cut at {cut:.0%}"


def test_a_device_behind_a_dead_line_is_gone_within_two_and_a_half_keepalives_and_holds_no_round_up(
    mosquitto: Mosquitto, tmp_path: Path
) -> None:
    """Its connection stays open and silent, in the middle of an upload. Both ends find out, each by itself.

    This bound is the product's own, so it is asserted. The coordinator goes by heartbeats; the broker's will comes some
    seconds later, since mosquitto looks for silent clients every 5 s.

    Seen to fail with a device that is never gone for want of heartbeats, and a link that waits for ever.
    """
    keepalive_s = 4
    slow = Proxy(mosquitto.port, SIZE / 8)
    with Spy(mosquitto.port) as spy:
        room = Room(tmp_path, mosquitto, {0: slow}, keepalive_s=keepalive_s, heartbeat_s=1.0)
        with room.coordinator(codec="int8", quorum=1, goal=2), room.devices(2) as fleet:
            spy.until(lambda heard: is_part_of(heard, "virtual-000"), "the first part of its update")
            slow.freeze()
            frozen = time.monotonic()
            closed = summary(spy)
            closed_at = time.monotonic()
            until(lambda: not fleet.agents[0].connected, "the device to notice")
            noticed_at = time.monotonic()
            spy.until(lambda heard: says(heard, "virtual-000", DeviceState.OFFLINE), "its will")
        slow.close()
    assert (closed.outcome, closed.devices) == ("committed", ("virtual-001",))
    assert closed_at - frozen < 2.5 * keepalive_s
    assert noticed_at - frozen < 2.5 * keepalive_s


def test_heartbeats_keep_coming_while_an_update_crawls_over_a_slow_line(mosquitto: Mosquitto, tmp_path: Path) -> None:
    """Seen to fail with the parts of an update published like everything else."""
    slow = Proxy(mosquitto.port, SIZE / 16, latency_s=0.05)
    with Spy(mosquitto.port) as spy:
        room = Room(tmp_path, mosquitto, {0: slow}, heartbeat_s=0.5)
        with room.coordinator(codec="int8"), room.devices():
            closed = summary(spy)
    slow.close()
    parts = [number for number, heard in enumerate(spy.heard) if is_part_of(heard, "virtual-000")]
    between = spy.heard[parts[0] : parts[-1]]
    statuses = [heard for heard in between if says(heard, "virtual-000", DeviceState.SENDING)]
    assert closed.outcome == "committed"
    assert len(parts) > 10
    assert len(statuses) >= 2  # 3 or 4, the last one just before the last part; none where they wait for all of them


def test_large_updates_over_slow_lines_come_side_by_side(
    mosquitto: Mosquitto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though only one is asked for at a time where lines are quick. Before the first has come all are under way.

    Seen to fail with an update that counts as under way until it has come: then they take turns.
    """
    monkeypatch.setattr("schemas.parts.LARGE", SIZE // 2)
    monkeypatch.setattr("coordinator.inbox.WINDOW", SIZE)
    monkeypatch.setattr("coordinator.inbox.WINDOW_S", 0.2)
    lines = {index: Proxy(mosquitto.port, SIZE / 2) for index in range(3)}
    with Spy(mosquitto.port) as spy:
        room = Room(tmp_path, mosquitto, lines)
        with room.coordinator(codec="float32"), room.devices(len(lines)):
            closed = summary(spy)
    for line in lines.values():
        line.close()
    names = [f"virtual-{index:03d}" for index in lines]
    sent = [[at for at, heard in enumerate(spy.heard) if is_part_of(heard, name)] for name in names]
    assert closed.devices == tuple(names)
    assert max(places[1] for places in sent) < min(places[-1] for places in sent)


def test_must_14_a_device_whose_uploads_never_meet_the_deadline_declines_and_the_round_goes_on_without_it(
    mosquitto: Mosquitto, tmp_path: Path
) -> None:
    """Seen to fail with a device that knows how long it trains alone: it accepted each round, and held each up."""
    slow = Proxy(mosquitto.port, SIZE / 24)  # a quarter of which is an update
    with Spy(mosquitto.port) as spy:
        room = Room(tmp_path, mosquitto, {0: slow})
        about = {"codec": "int8", "downlink": "none", "quorum": 1, "deadline_s": 3.0, "rounds": 10_000}
        with room.coordinator(endless=True, **about), room.devices(3):
            closed = spy.until(declined("virtual-000", "to upload its update"), "a round without it").message
    slow.close()
    assert isinstance(closed, RoundSummary)
    assert closed.outcome == "committed"
    assert "virtual-000" not in closed.devices


def mended(proxy: Proxy, spy: Spy, way: Way, done: Callable[[Heard], bool]) -> int:
    """The bytes that went one way from here until something was heard: the next model's would count too."""
    before = proxy.carried[way]
    proxy.mend()
    spy.until(done, "what the bytes were for")
    return proxy.carried[way] - before


def ended(heard: Heard) -> bool:
    return isinstance(heard.message, RoundSummary)


def declined(device: str, words: str) -> Callable[[Heard], bool]:
    def look(heard: Heard) -> bool:
        return isinstance(heard.message, RoundSummary) and words in heard.message.declined.get(device, "")

    return look


def is_part_of(heard: Heard, device: str) -> bool:
    address = heard.address
    return address is not None and (address.kind, address.device) == (Kind.UPDATE_PART, device)


def says(heard: Heard, device: str, state: DeviceState) -> bool:
    status = heard.message
    return isinstance(status, DeviceStatus) and (status.device, status.state) == (device, state)
