"""A run on disk stays one that can be gone on with, whatever its devices sent and its directory went through."""

from __future__ import annotations

import hashlib
import shutil
import sqlite3
from contextlib import closing
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from coordinator import observers as seen
from coordinator import run_store
from coordinator.database import SPARING_KIB
from coordinator.events import Finish, Tick, Ticket, Version
from coordinator.journal import Journal
from coordinator.round import SETTLE_S, step
from coordinator.round_state import Resting
from coordinator.run_store import RunStore, utc
from schemas import compression
from schemas.errors import FederationError, SettingsError
from schemas.messages import Phase, RoundAnnouncement, Update
from schemas.parameters import Parameters
from tests.running_coordinator import RunningCoordinator
from tests.scripted_device import Script, ScriptedDevice
from tests.test_service import MODEL, PLAN, TOPICS, Home, run_settings


class Cut(BaseException):
    """What nothing catches: a power cut, as far as this process goes."""


@pytest.mark.parametrize("task", ["train", "evaluate"])
def test_a_result_of_made_up_people_is_said_to_be_that_after_a_crash_that_left_all_its_updates(
    tmp_path: Path, task: str
) -> None:
    """They make it before a device is heard again. Seen to fail: no device's people were made up.

    And the model is evaluated all the same, by those who are heard then. Seen to fail: the run ended without.
    """
    home = Home(tmp_path / "state")
    for name in ("dev-a", "dev-b"):
        home.device(name, Script(held_out=4, synthetic=name == "dev-a"))

    def cut() -> None:
        event = home.watch.seen[-1]
        assert isinstance(event, seen.UpdateAccepted)
        if (event.task, event.received) == (task, 2):
            raise Cut

    home.watch.then = [(seen.UpdateAccepted, cut)]
    settings = run_settings(rounds=1, goal=2)
    with pytest.raises(Cut):
        home.run(settings)
    home.watch.then = []
    result = home.run(settings)
    assert result.metrics is not None
    assert ([summary.synthetic for summary in result.summaries], result.metrics.synthetic) == ([1], 1)


def test_a_run_of_which_no_round_was_opened_gives_way_to_other_settings(tmp_path: Path) -> None:
    """As where its broker wasn't there. Under a name of its own, since devices may have heard of the first.

    Seen to fail: it was refused, and asked for ``--fresh``.
    """
    first = run_settings(run="run-first")
    with RunStore(tmp_path, first, PLAN, MODEL, utc) as store:
        session = store.session
    other_model = Parameters(MODEL.manifest, MODEL.flat + np.float32(1))
    with RunStore(tmp_path, run_settings(run="run-other", codec="int8"), PLAN, other_model, utc) as store:
        assert (store.settings.run, store.settings.codec, store.resumed) == ("run-other", "int8", False)
        assert store.version.digest == store.checkpoint.parameters.digest() == other_model.digest()
        assert store.session > session
    with RunStore(tmp_path, run_settings(run="run-third", codec="int8"), PLAN, other_model, utc) as store:
        assert (store.settings.run, store.resumed) == ("run-other", True)
        ticket = Ticket(1, "train", 0, "00" * 8)
        list(store.open(announced(ticket, store.version).model_copy(update={"run": store.settings.run})))
    with pytest.raises(SettingsError, match=r"codec is int8 there and float32 here.*--fresh"):
        RunStore(tmp_path, first, PLAN, other_model, utc)


def test_a_power_cut_while_a_run_gives_way_leaves_one_that_can_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With either settings. Seen to fail with the first run taken back after the second one's model is on disk."""
    with RunStore(tmp_path, run_settings(run="run-first"), PLAN, MODEL, utc):
        pass

    def cut(*_: object) -> None:
        raise Cut

    other_model = Parameters(MODEL.manifest, MODEL.flat + np.float32(1))
    with monkeypatch.context() as patch:
        patch.setattr(Journal, "start_run", cut)
        with pytest.raises(Cut):
            RunStore(tmp_path, run_settings(run="run-other", codec="int8"), PLAN, other_model, utc)
    with RunStore(tmp_path, run_settings(run="run-third"), PLAN, MODEL, utc) as store:
        assert store.checkpoint.parameters.digest() == MODEL.digest()


class Poisoner(ScriptedDevice):
    """Its updates are well formed, and lead to where a downlink of float16 can't follow."""

    def update(self, asked: RoundAnnouncement, examples: int) -> Update:
        values = Parameters(self.manifest, np.full(self.manifest.size, 1e6, np.float32))
        payload = compression.encode("float32", values, np.random.default_rng(0))
        return super().update(asked, examples).model_copy(update={"payload": payload})


def test_updates_that_make_no_result_cost_attempts_and_leave_a_run_that_goes_on(tmp_path: Path) -> None:
    """Seen to fail with the error raised out of the conclusion: each later start folded the same updates, and ended."""
    directory = tmp_path / "state"
    coordinator = partial(RunningCoordinator, directory, rounds=1, quorum=2, evaluate=False, downlink="float16")
    running = coordinator()
    for name in ("dev-a", "dev-b"):
        running.device(name, Script())
    Poisoner("dev-z", TOPICS, PLAN.manifest(), running.link, Script()).start()
    with running:
        while not running.ended:
            running.skip(1.0)
        with pytest.raises(FederationError, match=r"failed \d+ times in a row.*the downlink float16 can say"):
            running.result()
    assert {one.summary.outcome for one in running.of(seen.RoundClosed)} == {"abandoned"}
    running = coordinator()
    for name in ("dev-a", "dev-b", "dev-c"):
        running.device(name, Script())
    with running:
        running.skip(1.0)
        assert running.result().version == 1


@pytest.mark.parametrize("rotten", [False, True], ids=["after an upgrade that reads less", "of which a bit is wrong"])
def test_an_update_that_can_not_be_read_any_more_costs_its_attempt(tmp_path: Path, *, rotten: bool) -> None:
    """Seen to fail with an error that every later start ended with, too."""
    directory = tmp_path / "state"
    coordinator = partial(RunningCoordinator, directory, rounds=1, quorum=2, evaluate=False)
    running = coordinator()
    devices = [running.device("dev-a", Script()), running.device("dev-b", Script()), running.device("dev-c")]
    with running:
        running.skip(1.0)
        running.until(lambda: all(device.receipts for device in devices[:2]), "two receipts")
    with closing(sqlite3.connect(directory / "journal.db")) as journal, journal:
        for device, blob in journal.execute("SELECT device, blob FROM updates").fetchall()[:1]:
            mark = bytes((compression.MARK, compression.TABLE["float32"].ID))
            other = blob.replace(mark, b"\0" + mark[1:])
            assert other != blob
            values = (other, hashlib.sha256(blob if rotten else other).hexdigest(), device)
            journal.execute("UPDATE updates SET blob = ?, digest = ? WHERE device = ?", values)
    running = coordinator()
    for name in ("dev-a", "dev-b", "dev-c"):
        running.device(name, Script())
    with running:
        for _ in range(4):
            running.skip(1.0)
        assert running.result().version == 1
    (failed, _) = running.of(seen.RoundClosed)
    assert "can't be read any more" in failed.summary.reason


def test_a_journal_put_back_from_a_backup_leaves_a_run_that_goes_on(tmp_path: Path) -> None:
    """Its models are fewer than those on disk. Seen to fail with ``prune`` going by the files alone: the
    run's own newest model was deleted, and no later start had one.
    """
    directory, backup = tmp_path / "state", tmp_path / "backup"

    def run_to(rounds: int) -> int:
        running = RunningCoordinator(directory, rounds=rounds, goal=2, quorum=2, evaluate=False)
        for name in ("dev-a", "dev-b"):
            running.device(name, Script())
        with running:
            running.skip(SETTLE_S)
            return running.result().version

    assert run_to(2) == 2
    shutil.copytree(directory, backup)
    assert run_to(30) == 30
    for file in directory.glob("journal.db*"):
        file.unlink()
    shutil.copytree(backup, directory, dirs_exist_ok=True)
    for rounds in (4, 5):
        assert run_to(rounds) == rounds


def test_how_often_the_last_rounds_were_tried_is_known_after_a_restart(tmp_path: Path) -> None:
    """So that late answers to them are told from inventions. Seen to fail with none remembered."""
    settings = run_settings(quorum=2)
    with RunStore(tmp_path, settings, PLAN, MODEL, utc) as store:
        state, _ = store.standing(0.0)
        assert state.attempts == {1: 0}
        for attempt in range(5):
            ticket = state.rules.ticket(1, "train", attempt)
            store.journal.open_round(announced(ticket, store.version))
            store.journal.abandon_round(ticket.nonce, "train", "nobody came")
    with RunStore(tmp_path, settings, PLAN, MODEL, utc) as store:
        state, _ = store.standing(0.0)
    assert (state.attempt, state.attempts) == (5, {1: 5})


def announced(ticket: Ticket, version: Version) -> RoundAnnouncement:
    return RoundAnnouncement(
        run="run-1",
        round=ticket.round,
        task=ticket.task,
        phase=Phase.COLLECTING,
        attempt=ticket.attempt,
        nonce=ticket.nonce,
        model_version=version.number,
        model_digest=version.digest,
        opened=utc().isoformat(timespec="seconds"),
        deadline_s=20.0,
        remaining_s=20.0,
        cohort=1.0,
        goal=3,
        quorum=2,
    )


@pytest.mark.parametrize("large", [False, True])
def test_the_journal_spares_memory_where_updates_are_large(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, large: bool
) -> None:
    monkeypatch.setattr(run_store, "LARGE", MODEL.manifest.size - large)
    with RunStore(tmp_path / "state", run_settings(), PLAN, MODEL, utc) as store:
        cache = store.journal._database.execute("PRAGMA cache_size")
    assert cache == [(-SPARING_KIB if large else -2000,)]


def test_a_run_that_has_had_devices_gives_them_as_many_attempts_after_a_restart_as_before(tmp_path: Path) -> None:
    """And then names the round. Seen to fail: it ended at the first deadline, as if nobody had started a device yet."""
    settings = run_settings(deadline_s=600.0)
    with RunStore(tmp_path, settings, PLAN, MODEL, utc) as store:
        state, _ = store.standing(0.0)
        _, ended = step(state, Tick(600.0))
        assert [one.error[:14] for one in ended if isinstance(one, Finish) and one.error] == ["no device came"]
        store.journal.open_round(announced(state.ticket, store.version))
        store.journal.abandon_round(state.ticket.nonce, "train", "too few came")
    with RunStore(tmp_path, settings, PLAN, MODEL, utc) as store:
        state, _ = store.standing(0.0)
    state, _ = step(state, Tick(600.0))
    assert (type(state.stage), state.failures) == (Resting, 1)
