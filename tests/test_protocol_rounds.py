"""The protocol's MUSTs 13 to 26, rounds and receipts: the real coordinator and the real agent over their links.

Each docstring ends with how the test was seen to fail.
"""

from __future__ import annotations

import hashlib
import logging
import math
import sqlite3
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import count, permutations
from pathlib import Path

import pytest

from coordinator import inbox
from coordinator import observers as seen
from coordinator.journal import Journal
from coordinator.roster import Roster
from coordinator.round import SETTLE_S
from coordinator.service import CoordinatorService
from edge.core.jobs import Describe, Failure, Job, Result
from schemas import codec
from schemas.errors import StateError
from schemas.link.address import BrokerAddress
from schemas.link.link import Event, Inbound, Link, Sink, Will
from schemas.link.mqtt import MqttLink, MqttSettings
from schemas.messages import DeviceState, Join, ModelPointer, Outcome, Phase, RoundAnnouncement
from schemas.parts import describe
from schemas.topics import Address, Kind
from tests.edge_scripts import InstantTrainer, announcement, coordinator, receipt
from tests.link_bench import QUICK, Ear
from tests.link_mosquitto import Mosquitto
from tests.running_coordinator import RunningCoordinator
from tests.scripted_device import Script, ScriptedDevice
from tests.test_agent import World
from tests.test_service import MODEL, PLAN, TOPICS, check_model, retained_model

Three = tuple[RunningCoordinator, list[ScriptedDevice], RoundAnnouncement]


@pytest.fixture
def world(tmp_path: Path) -> World:
    world = World(tmp_path)
    world.desk.begin()
    world.turn()
    return world


@pytest.fixture
def three(tmp_path: Path) -> Iterator[Three]:
    """A coordinator in its only round, and three devices that joined and have said nothing since."""
    running = RunningCoordinator(tmp_path / "state", rounds=1, evaluate=False)
    devices = [running.device(f"dev-{number}") for number in range(3)]
    with running:
        yield running, devices, running.opened()


def by_hand(nonce: str, device: str) -> float:
    """The draw as the document says it."""
    return int(hashlib.sha256(f"{nonce}/{device}".encode()).hexdigest()[:12], 16) / 2.0**48


def finish(
    running: RunningCoordinator,
    senders: list[ScriptedDevice],
    asked: RoundAnnouncement,
    before: tuple[ScriptedDevice, ...] = (),
) -> None:
    """The devices send their updates, and the run ends with the model that they and those ``before`` make."""
    for device in senders:
        device.send(device.update(asked, 10))
    result, counted = running.result(), [*before, *senders]
    assert result.summaries[-1].devices == tuple(device.name for device in counted)
    check_model(result, counted, running.directory)


def answered(running: RunningCoordinator, device: ScriptedDevice, *outcomes: Outcome) -> None:
    """Wait until the device has these receipts and no others."""
    running.until(lambda: len(device.receipts) >= len(outcomes), f"{outcomes} for {device.name}")
    assert [one.outcome for one in device.receipts] == list(outcomes)


# -- who takes part ----------------------------------------------------------------------------------------------------


def test_must_13_a_device_answers_only_below_its_draw(world: World) -> None:
    """To the last bit. Seen to fail with ``<=`` in ``participation._is_asked``, and with another hash in ``cohort``."""
    first = announcement(1)
    drawn = by_hand(first.nonce, "dev-one")
    world.desk.announce(first.model_copy(update={"cohort": drawn}))
    world.turn()
    assert (world.desk.joins, world.trainer.trainings()) == ([], [])
    world.desk.announce(first.model_copy(update={"cohort": math.nextafter(drawn, 1.0)}))
    world.turn()
    assert [join.accepts for join in world.desk.joins] == [True]


def test_must_13_a_coordinator_draws_the_goal_and_three_in_ten_more_and_refuses_the_others(tmp_path: Path) -> None:
    """Seen to fail with ``OVERSELECT`` 1, and without the draw in ``round.refusal``."""
    running = RunningCoordinator(tmp_path / "state", rounds=1, quorum=1, goal=2, evaluate=False)
    devices = [running.device(f"dev-{number}") for number in range(6)]
    with running:
        asked = running.opened()
        running.until(lambda: sum(bool(device.asked) for device in devices) == 3, "three devices to answer")
        drawn = [device for device in devices if by_hand(asked.nonce, device.name) < asked.cohort]
        assert drawn == [device for device in devices if device.asked]
        other = next(device for device in devices if not device.asked)
        other.send(other.update(asked, 10))
        answered(running, other, Outcome.REJECTED)
        finish(running, drawn[:2], asked)


class UnfitTrainer(InstantTrainer):
    """A trainer whose data doesn't fit the plan."""

    def answer(self, job: Job) -> Result | Failure:
        """Count, and nothing else."""
        if isinstance(job, Describe):
            return super().answer(job)
        return Failure(key=job.key, kind="plan", message="the plan wants 2 channels, the data has 1")


def test_must_14_a_device_that_is_drawn_answers_and_says_why_it_declines(tmp_path: Path) -> None:
    """Seen to fail without the join in ``participation._decline``, and with an empty reason there."""
    eager = World(tmp_path / "eager")
    empty = World(tmp_path / "empty", trainer=InstantTrainer(examples=0))
    other = World(tmp_path / "other", trainer=UnfitTrainer())
    for world in (eager, empty, other):
        world.desk.begin()
        world.turn()
        world.desk.announce(announcement(1))
        world.turn()
    assert [(join.accepts, join.reason) for join in eager.desk.joins] == [(True, "")]
    assert [join.accepts for join in empty.desk.joins] == [False]
    assert "no examples" in empty.desk.joins[0].reason
    assert [join.accepts for join in other.desk.joins] == [True, False]
    assert "2 channels" in other.desk.joins[-1].reason


def test_must_14_a_device_is_silent_on_a_task_it_has_nothing_for_while_it_serves_the_other(tmp_path: Path) -> None:
    """Seen to fail with ``declined`` for ``silent`` in ``participation._attitude``."""
    trains, evaluates = World(tmp_path / "trains"), World(tmp_path / "evaluates")
    evaluates.trainer.examples, evaluates.trainer.held_out = 0, 20
    for world in (trains, evaluates):
        world.desk.begin()
        world.desk.offer(1)
        world.turn()
        world.desk.announce(announcement(2, task="train", version=1))
        world.turn()
        world.desk.announce(announcement(2, task="evaluate", version=1))
        world.turn()
    assert [join.task for join in trains.desk.joins] == ["train"]
    assert [join.task for join in evaluates.desk.joins] == ["evaluate"]


def test_must_15_invariant_07_a_device_never_takes_an_older_model(world: World) -> None:
    """Nor starts from one. Seen to fail without the versions' comparison in ``_model_seen``, and in ``_is_asked``."""
    world.desk.offer(3)
    world.turn()
    world.desk.offer(2)
    world.turn()
    assert world.agent.status.model_version == 3
    world.desk.announce(announcement(3, version=2))
    world.turn()
    assert world.desk.joins == []


def test_must_15_invariant_07_a_device_answers_the_retained_run_alone_and_nothing_expired(world: World) -> None:
    """Seen to fail without ``is_current`` in ``_is_asked``, and without ``announced.until`` there."""
    world.desk.announce(announcement(1, run="run-two"))
    world.turn()
    world.desk.announce(announcement(1, remaining_s=0.0))
    world.turn()
    assert (world.desk.joins, world.trainer.trainings()) == ([], [])
    world.desk.announce(announcement(1, attempt=1))
    world.turn()
    assert len(world.desk.joins) == 1


@pytest.mark.parametrize(
    "follows",
    [
        announcement(1, task="evaluate", version=1),
        announcement(1, attempt=1),
        announcement(2),
        announcement(1, phase=Phase.AGGREGATING),
    ],
    ids=["evaluation", "next attempt", "next round", "its own end"],
)
def test_must_39_an_attempt_ends_with_the_announcement_of_what_follows_it(
    world: World, follows: RoundAnnouncement
) -> None:
    """Its end may never be announced itself. Seen to fail with any collecting round open still in ``attempt.drop``."""
    world.trainer.hold = True
    asked = world.training()
    (training,) = world.trainer.trainings()
    world.desk.announce(asked.model_copy(update={"joined": 1}))
    world.turn()
    assert world.trainer.cancelled == []
    world.desk.announce(follows)
    world.turn()
    assert world.trainer.cancelled == [training.key]


def test_must_39_a_coordinator_announces_every_attempt_and_that_the_last_is_over(tmp_path: Path) -> None:
    """Seen to fail without ``announce`` at the end of ``Stepper.flush``."""
    running = RunningCoordinator(tmp_path / "state", rounds=2, quorum=2, goal=2)
    for number in range(2):
        running.device(f"dev-{number}", Script(held_out=2))
    with running:
        running.result()
    topic = TOPICS.topic(Address(Kind.ROUND))
    told = [codec.decode(Kind.ROUND, said.payload) for said in running.heard if said.topic == topic]
    asked = [one for one in told if isinstance(one, RoundAnnouncement)]
    opened = {(one.round, one.task): one.nonce for one in asked if one.phase is Phase.COLLECTING}
    assert list(opened) == [(1, "train"), (1, "evaluate"), (2, "train"), (2, "evaluate")]
    assert (asked[-1].nonce, asked[-1].phase) == (opened[2, "evaluate"], Phase.COMMITTED)


# -- what a device answers ---------------------------------------------------------------------------------------------


def test_must_16_invariant_08_a_ticket_is_trained_once_and_the_same_bytes_go_until_a_final_receipt(
    world: World,
) -> None:
    """Through repeats, power cuts and a receipt. Seen to fail with ``settle`` at once in ``Uploads.keep``."""
    asked = world.training()
    first = world.desk.update
    for _ in range(3):
        world.training()
    everything = tuple(range(world.desk.parts_seen[0][1].parts))
    for _ in range(2):
        world.desk.updates.clear()
        world.crash()
        world.desk.say(Kind.RECEIPT, receipt(asked, Outcome.INCOMPLETE, missing=everything), 1)
        world.turn()
        assert world.desk.update == first
    world.desk.say(Kind.RECEIPT, receipt(asked), 1)
    world.turn()
    world.desk.updates.clear()
    world.crash()
    assert world.desk.updates == {}
    assert len(world.trainer.trainings()) == 1


def test_must_17_a_device_answers_with_the_announcements_nonce(world: World) -> None:
    """In join and update. Seen to fail with zeros in ``Agent._send_join``, and in ``participation._job_done``."""
    asked = world.desk.announce(announcement(1, tag=0xFEDBEA7))
    world.turn()
    assert [join.nonce for join in world.desk.joins] == [asked.nonce]
    assert codec.decode_update(world.desk.update).nonce == asked.nonce


def test_must_17_a_coordinator_refuses_an_answer_with_another_nonce(three: Three) -> None:
    """Join and update. Seen to fail without the nonce in ``round._answers``."""
    running, devices, asked = three
    wrong = asked.model_copy(update={"nonce": "0" * 16})
    devices[0].send(devices[0].update(wrong, 10))
    answered(running, devices[0], Outcome.REJECTED)
    join = Join(run=asked.run, round=1, task="train", nonce=wrong.nonce, device="dev-1", accepts=False, reason="no")
    running.say("rounds/1/join/dev-1", codec.encode(join))
    running.handled()
    assert (len(running.of(seen.MessageRejected)), running.of(seen.DeviceDeclined)) == (2, [])
    finish(running, devices, asked)


# -- what a coordinator counts -----------------------------------------------------------------------------------------


def test_must_18_invariant_01_whatever_a_device_repeats_one_update_counts(three: Three) -> None:
    """Neither the same bytes nor others count again. Seen to fail without ``stage.received`` in ``round.refusal``."""
    running, devices, asked = three
    first = devices[0].update(asked, 10)
    devices[0].send(first)
    answered(running, devices[0], Outcome.ACCEPTED)
    devices[0].send(first)
    devices[0].send(first.model_copy(update={"examples": 99}))
    answered(running, devices[0], Outcome.ACCEPTED, Outcome.DUPLICATE, Outcome.DUPLICATE)
    assert [one.received for one in running.of(seen.UpdateAccepted)] == [1]
    finish(running, devices[1:], asked, (devices[0],))


def kept(directory: Path, query: str = "SELECT device FROM updates") -> list[str]:
    """What another process finds in the journal."""
    with sqlite3.connect(f"file:{directory / 'journal.db'}?mode=ro", uri=True) as journal:
        rows = [str(row[0]) for row in journal.execute(query)]
    journal.close()
    return rows


def test_must_19_invariant_02_the_last_part_is_acknowledged_once_the_update_is_on_disk(three: Three) -> None:
    """The others are acknowledged as they come. Seen to fail with ``message.ack()`` in ``Reactor._receive``."""
    running, devices, asked = three
    acked: list[tuple[int, list[str]]] = []

    def listen(event: Event) -> Event:
        address = TOPICS.parse(event.topic) if isinstance(event, Inbound) else None
        if not isinstance(event, Inbound) or address is None or address.part is None:
            return event
        part, ack = address.part, event.ack

        def heard() -> None:
            acked.append((part, kept(running.directory)))
            ack()

        return replace(event, ack=heard)

    running.sieve = listen
    update = devices[0].update(asked, 10)
    parts = describe(codec.encode_update(update), 1024).parts
    devices[0].send(update, range(parts - 1))
    running.handled()
    running.until(lambda: len(acked) == parts - 1, "the acknowledgements")
    assert {tuple(devices_kept) for _, devices_kept in acked} == {()}
    devices[0].send(update, (parts - 1,))
    running.until(lambda: len(acked) == parts, "the last acknowledgement")
    assert acked[-1] == (parts - 1, ["dev-0"])
    finish(running, devices[1:], asked, (devices[0],))


def on_mosquitto(broker: Mosquitto, client_id: str, sink: Sink, will: Will | None = None) -> MqttLink:
    """A link whose session the broker keeps."""
    address = BrokerAddress.parse(broker.address)
    return MqttLink(MqttSettings(address, client_id, session_expiry_s=600, backoff=QUICK), sink, will)


def test_must_19_invariant_02_mosquitto_repeats_the_last_part_where_the_disk_failed(
    mosquitto: Mosquitto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen to fail with ``message.ack()`` in ``Reactor._receive``."""

    def full(*_: object) -> bool:
        raise StateError("no space left")

    monkeypatch.setattr(Journal, "add_update", full)
    ear = Ear()
    device = ScriptedDevice(
        "dev-0", TOPICS, PLAN.manifest(), lambda *about: on_mosquitto(mosquitto, *about), Script()
    ).start()
    running = RunningCoordinator(
        tmp_path / "state",
        make_link=lambda sink, will: on_mosquitto(mosquitto, "coordinator", sink, will),
        quorum=1,
        goal=1,
    )
    with running, pytest.raises(StateError, match="no space left"):
        running.result()
    device.stop()
    again = on_mosquitto(mosquitto, "coordinator", ear)
    again.open()
    ref = describe(codec.encode_update(device.updates[1, "train"]), 1024)
    last = TOPICS.topic(Address(Kind.UPDATE_PART, number=1, device="dev-0", part=ref.parts - 1))
    ear.until(lambda: len(ear.payloads(last)) == 1, "the last part, once more")
    again.close()


# -- receipts ----------------------------------------------------------------------------------------------------------


def test_must_20_every_whole_update_and_every_decline_has_a_receipt(tmp_path: Path) -> None:
    """Late ones and repeats too. Seen to fail without the receipt in ``round._join``, and in ``round._update``."""
    running = RunningCoordinator(tmp_path / "state", rounds=2, quorum=1, goal=2, evaluate=False)
    devices = [running.device(f"dev-{number}") for number in range(2)]
    sorry = running.device("dev-2", Script(declines="out of battery"))
    with running:
        asked = running.opened()
        answered(running, sorry, Outcome.NOTED)
        assert sorry.receipts[0].come_back_after_s > 0
        for device in devices:
            device.send(device.update(asked, 10))
            answered(running, device, Outcome.ACCEPTED)
        running.opened(2)
        devices[0].send(devices[0].update(asked, 11))
        answered(running, devices[0], Outcome.ACCEPTED, Outcome.LATE)
        devices[1].send(devices[1].update(asked, 10), (0,))
        answered(running, devices[1], Outcome.ACCEPTED, Outcome.DUPLICATE)
        assert {one.nonce for device in devices for one in device.receipts} == {asked.nonce}


def test_must_20_an_update_that_has_stalled_is_asked_for_by_its_missing_parts(three: Three) -> None:
    """Seen to fail with ``STALL_S`` 50, and with ``missing`` left out of the receipt."""
    running, devices, asked = three
    update = devices[0].update(asked, 10)
    devices[0].send(update, (0, 2, 4))
    running.skip(4.9)
    assert devices[0].receipts == []
    running.skip(1.5)
    answered(running, devices[0], Outcome.INCOMPLETE)
    missing = devices[0].receipts[0].missing
    assert missing == (1, 3, 5)
    devices[0].send(update, missing)
    answered(running, devices[0], Outcome.INCOMPLETE, Outcome.ACCEPTED)
    finish(running, devices[1:], asked, (devices[0],))


# -- how rounds end ----------------------------------------------------------------------------------------------------


def test_must_21_a_round_closes_at_its_goal(tmp_path: Path) -> None:
    """Though another device could still answer. Seen to fail without the goal in ``round._accept``."""
    running = RunningCoordinator(tmp_path / "state", rounds=1, quorum=1, goal=2, evaluate=False)
    devices = [running.device(f"dev-{number}") for number in range(3)]
    with running:
        asked = running.opened()
        assert len(running.of(seen.RoundOpened)) == 1
        finish(running, devices[:2], asked)


def test_must_21_a_round_closes_once_every_device_has_answered_declined_or_gone(tmp_path: Path) -> None:
    """No time passes. Seen to fail without ``& state.view.ready`` in ``round._try_close``, and without the declines."""
    running = RunningCoordinator(tmp_path / "state", rounds=1, quorum=1, goal=None, evaluate=False)
    devices = [running.device("dev-0"), running.device("dev-1", Script(declines="busy")), running.device("dev-2")]
    with running:
        running.skip(1.0)  # for newcomers
        asked = running.opened()
        devices[0].send(devices[0].update(asked, 10))
        answered(running, devices[0], Outcome.ACCEPTED)
        running.handled()
        assert not running.of(seen.RoundClosed)
        running.broker.cut("dev-2", bar=True)
        result = running.result()
    assert result.summaries[0].devices == ("dev-0",)
    assert result.summaries[0].declined == {"dev-1": "busy"}


@pytest.mark.parametrize("updates", [2, 1])
def test_must_21_at_the_deadline_a_round_closes_with_its_quorum_or_is_abandoned(three: Three, updates: int) -> None:
    """Then it is tried again. Seen to fail with ``stage.quorum - 1`` in ``_try_close``, and with the same nonce."""
    running, devices, asked = three
    for device in devices[:updates]:
        device.send(device.update(asked, 10))
        answered(running, device, Outcome.ACCEPTED)
    running.skip(19.9)
    assert not running.of(seen.RoundClosed)
    running.skip(0.2)
    if updates == 2:
        check_model(running.result(), devices, running.directory)
        return
    assert [one.summary.outcome for one in running.of(seen.RoundClosed)] == ["abandoned"]
    for device in devices:
        running.status(device.name, DeviceState.IDLE, retain=False)
    running.skip(1.1)
    again = running.opened(2)
    assert (again.attempt, again.model_version) == (1, 0)
    assert again.nonce != asked.nonce
    finish(running, devices, again)


def test_must_22_invariant_12_a_coordinators_wall_clock_may_jump_and_no_deadline_moves(tmp_path: Path) -> None:
    """Each look at it is years from the last. Seen to fail with the wall clock for ``Clock`` in ``service``."""
    years = count()
    running = RunningCoordinator(
        tmp_path / "state",
        wall=lambda: datetime(2020, 1, 1, tzinfo=UTC) + timedelta(days=(-1) ** next(years) * 3000),
        rounds=1,
        evaluate=False,
    )
    devices = [running.device(f"dev-{number}") for number in range(3)]
    with running:
        asked = running.opened()
        for _ in range(19):
            running.skip(1.0)
        assert not running.of(seen.RoundClosed)
        newest = codec.decode(Kind.ROUND, running.broker.retained[TOPICS.topic(Address(Kind.ROUND))])
        assert isinstance(newest, RoundAnnouncement)
        assert newest.phase is Phase.COLLECTING
        assert 0 <= newest.remaining_s <= newest.deadline_s == 20.0
        finish(running, devices, asked)


def test_must_22_invariant_04_a_restart_in_a_round_leaves_its_deadline_where_it_was(tmp_path: Path) -> None:
    """Killed twice, with the clock of another boot. Seen to fail without ``RunStore.mark``."""
    seconds = 0.0
    for start in range(3):
        running = RunningCoordinator(tmp_path / "state", rounds=1, evaluate=False)
        devices = [running.device(f"dev-{number}") for number in range(3)]
        with running:
            asked = running.opened()
            if start == 2:
                finish(running, devices, asked)
                break
            for _ in range(6):
                running.skip(1.0)
            seconds += 6.0
            running.sieve = lambda _event: None  # it hears nothing more, and is gone without a word
    assert start == 2
    assert asked.deadline_s == 20.0
    assert 20.0 - seconds <= asked.remaining_s <= 20.0 - seconds + 2.0


@pytest.fixture
def unlogged() -> Iterator[None]:
    """By the function: each logger remembers which of its levels are on, and forgets it there alone."""
    before = logging.root.manager.disable
    logging.disable()
    yield
    logging.disable(before)


@pytest.mark.usefixtures("unlogged")  # a line of the log has the wall clock's time
def test_must_22_invariant_12_a_device_goes_by_the_time_left_and_not_by_its_wall_clock(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen to fail with ``time.time()`` in ``Agent.handle``, and with twice ``remaining_s`` in ``_round_seen``."""

    def refuse() -> float:
        raise AssertionError("the wall clock was asked")

    monkeypatch.setattr(time, "time", refuse)
    world.trainer.hold = True
    asked = announcement(1, remaining_s=60.0).model_copy(update={"opened": "1970-01-01T00:00:00Z"})
    world.desk.announce(asked)
    world.turn()
    assert len(world.trainer.held) == 1
    world.turn(59.0)
    assert len(world.trainer.held) == 1
    world.turn(1.5)
    assert world.trainer.held == []


# -- what rounds make --------------------------------------------------------------------------------------------------


def test_must_23_invariant_05_versions_rise_by_one_and_name_the_digest_before(tmp_path: Path) -> None:
    """Over an abandoned attempt too. Seen to fail with ``previous=store.version.digest`` in ``_publish_model``."""
    running = RunningCoordinator(tmp_path / "state", rounds=2, evaluate=False)
    devices = [running.device(f"dev-{number}") for number in range(3)]
    with running:
        running.opened(1)
        running.skip(20.1)
        for device in devices:
            running.status(device.name, DeviceState.IDLE, retain=False)
        running.skip(1.1)
        for attempt in (2, 3):
            asked = running.opened(attempt)
            assert asked.model_version == attempt - 2
            for device in devices:
                device.send(device.update(asked, 10))
        assert running.result().version == 2
    found = [codec.decode(Kind.MODEL, said.payload) for said in running.log if said.kind is Kind.MODEL]
    pointers = [one for one in found if isinstance(one, ModelPointer)]
    assert [one.version for one in pointers] == [0, 1, 2]
    assert [one.previous for one in pointers] == [None, pointers[0].digest, pointers[1].digest]
    assert pointers[0].digest == MODEL.digest()


def test_must_24_invariant_06_the_order_of_updates_changes_no_bit_of_the_model(tmp_path: Path) -> None:
    """It is the average of exactly the accepted ones. Seen to fail with a sum of float32 for the limbs in ``mean``."""
    digests: set[str] = set()
    for index, order in enumerate(permutations(range(3))):
        running = RunningCoordinator(tmp_path / str(index), rounds=1, quorum=3, evaluate=False)
        devices = [running.device(f"dev-{number}", Script(silent=True, examples=7 * number + 3)) for number in range(3)]
        with running:
            asked = running.opened()
            for number in order:
                devices[number].send(devices[number].update(asked, devices[number].script.examples))
                if number != order[-1]:
                    answered(running, devices[number], Outcome.ACCEPTED)
            check_model(running.result(), devices, running.directory)
        digests.add(running.result().digest)
    assert len(digests) == 1


def test_must_24_invariant_06_a_rejected_update_leaves_no_trace_in_the_model(three: Three) -> None:
    """Seen to fail without the comparison of models in ``round.refusal``."""
    running, devices, asked = three
    stale = devices[0].update(asked, 10).model_copy(update={"model_tag": "0" * 16})
    devices[0].send(stale)
    answered(running, devices[0], Outcome.REJECTED)
    finish(running, devices[1:], asked)


def test_must_23_invariant_03_a_commit_that_fails_halfway_leaves_nothing_of_its_version(
    three: Three, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The round stays open with its updates. Seen to fail without the transaction in ``Journal.commit_round``."""
    running, devices, asked = three

    def full(*_: object) -> None:
        raise StateError("no space left")

    monkeypatch.setattr(Roster, "add_rejections", full)  # the last of what a commit writes
    for device in devices:
        device.send(device.update(asked, 10))
    with pytest.raises(StateError, match="no space left"):
        running.result()
    assert kept(running.directory, "SELECT max(version) FROM models") == ["0"]
    assert kept(running.directory, "SELECT phase FROM rounds") == ["collecting"]
    assert kept(running.directory) == ["dev-0", "dev-1", "dev-2"]
    retained = codec.decode(Kind.MODEL, running.broker.retained[TOPICS.topic(Address(Kind.MODEL))])
    assert isinstance(retained, ModelPointer)
    assert retained.version == 0


def retained_by(broker: Mosquitto) -> dict[str, bytes]:
    """What the broker has, once it has the current round, which comes last."""
    ear = Ear()
    reader = on_mosquitto(broker, "reader", ear)
    reader.subscribe(f"{TOPICS.prefix}#")
    reader.open()
    ear.until(lambda: bool(ear.payloads(TOPICS.topic(Address(Kind.ROUND)))), "the current round")
    reader.close()
    return {event.topic: event.payload for event in ear.all(Inbound)}


def test_must_25_after_mosquitto_lost_everything_the_whole_tree_is_there_again(
    mosquitto: Mosquitto, tmp_path: Path
) -> None:
    """A device that comes then makes the round. Seen to fail without ``self._queue = deque(self._tree)``."""

    def make_link(sink: Sink, will: Will) -> Link:
        return on_mosquitto(mosquitto, "coordinator", sink, will)

    with RunningCoordinator(tmp_path / "state", make_link=make_link, quorum=1, goal=1, rounds=1) as running:
        before = retained_by(mosquitto)
        mosquitto.kill()
        (mosquitto.directory / "mosquitto.db").unlink(missing_ok=True)
        mosquitto.start()
        tree = retained_by(mosquitto)
        assert tree.keys() == before.keys()
        pointer, parameters = retained_model(tree)
        assert (pointer.version, parameters.digest()) == (0, MODEL.digest())
        assert {TOPICS.topic(Address(kind)) for kind in (Kind.RUN, Kind.COORDINATOR)} <= tree.keys()
        assert TOPICS.topic(Address(Kind.PLAN_PART, digest=PLAN.digest, part=0)) in tree
        device = ScriptedDevice(
            "dev-0", TOPICS, PLAN.manifest(), lambda *about: on_mosquitto(mosquitto, *about), Script()
        ).start()
        assert running.result().version == 1
        device.stop()


# -- until a receipt ---------------------------------------------------------------------------------------------------


def silence(world: World) -> list[float]:
    """Seconds at which a device sent parts again within the next ten minutes."""
    times: list[float] = []
    for second in range(1, 601):
        world.desk.updates.clear()
        world.desk.say(Kind.COORDINATOR, coordinator())  # its heartbeat
        world.turn(1.0)
        assert world.desk.updates.keys() <= {0}
        times += [float(second)] * bool(world.desk.updates)
    return times


def test_must_26_without_a_receipt_a_part_goes_again_after_30_seconds_and_then_twice_as_long_each_time(
    world: World,
) -> None:
    """And never after one. Seen to fail with ``RESEND_S`` 31, and without the doubling in ``delivery.send``."""
    asked = world.desk.announce(announcement(1, remaining_s=3600.0))
    world.turn()
    assert silence(world) == [30.0, 90.0, 210.0, 450.0]
    world.desk.say(Kind.RECEIPT, receipt(asked, Outcome.LATE), 1)
    world.turn()
    assert silence(world) == []


@pytest.mark.parametrize("what", ["reconnect", "session"])
def test_must_26_a_reconnect_and_a_new_coordinator_are_sent_a_part_at_once(world: World, what: str) -> None:
    """Seen to fail without ``_introduce`` in ``_take`` and in ``_coordinator_seen``."""
    world.training()
    world.turn(200.0)
    world.desk.updates.clear()
    if what == "session":
        world.desk.say(Kind.COORDINATOR, coordinator(session=2))
        world.turn()
    else:
        world.broker.cut("dev-one")
        world.broker.advance(300.0)  # our clock doesn't move
        world.turn()
    assert world.desk.updates.keys() == {0}


def test_a_device_that_was_turned_away_is_asked_again_as_soon_as_room_is_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No second has to pass first. Seen to fail without ``_room_freed`` in ``Reactor._look``."""
    defaults = CoordinatorService.__init__.__kwdefaults__
    assert defaults is not None
    monkeypatch.setitem(defaults, "room", 30_000)  # for two updates
    monkeypatch.setattr(inbox, "MIN_PARTS", 6)  # as they have, so that there can be so little
    monkeypatch.setattr(inbox, "largest_update", lambda *_: 8000)
    running = RunningCoordinator(tmp_path / "state", rounds=1, quorum=3, goal=3, evaluate=False)
    devices = [running.device(f"dev-{number}") for number in range(3)]
    with running:
        asked = running.opened()
        updates = [device.update(asked, 10) for device in devices]
        parts = describe(codec.encode_update(updates[0]), 1024).parts
        for device, update in zip(devices, updates, strict=True):
            device.send(update, range(parts - 1))
        running.handled()
        assert devices[2].receipts == []
        devices[0].send(updates[0], (parts - 1,))
        answered(running, devices[2], Outcome.INCOMPLETE)
        assert devices[2].receipts[0].missing == tuple(range(parts))
        devices[2].send(updates[2])
        devices[1].send(updates[1], (parts - 1,))
        assert running.result().summaries[0].devices == ("dev-0", "dev-1", "dev-2")


@pytest.mark.parametrize("restarted", [False, True], ids=["in the same process", "after a restart"])
@pytest.mark.parametrize("overlap", [None, 2], ids=["rounds in turn", "rounds that overlap"])
def test_must_17_an_update_of_an_abandoned_attempt_is_no_duplicate_when_it_comes_again(
    tmp_path: Path, overlap: int | None, *, restarted: bool
) -> None:
    """Its device has missed the receipt. It is late, or counts in the next attempt, as after a restart.

    Seen to fail without ``Inbox.forget``: told "duplicate", the device forgets what would have counted.
    """
    running = RunningCoordinator(tmp_path / "state", quorum=2, max_staleness=overlap, evaluate=False)
    device, _ = running.device("dev-0", Script()), running.device("dev-1")
    with running:
        running.skip(SETTLE_S)
        answered(running, device, Outcome.ACCEPTED)
        device.script = Script(silent=True)
        running.skip(running.settings.deadline_s)
        running.until(lambda: running.count(seen.RoundClosed) == 1, "the end of the attempt")
        if not restarted:
            check_sent_again(running, device, overlap)
    if restarted:
        running = RunningCoordinator(tmp_path / "state", quorum=2, max_staleness=overlap, evaluate=False)
        again, _ = running.device("dev-0"), running.device("dev-1")
        again.updates = device.updates
        with running:
            check_sent_again(running, again, overlap)


def check_sent_again(running: RunningCoordinator, device: ScriptedDevice, overlap: int | None) -> None:
    """What the device's update for the first attempt gets in the second."""
    attempts = running.count(seen.RoundOpened)
    running.skip(SETTLE_S)
    running.skip(SETTLE_S)
    running.opened(attempts + 1)
    device.receipts.clear()
    device.send(device.updates[1, "train"])
    answered(running, device, Outcome.LATE if overlap is None else Outcome.ACCEPTED)
