"""The coordinator's one thread: what it takes from its queue it deals with, whatever the disk does meanwhile."""

from __future__ import annotations

import gc
import sys
import threading
from functools import partial
from pathlib import Path

import pytest

from coordinator import attendance, pause, reactor
from coordinator import observers as seen
from coordinator import round as rounds
from coordinator.database import Value
from coordinator.fleet import Fleet
from coordinator.inbox import Content
from coordinator.journal import Journal, StoredUpdate
from coordinator.models import Checkpoint
from coordinator.office import Office
from coordinator.publisher import Publisher
from coordinator.run_store import RunStore
from schemas import codec
from schemas.errors import LinkError
from schemas.link.link import Event, Inbound, Sent, Will
from schemas.link.memory import MemoryLink
from schemas.messages import DeviceState, DeviceStatus, ModelPointer
from schemas.topics import Address, Kind
from tests.full_disks import Disk, full
from tests.running_coordinator import RunningCoordinator
from tests.scripted_device import Script
from tests.test_service import TOPICS, Home, run_settings

LIMIT_S = 20.0


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pause, "RETRY_S", 0.001)
    monkeypatch.setattr(rounds, "RETURN_S", 0.05)


def test_invariant_02_a_burst_of_messages_while_the_disk_is_full_is_dealt_with_once_there_is_room(
    tmp_path: Path,
) -> None:
    """More at once than a turn takes. Seen to fail with one event more taken from the queue than a turn deals with."""
    burst = 2 * reactor.MESSAGES_A_TURN + 50
    home = Home(tmp_path / "state")
    for number in range(3):
        home.device(f"dev-{number}")
    stranger = MemoryLink(home.broker, "stranger", lambda _: None)
    stranger.open()

    def send() -> None:
        for number in range(burst):
            topic = TOPICS.topic(Address(Kind.JOIN, number=1, device=f"stranger-{number}"))
            stranger.publish(topic, b"no join")

    home.watch.then = [(seen.Paused, send)]
    settings = run_settings(rounds=2, evaluate=False)
    with Disk(first_write(tmp_path / "to-count"), full, times=2):
        result = home.run(settings)
    assert result.version == 2
    assert len(home.watch.of(seen.MessageRejected)) == burst
    assert not home.broker._sessions["coordinator"].unacked


def first_write(state: Path) -> int:
    """The first write of a run of three devices after its start."""
    home = Home(state)
    for number in range(3):
        home.device(f"dev-{number}")
    with Disk() as disk:
        home.run(run_settings(rounds=1, evaluate=False))
    return disk.operations.index("sqlite INSERT INTO devices") - 1


def test_invariant_11_what_a_pause_holds_does_not_grow_with_the_names_that_come_and_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen to fail with a rejection for each that is turned away, and with each that was ever met."""
    held: list[tuple[int, int]] = []
    again = reactor.Reactor._try_again

    def counted(one: reactor.Reactor) -> None:
        held.append((len(one._stepper._pending), len(one._attendance.met)))
        again(one)

    monkeypatch.setattr(reactor.Reactor, "_try_again", counted)
    monkeypatch.setattr(attendance, "Fleet", partial(Fleet, limit=5))
    home = Home(tmp_path / "state")
    for number in range(3):
        home.device(f"dev-{number}")
    crowd = MemoryLink(home.broker, "crowd", lambda _: None)
    crowd.open()

    def come_and_go() -> None:
        for number in range(300):
            for name, state in (("one", DeviceState.IDLE), ("other", DeviceState.IDLE), ("one", DeviceState.STOPPED)):
                status = DeviceStatus(device=f"{name}-{number}", session=1, state=state, examples=0)
                crowd.publish(TOPICS.topic(Address(Kind.DEVICE, device=status.device)), codec.encode(status))

    home.watch.then = [(seen.Paused, come_and_go)]
    settings = run_settings(rounds=1, evaluate=False)
    with Disk(first_write(tmp_path / "to-count"), full, times=2):
        assert home.run(settings).version == 1
    assert held
    assert all(pending <= 10 and met <= 5 for pending, met in held), held


def test_a_trouble_of_a_whole_fleet_is_told_a_few_times_at_most(tmp_path: Path) -> None:
    """Seen to fail with an observation a device."""
    home = Home(tmp_path / "state")
    crowd = MemoryLink(home.broker, "crowd", lambda _: None)
    crowd.open()
    for number in range(300):
        status = DeviceStatus(
            device=f"dev-{number}", session=1, state=DeviceState.TROUBLE, examples=0, detail="no recordings"
        )
        crowd.publish(TOPICS.topic(Address(Kind.DEVICE, device=status.device)), codec.encode(status), retain=True)
    home.device("well")
    assert home.run(run_settings(rounds=1, quorum=1, goal=1, evaluate=False)).version == 1
    told = [one for one in home.watch.seen if isinstance(one, seen.DeviceTroubled)]
    assert 250 <= sum(1 + one.others for one in told) <= 300  # the run may end before the rest is looked at
    assert len(told) <= 3


def test_a_stop_ends_a_run_whose_disk_fills_up_at_that_very_moment(tmp_path: Path) -> None:
    """Seen to fail with the stop forgotten as what came before it could not be written: it waited for space."""
    settings = run_settings(rounds=2, quorum=2, goal=3, evaluate=False)

    def stopped(state: Path, disk: Disk) -> tuple[Home, bool]:
        home = Home(state)
        for number in range(2):
            home.device(f"dev-{number}")
        service = home.service(settings)

        def stop_behind_an_update(event: Event) -> None:
            if isinstance(event, Inbound):
                event.ack()
                if event.topic.endswith("/dev-1/0"):  # all of the other device's is before it
                    service.stop()

        ear = home.link("ear", stop_behind_an_update, Will("ear", b""))
        ear.subscribe(TOPICS.filter(Kind.UPDATE_PART))
        ear.open()
        ended: list[bool] = []
        thread = threading.Thread(target=lambda: ended.append(service.run().stopped), daemon=True)
        with disk:
            thread.start()
            thread.join(LIMIT_S)
            in_time = not thread.is_alive()
            service.stop()
            thread.join(LIMIT_S)
        ear.close()
        return home, in_time and ended == [True]

    _, well = stopped(tmp_path / "undisturbed", to_count := Disk())
    assert well
    write = to_count.operations.index("sqlite INSERT INTO updates")
    home, well = stopped(tmp_path / "state", Disk(write, full, times=sys.maxsize - write))
    assert well
    assert len(home.watch.of(seen.Paused)) == 1
    assert not home.watch.of(seen.Resumed)
    assert home.run(settings).version == 2


def test_invariant_02_updates_accepted_before_a_restart_count_after_it_though_the_goal_is_lower_now(
    tmp_path: Path,
) -> None:
    """Seen to fail with the round closed at the goal before all that the journal has was folded."""
    home = Home(tmp_path / "state")
    for number in range(4):
        home.device(f"dev-{number}")
    home.device("dev-late", Script(silent=True))
    service = home.service(run_settings(rounds=1, goal=5, evaluate=False, quorum=2))
    accepted: list[None] = []

    def stop_at_four() -> None:
        accepted.append(None)
        if len(accepted) == 4:
            service.stop()

    home.watch.then = [(seen.UpdateAccepted, stop_at_four)]
    assert service.run().stopped
    home.watch.then = []
    result = home.run(run_settings(rounds=1, goal=2, evaluate=False, quorum=2))
    (summary,) = result.summaries
    assert summary.devices == tuple(f"dev-{number}" for number in range(4))


def contents(devices: str) -> int:
    """Updates of devices of such names that are in memory, in this process."""
    gc.collect()
    found = [thing for thing in gc.get_objects() if type(thing) is Content]  # isinstance asks modules of PyTorch's too
    return sum(content.update.device.startswith(devices) for content in found)


def test_invariant_11_no_update_is_in_memory_any_more_when_a_version_is_made_or_the_next_is_read_from_the_journal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One can be as large as the model. Seen to fail with the last of a round kept by the turn that it came in, and
    with that before kept while one is read."""
    alive: dict[str, list[int]] = {"made": [], "read": []}
    make, read, devices = RunStore._make, Journal._update, "in-memory-"

    def made(store: RunStore) -> Checkpoint:
        alive["made"].append(contents(devices))
        return make(store)

    def reads(journal: Journal, received: Value) -> StoredUpdate:
        alive["read"].append(contents(devices))
        return read(journal, received)

    monkeypatch.setattr(RunStore, "_make", made)
    monkeypatch.setattr(Journal, "_update", reads)
    home = Home(tmp_path / "state")
    for number in range(3):
        home.device(f"{devices}{number}")
    home.device("dev-late", Script(silent=True))
    service = home.service(run_settings(rounds=1, goal=4, evaluate=False, quorum=2))
    home.watch.then = [
        (seen.UpdateAccepted, lambda: service.stop() if len(home.watch.of(seen.UpdateAccepted)) == 3 else None)
    ]
    assert service.run().stopped
    home.watch.then = []
    home.run(run_settings(rounds=2, goal=3, evaluate=False, quorum=2))
    assert alive == {"made": [0, 0], "read": [0, 0, 0]}


def slow_to_answer(tmp_path: Path) -> tuple[RunningCoordinator, list[Sent]]:
    """A run of one round, and the broker's answers to its last model's parts, which don't reach it."""
    running = RunningCoordinator(tmp_path / "state", rounds=1, quorum=2, goal=2, evaluate=False)
    answers: list[Sent] = []

    def sieve(event: Event) -> Event | None:
        said = next((said for said in reversed(running.log) if said.client == "coordinator"), None)
        if not isinstance(event, Sent) or said is None or not said.topic.startswith(f"{TOPICS.prefix}model/1/"):
            return event
        answers.append(event)
        return None

    running.sieve = sieve
    for name in ("dev-0", "dev-1"):
        running.device(name, Script())
    return running, answers


def pointer(running: RunningCoordinator) -> ModelPointer:
    running.until(lambda: TOPICS.topic(Address(Kind.MODEL)) in running.broker.retained, "a model")
    message = codec.decode(Kind.MODEL, running.broker.retained[TOPICS.topic(Address(Kind.MODEL))])
    assert isinstance(message, ModelPointer)
    return message


def has_moved(publisher: Publisher, position: tuple[int, ...]) -> bool:
    return publisher.position != position


def test_a_run_ends_once_its_last_model_is_published_however_long_that_takes(tmp_path: Path) -> None:
    """Seen to fail with 30 s for all of it: it ended without a word, and the broker had the model before."""
    running, answers = slow_to_answer(tmp_path)
    with running:
        parts = pointer(running).blob.parts  # of the version before, which is as large
        running.until(lambda: len(answers) == parts, "all parts of the model")
        assert running._service._performer is not None
        publisher, beats = running._service._performer._publisher, len(running.heard)
        for answer in answers:
            position = publisher.position
            running._now += 20.0
            running.sink(answer)
            running.until(partial(has_moved, publisher, position), "the answer to be taken")
        assert running.result().version == pointer(running).version == 1
        status = TOPICS.topic(Address(Kind.COORDINATOR))
        assert len([one for one in running.heard[beats:] if one.topic == status]) >= 20.0 * parts / 30.0 - 1


def test_the_broker_s_answers_are_heard_behind_what_devices_still_send(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a machine that takes 20 s for each look at its queue. Seen to fail with one event a look: it gave up."""
    running, answers = slow_to_answer(tmp_path)
    draining, ready = threading.Event(), threading.Event()
    beat = Office.beat

    def slowly(office: Office, *, idle: bool) -> None:
        if sys._getframe(1).f_code.co_name == "drain":
            draining.set()
            assert ready.wait(LIMIT_S)
            running._now += 20.0
        beat(office, idle=idle)

    monkeypatch.setattr(Office, "beat", slowly)
    with running:
        running.until(draining.is_set, "the run's end")
        parts = pointer(running).blob.parts
        running.until(lambda: len(answers) == parts, "all parts of the model")
        for answer in answers:
            for number in range(5):
                running.sink(Inbound(f"{TOPICS.prefix}rounds/1/join/dev-{number}", b"{}"))
            running.sink(answer)
        ready.set()
        assert running.result().version == pointer(running).version == 1


def test_a_run_whose_last_model_the_broker_takes_no_more_of_ends_with_an_error(tmp_path: Path) -> None:
    """Seen to fail with a return in its place: it ended as if all were well."""
    running, answers = slow_to_answer(tmp_path)
    with running:
        running.until(lambda: bool(answers), "the model's first part")
        while not running.ended:
            running._now += 1.0
        with pytest.raises(LinkError, match=r"for 30 s the broker has taken no more of the model: start again"):
            running.result()
        assert pointer(running).version == 0
    again = RunningCoordinator(tmp_path / "state", rounds=1, quorum=2, goal=2, evaluate=False)
    with again:
        assert again.result().version == pointer(again).version == 1


def test_a_status_that_was_lost_on_its_way_is_asked_for_while_the_run_waits_for_devices(tmp_path: Path) -> None:
    """The broker retains it. Seen to fail without the question: nothing but the device's next heartbeat brought it, up
    to ten minutes later, and by then the run had ended for want of devices.
    """
    running, topic = RunningCoordinator(tmp_path, rounds=1, quorum=1, deadline_s=60.0), TOPICS.prefix + "devices/dev-a"
    lost = list[Event]()

    def sieve(event: Event) -> Event | None:
        if isinstance(event, Inbound) and event.topic == topic and not lost:
            event.ack()
            lost.append(event)
            return None
        return event

    running.sieve = sieve
    with running:
        running.device("dev-a", Script())
        running.until(lambda: bool(lost), "the status that is lost")
        running.skip(attendance.ASK_S - 0.1)
        assert not running.count(seen.RoundOpened)
        running.skip(0.2)
        running.skip(rounds.SETTLE_S)
        assert running.result().version == 1
