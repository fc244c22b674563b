"""A coordinator whose disk is full, or in other trouble, at any of its writes: it pauses, and nothing is lost."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from coordinator import observers as seen
from coordinator import pause, reactor
from coordinator import round as rounds
from coordinator.events import Event as RoundEvent
from coordinator.events import Tick
from coordinator.journal import Journal
from coordinator.models import ModelStore
from coordinator.service import RunResult
from coordinator.stepper import Stepper
from schemas import codec
from schemas.errors import DiskFull, StateError
from schemas.link.link import Event, Inbound
from schemas.link.memory import MemoryLink
from schemas.messages import CoordinatorState, CoordinatorStatus, DeviceState, DeviceStatus, Outcome, Receipt
from schemas.topics import Address, Kind
from tests.full_disks import Ballast, Disk, broken, full, over_quota, small_disk
from tests.scripted_device import Script
from tests.test_service import TOPICS, Crash, Home, run_settings

SETTINGS = run_settings(rounds=2, deadline_s=600.0)
STATE = "state"


@dataclass
class Ears:
    """What everybody could hear of a run, and what was in the journal when a receipt said "accepted"."""

    state: Path
    statuses: list[CoordinatorStatus] = field(default_factory=list)
    unkept: list[Receipt] = field(default_factory=list)  # said to be accepted, and not on disk

    def __call__(self, event: Event) -> None:
        if not isinstance(event, Inbound):
            return
        address = TOPICS.parse(event.topic)
        if address is None or address.kind not in {Kind.COORDINATOR, Kind.RECEIPT}:
            return
        message = codec.decode(address.kind, event.payload)
        if isinstance(message, CoordinatorStatus):
            self.statuses.append(message)
        elif isinstance(message, Receipt) and message.outcome is Outcome.ACCEPTED and not self._is_kept(message):
            self.unkept.append(message)

    def _is_kept(self, receipt: Receipt) -> bool:
        journal = sqlite3.connect(f"file:{self.state / 'journal.db'}?mode=ro", uri=True)
        sql = "SELECT 1 FROM updates WHERE nonce = ? AND device = ?"
        kept = journal.execute(sql, (receipt.nonce, receipt.device)).fetchall()
        journal.close()
        return bool(kept)

    @property
    def states(self) -> list[CoordinatorState]:
        """What the coordinator said it was, without repetitions."""
        found = [status.state for status in self.statuses]
        return [state for at, state in enumerate(found) if at == 0 or found[at - 1] is not state]


def at_home(state: Path, part_size: int = 4000) -> tuple[Home, Ears]:
    """Three devices that train and evaluate, and somebody who listens."""
    home, ears = Home(state), Ears(state)
    listener = MemoryLink(home.broker, "listener", ears)
    listener.subscribe(f"{TOPICS.prefix}#")
    listener.open()
    for number in range(3):
        home.device(f"dev-{number}", Script(examples=10 + number, held_out=2, part_size=part_size))
    return home, ears


def undisturbed(state: Path, part_size: int = 4000) -> tuple[RunResult, list[str]]:
    """The run that nothing disturbs, and what it asks of its disk."""
    home, _ = at_home(state, part_size)
    with Disk() as disk:
        return home.run(SETTINGS), disk.operations


def check(home: Home, result: RunResult, expected: RunResult) -> None:
    """Every update counts once, for the same model, and every device was asked and answered once a task."""
    assert (result.digest, result.metrics) == (expected.digest, expected.metrics)
    assert [summary.devices for summary in result.summaries] == [summary.devices for summary in expected.summaries]
    for device in home.devices.values():
        assert [(asked.round, asked.task) for asked in device.asked] == [
            (number, task) for number in (1, 2) for task in ("train", "evaluate")
        ]
        outcomes = [
            outcome for number in (1, 2) for task in ("train", "evaluate") for outcome in device.outcomes(number, task)
        ]
        assert outcomes == [Outcome.ACCEPTED] * 4


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pause, "RETRY_S", 0.001)
    monkeypatch.setattr(rounds, "RETURN_S", 0.05)  # how long a restart waits for devices to come back


@pytest.mark.parametrize(
    ("trouble", "every"), [(full, 1), (over_quota, 5), (broken, 5)], ids=["full", "over quota", "broken"]
)
def test_invariant_11_a_disk_that_takes_no_more_at_any_one_write_pauses_the_run_and_changes_nothing(
    tmp_path: Path, trouble: Callable[[str], None], every: int
) -> None:
    """Invariants 2 and 3 too: at each of its writes in turn, once or for a while.

    Seen to fail with ``batch.done += 1`` before the effect, with the effects done before the commit, and without
    ``self._aside.put_back(message)``.
    """
    expected, operations = undisturbed(tmp_path / "undisturbed")
    first = operations.index("sqlite INSERT INTO devices") - 1  # what comes before is its start
    draw = random.Random(1)  # noqa: S311 - any numbers will do
    for at in range(first, len(operations), every):
        state = tmp_path / f"{at}"
        home, ears = at_home(state)
        with Disk(at, trouble, times=draw.choice((1, 1, 4))):
            result = home.run(SETTINGS)
        check(home, result, expected)
        assert ears.unkept == [], operations[at]
        paused = home.watch.of(seen.Paused)
        assert len(paused) == len(home.watch.of(seen.Resumed)) >= 1, operations[at]
        said = next(status for status in ears.statuses if status.state is CoordinatorState.PAUSED)
        assert str(state) in said.detail
        assert "disk" in said.detail
        assert ears.states[-2:] == [CoordinatorState.RUNNING, CoordinatorState.FINISHED]
        assert not home.broker._sessions["coordinator"].unacked


@pytest.mark.parametrize("at", range(5))
def test_invariant_02_what_is_taken_from_the_queue_as_the_disk_fills_up_is_not_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    """Seen to fail without ``self._put_back(event)``: it never learnt that its broker was there."""
    work, arrivals, step, taken, failed = (
        reactor.Reactor._work,
        reactor.Reactor._arrivals,
        Stepper.step,
        [False],
        [-1],
    )

    def watched(one: reactor.Reactor) -> Iterator[object]:
        for event in arrivals(one):
            taken[0] = True
            yield event

    def full_once(one: Stepper, event: RoundEvent) -> None:
        if isinstance(event, Tick) and taken[0]:
            taken[0] = False
            failed[0] += 1
            if failed[0] == at:
                raise DiskFull("full")
        step(one, event)

    def turn(one: reactor.Reactor) -> None:
        taken[0] = False
        work(one)

    expected, _ = undisturbed(tmp_path / "undisturbed")
    for name, function in (("_work", turn), ("_arrivals", watched)):
        monkeypatch.setattr(reactor.Reactor, name, function)
    monkeypatch.setattr(Stepper, "step", full_once)
    home, ears = at_home(tmp_path / STATE)
    check(home, home.run(SETTINGS), expected)
    assert ears.unkept == []
    assert not home.broker._sessions["coordinator"].unacked
    assert failed[0] >= at


def test_who_is_there_is_heard_at_once_as_the_disk_fills_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seen to fail with a status put back like an update, which is heard once there is room again."""
    work, heard = reactor.Reactor._work, list[bool]()
    topic = TOPICS.topic(Address(Kind.DEVICE, device="dev-0"))

    def turn(one: reactor.Reactor) -> None:
        work(one)
        known = one._attendance.fleet.members.get("dev-0")
        if known is not None and not heard:
            away = DeviceStatus(device="dev-0", session=known.session, state=DeviceState.OFFLINE)
            one._put_back(Inbound(topic, codec.encode(away), retained=False, ack=lambda: heard.append(True)))
            assert one._attendance.fleet.members["dev-0"].state is DeviceState.OFFLINE
            one._attendance.fleet.members["dev-0"] = known

    monkeypatch.setattr(reactor.Reactor, "_work", turn)
    home, _ = at_home(tmp_path / STATE)
    home.run(SETTINGS)
    assert heard == [True]


def test_a_disk_that_is_full_at_the_start_is_an_error_and_the_next_start_finds_nothing_half_done(
    tmp_path: Path,
) -> None:
    expected, operations = undisturbed(tmp_path / "undisturbed")
    first = operations.index("sqlite INSERT INTO devices") - 1
    for at in range(first):
        home, ears = at_home(tmp_path / f"{at}")
        with Disk(at), pytest.raises(DiskFull, match=r"Free some disk space|Check the --state directory") as error:
            home.run(SETTINGS)
        assert error.value.exit_code == 7
        assert ears.statuses == []
        check(home, home.run(SETTINGS), expected)


def test_trouble_that_is_not_about_space_still_ends_the_run(tmp_path: Path) -> None:
    """Seen to fail with every ``sqlite3.Error`` a ``DiskFull``."""

    def damaged(what: str) -> None:
        error = sqlite3.DatabaseError("database disk image is malformed")
        error.sqlite_errorname = "SQLITE_CORRUPT"
        raise error if what.startswith("sqlite") else PermissionError(13, "Permission denied")

    _, operations = undisturbed(tmp_path / "undisturbed")
    for at in (operations.index("pwrite"), operations.index("sqlite INSERT INTO updates")):
        home, _ = at_home(tmp_path / f"{at}")
        with Disk(at, damaged), pytest.raises(StateError) as error:
            home.run(SETTINGS)
        assert not isinstance(error.value, DiskFull)
        assert not home.watch.of(seen.Paused)


def whole(state: Path) -> None:
    """Invariants 3 and 5 for what is on disk now: each committed round has its version, the newest its file."""
    with Journal(state / "journal.db") as journal:
        run = journal.open_run() or journal.finished_run()
        if run is None:
            return
        models = journal.models(run.settings.run)
        summaries = journal.history(run.settings.run)
    assert [model.version for model in models] == list(range(len(models)))
    assert [model.previous for model in models[1:]] == [model.digest for model in models[:-1]]
    assert [summary.model_version for summary in summaries] == [model.version for model in models[1:]]
    assert ModelStore(state / "models").load(models[-1].version, models[-1].digest)
    updates = sqlite3.connect(f"file:{state / 'journal.db'}?mode=ro", uri=True)
    rows = updates.execute(
        "SELECT count(*) FROM updates JOIN rounds USING (nonce) WHERE phase = 'committed' GROUP BY nonce"
    ).fetchall()
    updates.close()
    assert {count for (count,) in rows} <= {3}


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_invariant_03_a_coordinator_killed_at_any_write_leaves_all_of_a_step_or_nothing_and_goes_on(
    tmp_path: Path, *, after: bool
) -> None:
    """Invariants 2, 4 and 5 too. What ends it is no error that anything could catch.

    Seen to fail without the ``batch`` in ``Journal.commit_round``, with the model saved after the commit, and with the
    commit of updates after their receipts.
    """

    def kill(_: str) -> None:
        raise Crash

    expected, operations = undisturbed(tmp_path / "undisturbed", 100_000)
    for at in range(len(operations)):
        state = tmp_path / f"{at}"
        home, ears = at_home(state, 100_000)
        with Disk(at, kill, after=after), pytest.raises(Crash):
            home.run(SETTINGS)
        if (state / "journal.db").exists():
            whole(state)
        result = home.run(SETTINGS)
        whole(state)
        assert result.digest == expected.digest
        assert ears.unkept == []
        for device in home.devices.values():
            asked = [asked.nonce for asked in device.asked]
            assert len(set(asked)) == len(asked)
            assert [asked.round for asked in device.asked if asked.task == "train"] == [1, 2]  # the same rounds went on
            for number in (1, 2):
                assert device.outcomes(number)[0] is Outcome.ACCEPTED  # which is final, whatever else may come


LONGER = run_settings(rounds=4, deadline_s=600.0)


@pytest.mark.parametrize("seed", range(4))
def test_invariant_11_a_real_disk_that_fills_up_again_and_again_changes_no_bit_of_the_model(
    tmp_path: Path, seed: int
) -> None:
    """A few megabytes of its own, with a ballast file thrown in at random points of the run, and out again.

    Seen to fail with ``SQLITE_FULL`` taken out of ``database.REFUSED``, and without the loop in ``Spool.write``.
    """
    expected = at_home(tmp_path / "undisturbed")[0].run(LONGER)
    draw = random.Random(seed)  # noqa: S311 - any numbers will do
    with small_disk(tmp_path / "disk") as disk:
        home, ears = at_home(disk / STATE)
        ballast, watch, leave = Ballast(disk), home.watch, [0]

        def throw_in(event: seen.Observation, /) -> None:
            watch(event)
            if not leave[0] and draw.random() < 0.3:
                ballast.fill()
                leave[0] = draw.randrange(2, 6)  # turns, while it is paused an attempt each

        def alive() -> None:
            leave[0] = max(leave[0] - 1, 0)
            if not leave[0]:
                ballast.drop()

        service = home.service(LONGER, observer=throw_in, alive=alive)
        result = service.run()
        ballast.drop()
        whole(disk / STATE)
    assert (result.digest, result.metrics) == (expected.digest, expected.metrics)
    assert all(device.outcomes(number) == [Outcome.ACCEPTED] for device in home.devices.values() for number in (1, 2))
    assert home.watch.of(seen.Paused)
    assert ears.unkept == []
    assert CoordinatorState.PAUSED in ears.states
    assert ears.states[-1] is CoordinatorState.FINISHED


def test_on_a_real_disk_that_is_full_nothing_starts_and_all_that_was_there_is_there_still(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk:
        home, _ = at_home(disk / STATE)
        ballast = Ballast(disk)
        ballast.fill()
        with pytest.raises(DiskFull, match=r"Free some disk space|its space"):
            home.run(SETTINGS)
        ballast.drop()
        first = home.run(SETTINGS)
        ballast.fill()
        with pytest.raises(DiskFull, match="Free some disk space"):
            home.run(run_settings(rounds=3))
        ballast.drop()
        assert home.run(SETTINGS).digest == first.digest
