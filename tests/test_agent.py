from __future__ import annotations

import json
import logging
import random
import subprocess
import sys
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge.agent import UNSAID, Agent, Happening
from edge.core import presence
from edge.core.jobs import Failure, Job, Result, Train
from edge.core.personal_settings import PersonalSettings
from edge.dataspec import DataSpec
from edge.device import Device
from edge.store import Store
from schemas import codec, parts
from schemas.errors import BrokerRefused, Reject, SettingsError, StateError
from schemas.findings import Findings
from schemas.link.link import Connected, Disconnected, Event, Inbound, Link, Sink, Will
from schemas.link.memory import Faults, MemoryBroker, MemoryLink
from schemas.messages import (
    BlobRef,
    Command,
    CoordinatorState,
    DeviceState,
    DeviceStatus,
    Health,
    Join,
    Message,
    ModelPointer,
    Outcome,
    Phase,
    RoundAnnouncement,
)
from schemas.topics import Address, Kind, Topics
from tests.edge_scripts import (
    DEVICE,
    PLAN,
    PLAN_REF,
    RUN,
    InstantTrainer,
    announcement,
    coordinator,
    model_blob,
    pointer,
    receipt,
    run,
)
from tests.full_disks import largest_file

TOPICS = Topics("home")


@dataclass
class Desk:
    """A scripted coordinator: publishes what it is told, and keeps what devices send."""

    broker: MemoryBroker
    joins: list[Join] = field(default_factory=list)
    statuses: list[DeviceStatus] = field(default_factory=list)
    updates: dict[int, bytes] = field(default_factory=dict)  # the newest update's parts, as they came
    parts_seen: list[tuple[int, BlobRef]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.link = MemoryLink(self.broker, "coordinator", self.hear)
        for kind in (Kind.JOIN, Kind.UPDATE_PART, Kind.DEVICE):
            self.link.subscribe(TOPICS.filter(kind))
        self.link.open()

    def hear(self, event: Event) -> None:
        if not isinstance(event, Inbound):
            return
        address = TOPICS.parse(event.topic)
        assert address is not None
        if address.kind is Kind.UPDATE_PART:
            part = codec.decode_part(event.payload)
            self.updates[part.index] = part.payload
            self.parts_seen.append((part.index, part.blob))
            return
        message = codec.decode(address.kind, event.payload)
        if isinstance(message, Join):
            self.joins.append(message)
        elif isinstance(message, DeviceStatus):
            self.statuses.append(message)

    def say(self, kind: Kind, message: Message, number: int | None = None) -> None:
        topic = TOPICS.topic(Address(kind, number=number, device=DEVICE))
        self.link.publish(topic, codec.encode(message), retain=Address(kind).rule.retain)

    def blob(self, kind: Kind, blob: bytes, ref: BlobRef, number: int | None = None) -> None:
        for index in range(ref.parts):
            topic = TOPICS.topic(Address(kind, number=number, digest=ref.digest, part=index))
            self.link.publish(topic, codec.encode_part(parts.cut(blob, ref, index)), retain=True)

    def offer(self, version: int, name: str = RUN, size: int = 3000) -> ModelPointer:
        newest = pointer(version, name, size)
        self.blob(Kind.MODEL_PART, model_blob(version, name, size), newest.blob, version)
        self.say(Kind.MODEL, newest)
        return newest

    def begin(self, name: str = RUN) -> None:
        self.say(Kind.COORDINATOR, coordinator())
        self.blob(Kind.PLAN_PART, PLAN, PLAN_REF)
        self.say(Kind.RUN, run(name))
        self.offer(0, name)

    def announce(self, message: RoundAnnouncement) -> RoundAnnouncement:
        self.say(Kind.ROUND, message)
        return message

    @property
    def update(self) -> bytes:
        return b"".join(self.updates[index] for index in sorted(self.updates))


@dataclass
class World:
    """One broker, one desk, and a device that can be killed and started again on the same disk."""

    state: Path
    broker: MemoryBroker = field(default_factory=MemoryBroker)
    trainer: InstantTrainer = field(default_factory=InstantTrainer)
    now: float = 0.0
    session: int = 0
    health: Callable[[], Health] = Health
    personal: PersonalSettings | None = None
    budget: int | None = None  # bytes a day

    def __post_init__(self) -> None:
        self.desk = Desk(self.broker)
        self.posted: deque[tuple[Agent, Happening]] = deque()
        self.agent = self.device()

    def link(self, client_id: str, sink: Sink, will: Will) -> Link:
        return MemoryLink(self.broker, client_id, sink, will)

    def device(self) -> Agent:
        """Start it; one that ran before is as good as dead, since nobody hands it events any more."""
        self.session += 1
        self.posted.clear()
        data = DataSpec(path="watch", held_out="0.2")
        device = Device(
            DEVICE,
            self.session,
            data,
            self.state / "device",
            software="fedbeat 0",
            personal=self.personal,
            budget=self.budget,
        )
        self.agent = Agent(
            device,
            TOPICS,
            self.link,
            self.trainer,
            lambda agent, what: self.posted.append((agent, what)),
            self.health,
        )
        self.agent.start()
        self.turn()
        return self.agent

    def crash(self) -> Agent:
        """A power cut: the broker notices, the disk keeps, all else is gone."""
        self.broker.cut(DEVICE)
        return self.device()

    def turn(self, seconds: float = 0.0) -> None:
        """Time passes, and what was posted is handled until nothing is left."""
        self.now += seconds
        self.broker.advance(seconds)
        self.agent.tick(self.now)
        while self.posted:
            agent, happening = self.posted.popleft()
            if agent is self.agent:
                agent.handle(happening, self.now)

    def training(self, number: int = 1) -> RoundAnnouncement:
        message = self.desk.announce(announcement(number))
        self.turn()
        return message


@pytest.fixture
def world(tmp_path: Path) -> World:
    world = World(tmp_path)
    world.desk.begin()
    world.turn()
    return world


def test_must_10_birth_and_will_carry_the_same_session(world: World) -> None:
    assert world.desk.statuses[0].session == 1
    world.broker.cut(DEVICE)
    assert (world.desk.statuses[-1].state, world.desk.statuses[-1].session) == (DeviceState.OFFLINE, 1)
    assert world.desk.statuses[-1].detail == ""  # not what held when it was started


def test_a_last_will_tells_nothing_that_held_when_the_device_was_started(world: World) -> None:
    """What is left of the budget least of all: a device that has spent it would be shown as one that has all of it."""
    world.training()
    world.budget = 10**6
    world.crash()
    world.turn(60)
    assert world.desk.statuses[-1].budget_left is not None
    assert world.desk.statuses[-1].model_version == 0
    world.broker.cut(DEVICE)
    gone = world.desk.statuses[-1]
    assert gone.state is DeviceState.OFFLINE
    assert (gone.budget_left, gone.model_version, gone.last_round) == (None, None, None)


def test_a_round_over_the_wire_with_real_bytes(world: World) -> None:
    message = world.training()
    assert [(join.accepts, join.examples) for join in world.desk.joins] == [(True, 100)]
    update = codec.decode_update(world.desk.update)
    (job,) = world.trainer.trainings()
    assert (job.plan, job.model) == (PLAN, model_blob(0))
    assert (update.device, update.nonce, update.payload) == (DEVICE, message.nonce, world.trainer.payload(job))
    assert len(world.desk.updates) > 1  # it takes several parts
    world.desk.say(Kind.RECEIPT, receipt(message), 1)
    world.turn()
    world.turn(presence.ACTIVITY_S)
    assert (world.desk.statuses[-1].state, world.desk.statuses[-1].last_round) == (DeviceState.IDLE, 1)


def test_a_late_joiner_gets_the_newest_model_with_the_coordinator_switched_off(world: World) -> None:
    world.desk.offer(1)
    world.desk.say(Kind.COORDINATOR, coordinator(state=CoordinatorState.OFFLINE))
    world.desk.link.close()
    late = World(world.state / "late", world.broker)
    late.turn()
    assert late.agent.status.model_version == 1


def test_must_08_parts_are_pulled_a_few_at_a_time(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    open_now: set[str] = set()
    widest = 0
    subscribe, unsubscribe = MemoryLink.subscribe, MemoryLink.unsubscribe

    def more(link: MemoryLink, *filters: str) -> None:
        nonlocal widest
        open_now.update(topic for topic in filters if "/model/" in topic)
        widest = max(widest, len(open_now))
        subscribe(link, *filters)

    def fewer(link: MemoryLink, *filters: str) -> None:
        open_now.difference_update(filters)
        unsubscribe(link, *filters)

    monkeypatch.setattr(MemoryLink, "subscribe", more)
    monkeypatch.setattr(MemoryLink, "unsubscribe", fewer)
    world.desk.offer(1, size=100_000)
    world.turn()
    assert world.agent.status.model_version == 1
    assert (8 <= widest <= 12, open_now) == (True, set())


def test_must_05_a_model_whose_parts_do_not_add_up_is_not_used(world: World) -> None:
    wrong = pointer(1)
    world.desk.blob(Kind.MODEL_PART, model_blob(2), parts.describe(model_blob(2), 1024), 1)
    world.desk.say(Kind.MODEL, wrong)
    world.turn()
    assert world.agent.status.model_version == 0
    assert world.agent.rejected[Reject.WRONG_DIGEST] > 0
    world.desk.offer(1)
    world.turn(6.0)
    assert world.agent.status.model_version == 1


def test_parts_nobody_asked_for_are_dropped_unread(world: World) -> None:
    for topic in ("plan/" + "a" * 64 + "/0", "model/7/0", "model/0/1", "model/3/delta/0"):
        world.desk.link.publish(TOPICS.prefix + topic, b"\xff" * 10, retain=True)
    world.turn()
    assert not world.agent.rejected


def test_must_16_invariant_08_after_a_power_cut_the_same_bytes_go_again_without_training(world: World) -> None:
    world.training()
    before = world.desk.update
    world.desk.updates.clear()
    world.crash()
    assert set(world.desk.updates) == {0}
    everything = tuple(range(world.desk.parts_seen[0][1].parts))
    world.desk.say(Kind.RECEIPT, receipt(announcement(1), Outcome.INCOMPLETE, missing=everything), 1)
    world.turn()
    assert world.desk.update == before
    assert len(world.trainer.trainings()) == 1


def test_must_16_after_a_receipt_and_a_power_cut_the_round_is_not_trained_again(world: World) -> None:
    world.desk.say(Kind.RECEIPT, receipt(world.training()), 1)
    world.turn()
    world.crash()
    assert len(world.trainer.trainings()) == 1
    assert world.agent.status.last_round == 1


def test_a_power_cut_while_training_trains_again_from_the_same_seed(world: World) -> None:
    world.trainer.hold = True
    world.training()
    world.trainer.hold = False
    world.crash()
    first, second = world.trainer.trainings()
    assert first == second
    assert world.desk.updates


def test_must_15_invariant_07_after_a_restart_no_older_model_is_taken(world: World) -> None:
    world.desk.offer(5)
    world.turn()
    world.desk.offer(4)
    world.crash()
    assert world.agent.status.model_version == 5


def test_a_damaged_model_on_disk_is_fetched_again(world: World) -> None:
    path = world.state / "device" / "model"
    path.write_bytes(path.read_bytes()[:-5])
    world.crash()
    assert world.agent.status.model_version == 0
    assert path.with_name("model.damaged").exists()


@pytest.mark.parametrize("name", ["plan", "model"])
def test_a_file_that_is_damaged_while_the_device_runs_is_fetched_again_for_the_same_round(
    world: World, name: str
) -> None:
    """Seen to fail with a round declined for it: the plan was then never fetched again, and so every round was."""
    path = world.state / "device" / name
    path.write_bytes(path.read_bytes()[:-5])
    world.training()
    assert path.with_name(f"{name}.damaged").exists()
    assert [join.accepts for join in world.desk.joins] == [True]
    assert len(world.trainer.trainings()) == 1
    assert world.desk.update


def test_a_disk_that_damages_whatever_it_is_given_declines_the_round(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It does not fetch for ever."""
    monkeypatch.setattr(Store, "plan", lambda _self, _digest: None)
    world.training()
    assert [join.accepts for join in world.desk.joins] == [True, False]
    assert "damaged" in world.desk.joins[-1].reason
    assert not world.trainer.trainings()


def test_must_26_a_lost_update_is_probed_for_and_completed(world: World) -> None:
    world.training()
    world.desk.updates.clear()
    world.turn(30.0)
    assert set(world.desk.updates) == {0}


def test_a_reconnect_publishes_the_birth_again(world: World) -> None:
    world.broker.cut(DEVICE)
    before = len(world.desk.statuses)
    world.turn(300.0)
    assert [status.state for status in world.desk.statuses[before:]][:1] == [DeviceState.IDLE]


def test_a_graceful_stop_says_stopped_and_leaves_no_will(world: World) -> None:
    world.agent.stop()
    assert [status.state for status in world.desk.statuses][-1] is DeviceState.STOPPED


def test_a_query_is_answered_with_fresh_health(tmp_path: Path) -> None:
    world = World(tmp_path)
    before = len(world.desk.statuses)
    world.desk.say(Kind.COMMAND, Command(command="query"))
    world.turn()
    assert len(world.desk.statuses) == before + 1
    assert world.desk.statuses[-1].health is not None


def test_findings_wait_for_the_broker_the_newest_of_them_and_are_no_part_of_a_round(world: World) -> None:
    """Seen to fail where they are given to a link that isn't connected, and without a bound."""
    said: list[bytes] = []

    def hear(event: Event) -> None:
        if isinstance(event, Inbound):
            said.append(event.payload)

    listener = MemoryLink(world.broker, "listener", hear)
    listener.subscribe(TOPICS.filter(Kind.FINDINGS))
    listener.open()
    found = Findings(
        device=DEVICE, began="", ended="", signal_s=60, quality=1, beats={"N": 70}, run=RUN, model_version=1
    )
    state = world.agent._state
    world.agent.handle(found, 1.0)
    assert said == [codec.encode(found)]
    assert world.agent._state == state
    world.agent.handle(Disconnected(), 2.0)
    for number in range(UNSAID + 3):
        world.agent.handle(found.model_copy(update={"signal_s": float(number)}), 3.0)
    assert len(said) == 1
    world.agent.handle(Connected(), 4.0)
    assert [json.loads(payload)["signal_s"] for payload in said[1:]] == list(range(3, UNSAID + 3))


def test_invariant_11_a_full_disk_declines_the_round_and_says_so(world: World) -> None:
    world.trainer.payload = lambda _: bytes(50_000)
    with largest_file(20_000):
        world.training()
    assert [join.accepts for join in world.desk.joins] == [True, False]
    assert "free some space" in world.desk.joins[-1].reason
    states = [world.desk.statuses[-1].state]
    world.turn(61.0)
    states.append(world.desk.statuses[-1].state)
    assert states == [DeviceState.TROUBLE, DeviceState.IDLE]


def test_parts_fit_the_brokers_limit(tmp_path: Path) -> None:
    broker = MemoryBroker(limit=2048)
    world = World(tmp_path, broker)
    world.desk.begin()
    world.desk.say(Kind.RUN, run(part_size=4096))
    world.training()
    assert codec.decode_update(world.desk.update).device == DEVICE


def test_a_malformed_plan_is_trouble_that_says_what_to_do(tmp_path: Path) -> None:
    world = World(tmp_path)
    ref = parts.describe(b"[1, 2]", 1024)
    world.desk.blob(Kind.PLAN_PART, b"[1, 2]", ref)
    world.desk.say(Kind.COORDINATOR, coordinator())
    world.desk.say(Kind.RUN, run(plan=ref))
    world.turn()
    assert (world.agent.status.state, "export" in world.agent.status.detail) == (DeviceState.TROUBLE, True)


def test_must_06_a_plan_of_absurd_size_is_refused(world: World) -> None:
    world.desk.say(Kind.RUN, run("run-two", plan=BlobRef(digest="a" * 64, size=2**30, parts=2**10)))
    world.turn()
    assert world.agent.status.state is DeviceState.TROUBLE


def test_a_broker_that_will_never_take_us_is_fatal(world: World) -> None:
    error = BrokerRefused("bad password")
    world.agent.handle(Disconnected(error, fatal=True), 0.0)
    assert world.agent.fatal is error


def test_a_name_that_cannot_stand_in_a_topic_is_refused(tmp_path: Path) -> None:
    device = Device("Kitchen Pi", 1, DataSpec(path="x"), tmp_path)
    with pytest.raises(SettingsError, match="Kitchen Pi"):
        Agent(device, TOPICS, MemoryLink, InstantTrainer(), print)  # type: ignore[arg-type]  # never gets that far


def test_a_state_directory_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("")
    with pytest.raises(StateError):
        Agent(Device(DEVICE, 1, DataSpec(path="x"), tmp_path / "state"), TOPICS, MemoryLink, InstantTrainer(), print)  # type: ignore[arg-type]  # nor this


# -- bad bytes ---------------------------------------------------------------------------------------------------------

HEARD = ["coordinator", "run", "model", "rounds/current", f"rounds/1/receipt/{DEVICE}", f"devices/{DEVICE}/command"]


@pytest.mark.parametrize("below", [*HEARD, "model/1/0"])
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(payload=st.one_of(st.binary(min_size=1, max_size=200), st.just(b"{}"), st.just(b"null"), st.just(b"\xff{")))
def test_must_03_invariant_13_any_bytes_on_any_topic_are_one_counted_rejection(
    tmp_path_factory: pytest.TempPathFactory, below: str, payload: bytes
) -> None:
    world = World(tmp_path_factory.mktemp("bytes"))
    world.desk.begin()
    world.desk.say(Kind.MODEL, pointer(1))  # whose parts are waited for
    world.turn()
    before, acked = world.agent.status, []
    world.agent.handle(Inbound(TOPICS.prefix + below, payload, ack=lambda: acked.append(1)), 0.0)
    assert (world.agent.status, world.agent.rejected.total(), acked) == (before, 1, [1])


def test_must_03_a_cleared_retained_message_is_no_rejection(world: World) -> None:
    for below in ("run", "model", "rounds/current", "model/0/0"):
        world.agent.handle(Inbound(TOPICS.prefix + below, b""), 0.0)
    assert world.agent.rejected.total() == 0


def test_must_04_a_receipt_for_another_device_or_round_is_refused(world: World) -> None:
    message = world.training()
    for wrong, number in ((receipt(message, device="dev-two"), 1), (receipt(message), 2)):
        world.desk.say(Kind.RECEIPT, wrong, number)
        world.turn()
    assert world.agent.rejected == {Reject.WRONG_SENDER: 2}
    assert world.agent.status.last_round is None


@pytest.mark.parametrize("topic", ["other/v1/home/run", "fl/v1/home/devices/dev-two/command", "fl/v1/home/nothing"])
def test_a_message_that_is_not_for_us_is_counted(world: World, topic: str) -> None:
    world.agent.handle(Inbound(topic, b"{}"), 0.0)
    assert world.agent.rejected == {Reject.UNEXPECTED: 1}


def test_must_02_unknown_fields_are_ignored(world: World) -> None:
    fields = json.loads(codec.encode(announcement(1))) | {"colour": "blue"}
    world.agent.handle(Inbound(TOPICS.topic(Address(Kind.ROUND)), json.dumps(fields).encode()), 0.0)
    world.turn()
    assert world.trainer.trainings()


@pytest.mark.parametrize("seed", range(5))
def test_lost_repeated_and_delayed_messages_end_in_the_same_update(tmp_path: Path, seed: int) -> None:
    faults = Faults(duplicate=0.3, delay_s=0.5)
    world = World(tmp_path, MemoryBroker(faults=faults, draw=random.Random(seed)))  # noqa: S311 - faults, no secret
    world.desk.begin()
    world.training()
    for _ in range(20):
        world.turn(0.5)
    assert codec.decode_update(world.desk.update).payload == world.trainer.payload(world.trainer.trainings()[0])
    assert len(world.trainer.trainings()) == 1


def test_selecting_and_other_phases_ask_for_nothing(world: World) -> None:
    for phase in (Phase.SELECTING, Phase.COMMITTED):
        world.desk.announce(announcement(1, phase=phase))
        world.turn()
    assert world.desk.joins == []


def test_the_memory_a_round_took_is_in_the_log_and_in_the_status(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Seen to fail without ``trainer_peak_mb`` in ``_condition``."""

    class Weighed(InstantTrainer):
        def answer(self, job: Job) -> Result | Failure:
            answer = super().answer(job)
            return answer.model_copy(update={"peak_mb": 312.4}) if isinstance(job, Train) else answer

    caplog.set_level(logging.INFO)
    world = World(tmp_path, trainer=Weighed(), health=lambda: Health(agent_peak_mb=43.2))
    world.desk.begin()
    world.turn()
    world.training()
    world.turn(presence.ACTIVITY_S)
    said = "dev-one: round 1 (train): trained on 100 examples in 0.1 s, loss 0.5"
    assert f"{said}; peak memory: agent 43 MB, trainer 312 MB" in caplog.messages
    health = world.desk.statuses[-1].health
    assert health is not None
    assert (health.agent_peak_mb, health.trainer_peak_mb) == (43.2, 312.4)


# -- what an idle agent weighs -----------------------------------------------------------------------------------------

WEIGH = """
import sys
from edge.late_modules import put_off_unused
put_off_unused()
import time, pathlib, tempfile
from edge.cli import main
from edge.config import EdgeSettings
from edge.start import Agent, DataSpec, Device, Monitor, Reactor, Topics, TrainerPool
from schemas.link.memory import MemoryBroker, MemoryLink
from schemas.settings import load

state = pathlib.Path(tempfile.mkdtemp())
broker, reactor = MemoryBroker(), Reactor()
load(EdgeSettings, {}, None)
device = Device("dev-one", 1, DataSpec(path="x"), state)
make = lambda name, sink, will: MemoryLink(broker, name, sink, will)
with TrainerPool() as pool:
    reactor.add(Agent(device, Topics("home"), make, pool, reactor.post, Monitor(state, time.monotonic)))
    import threading
    threading.Timer(0.5, reactor.stop).start()
    reactor.run()
unneeded = "torch numpy scipy wfdb rich zstandard asyncio argparse tomllib email bz2"
heavy = [name for name in unneeded.split() if name in sys.modules]
rss = next(line for line in open("/proc/self/status") if line.startswith("VmRSS")).split()[1]
print(",".join(heavy) or "none", rss)
"""


def test_an_idle_agent_imports_nothing_it_does_not_need_and_stays_below_44_mb() -> None:
    done = subprocess.run([sys.executable, "-c", WEIGH], capture_output=True, text=True, check=True, timeout=60)
    heavy, kilobytes = done.stdout.split()
    assert heavy == "none"
    larger = 2_000 if sys.version_info >= (3, 13) else 0  # that interpreter itself is
    assert int(kilobytes) * 1.024 < 44_000 + larger
