"""The journal keeps what it was given, all or nothing, through kills, full disks and second coordinators."""

from __future__ import annotations

import hashlib
import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator import database
from coordinator.journal import PIECE, Journal, ModelVersion
from schemas.errors import DiskFull, StateError
from schemas.messages import (
    TAG,
    BlobRef,
    Counts,
    DeviceState,
    DeviceStatus,
    Metrics,
    Phase,
    PlanRef,
    RoundAnnouncement,
    RoundSummary,
    RunSettings,
    Task,
    Update,
)

AT = "2025-11-23T20:00:00+00:00"
DIGESTS = [hashlib.sha256(str(n).encode()).hexdigest() for n in range(10)]
PLAN = PlanRef(name="digits", blob=BlobRef(digest=DIGESTS[9], size=1400, parts=1))
RUN = RunSettings(run="run-1", rounds=5, plan=PLAN)
METRICS = Metrics(examples=2, loss=0.5, accuracy=0.5, macro_f1=None)
COUNTS = Counts(examples=2, loss_sum=1.0, confusion=((1, 1), (0, 0)))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "journal.db"


@pytest.fixture
def journal(path: Path) -> Iterator[Journal]:
    with Journal(path) as opened:
        opened.start_run(RUN, DIGESTS[0], AT)
        yield opened


def nonce(number: int, task: Task = "train", attempt: int = 0) -> str:
    return hashlib.md5(f"{number}{task}{attempt}".encode(), usedforsecurity=False).hexdigest()[:16]


def announced(number: int, task: Task = "train", attempt: int = 0) -> RoundAnnouncement:
    """Round n trains from version n - 1 and evaluates version n."""
    version = number - 1 if task == "train" else number
    return RoundAnnouncement(
        run="run-1",
        round=number,
        task=task,
        phase=Phase.COLLECTING,
        attempt=attempt,
        nonce=nonce(number, task, attempt),
        model_version=version,
        model_digest=DIGESTS[version],
        opened=AT,
        deadline_s=600,
        remaining_s=600,
        cohort=0.7,
        goal=10,
        quorum=3,
    )


def update(device: str, number: int = 1, task: Task = "train", attempt: int = 0) -> tuple[Update, bytes, str]:
    """An update, its bytes and their digest."""
    blob = f"the bytes of {device} in attempt {attempt}".encode() * 50
    message = Update(
        round=number,
        task=task,
        nonce=nonce(number, task, attempt),
        device=device,
        model_version=0,
        model_tag=DIGESTS[0][:TAG],
        examples=37,
        payload=b"delta" if task == "train" else b"",
        train_loss=0.25 if task == "train" else None,
        counts=COUNTS if task == "evaluate" else None,
    )
    return message, blob, hashlib.sha256(blob).hexdigest()


def summary(number: int, **fields: object) -> RoundSummary:
    return RoundSummary.model_validate(
        {
            "run": "run-1",
            "round": number,
            "outcome": "committed",
            "model_version": number,
            "devices": ["dev-a"],
            **fields,
        }
    )


def version(number: int, previous: int | None = None) -> ModelVersion:
    before = number - 1 if previous is None else previous
    return ModelVersion("run-1", number, DIGESTS[number], DIGESTS[before])


def commit(journal: Journal, number: int, *devices: str) -> None:
    """A whole round of training."""
    journal.open_round(announced(number))
    with journal.batch():
        for device in devices:
            journal.add_update("run-1", *update(device, number))
    journal.commit_round(nonce(number), summary(number), version(number), AT)


def kept(journal: Journal, number: int = 1, task: Task = "train") -> list[str]:
    return [stored.device for stored in journal.updates("run-1", number, task)]


def test_sessions_rise_over_restarts(path: Path) -> None:
    numbers = []
    for _ in range(3):
        with Journal(path) as journal:
            numbers += [journal.next_session(), journal.next_session()]
    assert numbers == [1, 2, 3, 4, 5, 6]


def test_must_30_a_session_that_was_noted_is_passed_by_the_next_one_after_a_restart_too(path: Path) -> None:
    with Journal(path) as journal:
        journal.note_session(70)
        journal.note_session(50)
    with Journal(path) as journal:
        assert journal.next_session(10) == 71


def test_a_new_journal_has_nothing_to_resume(path: Path) -> None:
    with Journal(path) as journal:
        assert journal.open_run() is None


def test_a_journal_that_an_earlier_version_wrote_goes_on_with_its_open_round(path: Path) -> None:
    """Seen to fail without the UPDATE of ``v2.sql``."""
    path.parent.mkdir()
    asked, (sent, blob, digest) = announced(1), update("dev-a")
    old = sqlite3.connect(path)
    old.executescript((resources.files("coordinator") / "migrations" / "v1.sql").read_text("utf-8"))
    old.executescript(f"PRAGMA application_id = {database.APPLICATION_ID}; PRAGMA user_version = 1;")
    with old:
        old.execute("INSERT INTO runs VALUES ('run-1', ?, ?, NULL)", (RUN.model_dump_json(), AT))
        old.execute("INSERT INTO models VALUES ('run-1', 0, ?, NULL, ?)", (DIGESTS[0], AT))
        old.execute(
            "INSERT INTO rounds VALUES (?, 'run-1', 1, 'train', 0, 'collecting', ?, 600.0, 0, ?, ?, NULL, NULL)",
            (asked.nonce, AT, DIGESTS[0], asked.model_dump_json()),
        )
        old.execute(
            "INSERT INTO updates VALUES (1, 'run-1', 1, 'train', 'dev-a', ?, 37, 0.25, NULL, ?, ?)",
            (asked.nonce, digest, blob),
        )
    old.close()
    with Journal(path) as journal:
        resume = journal.open_run()
        assert resume is not None
        assert (resume.devices, kept(journal), journal.marked(asked.nonce)) == (("dev-a",), ["dev-a"], (0.0, 0))
        assert journal.add_update("run-1", sent, blob, digest) is False
        journal.add_update("run-1", *update("dev-b"))
        journal.commit_round(asked.nonce, summary(1), version(1), AT)
        assert kept(journal) == ["dev-a", "dev-b"]


def test_an_interrupted_round_resumes_with_its_nonce_deadline_and_updates(journal: Journal, path: Path) -> None:
    commit(journal, 1, "dev-a")
    journal.open_round(announced(2))
    with journal.batch():
        for device in ("dev-c", "dev-a", "dev-b"):
            assert journal.add_update("run-1", *update(device, 2))
    journal.close()
    with Journal(path) as again:
        resume = again.open_run()
        assert resume is not None
        assert resume.settings == RUN
        assert resume.model == version(1)
        assert resume.round == announced(2).model_copy(update={"received": 3})
        assert resume.devices == ("dev-c", "dev-a", "dev-b")
        assert (resume.committed, resume.evaluated) == (1, 0)
        stored = list(again.updates("run-1", 2, "train"))
        assert [each.device for each in stored] == ["dev-a", "dev-b", "dev-c"]
        _, blob, digest = update("dev-a", 2)
        assert (stored[0].blob, stored[0].digest, stored[0].nonce) == (blob, digest, nonce(2))
        assert (stored[0].examples, stored[0].train_loss, stored[0].counts) == (37, 0.25, None)
        again.commit_round(nonce(2), summary(2), version(2), AT)
        assert again.open_run() is not None


@given(sent=st.lists(st.sampled_from(["dev-a", "dev-b", "dev-c", "dev-d"]), max_size=20), batch=st.integers(1, 6))
@settings(max_examples=15, deadline=None)
def test_no_device_counts_twice_however_often_and_in_whatever_batches_it_sends(
    sent: list[str], batch: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Invariant 1: one update for each (run, round, task, device), and the first stays."""
    with Journal(tmp_path_factory.mktemp("journal") / "journal.db") as journal:
        journal.start_run(RUN, DIGESTS[0], AT)
        journal.open_round(announced(1))
        seen: set[str] = set()
        for start in range(0, len(sent), batch):
            with journal.batch():
                for device in sent[start : start + batch]:
                    message, blob, digest = update(device)
                    fresh = journal.add_update("run-1", message, blob, digest)
                    assert fresh == (device not in seen)
                    seen.add(device)
        assert kept(journal) == sorted(seen)


def test_a_round_and_its_evaluation_are_two_tasks(journal: Journal) -> None:
    commit(journal, 1, "dev-a")
    journal.open_round(announced(1, "evaluate"))
    assert journal.add_update("run-1", *update("dev-a", 1, "evaluate"))
    assert [each.counts for each in journal.updates("run-1", 1, "evaluate")] == [COUNTS]
    journal.commit_evaluation(nonce(1, "evaluate"), METRICS)
    resume = journal.open_run()
    assert resume is not None
    assert (resume.committed, resume.evaluated, resume.round) == (1, 1, None)
    assert journal.history("run-1") == (summary(1, metrics=METRICS.model_dump()),)


def test_an_abandoned_attempt_counts_for_nothing_and_its_devices_are_taken_again(journal: Journal) -> None:
    journal.open_round(announced(1))
    journal.add_update("run-1", *update("dev-a"))
    journal.abandon_round(nonce(1), "train", "1 update of the 3 needed")
    assert kept(journal) == []
    assert journal.attempts("run-1", 1, "train") == 1
    journal.open_round(announced(1, attempt=1))
    assert journal.add_update("run-1", *update("dev-a", attempt=1))
    journal.commit_round(nonce(1, attempt=1), summary(1), version(1), AT)
    first, second = journal.history("run-1")
    assert (first.outcome, first.reason, first.model_version) == ("abandoned", "1 update of the 3 needed", 0)
    assert second == summary(1)


def test_versions_go_up_by_one_and_chain_and_are_never_used_again(journal: Journal) -> None:
    """Invariant 5, and 3: a commit that is refused leaves the round open with all it had."""
    commit(journal, 1)
    journal.open_round(announced(2))
    journal.add_update("run-1", *update("dev-a", 2))
    for wrong in (version(3, 1), version(1, 0), version(2, 0), version(2, 3)):
        with pytest.raises(StateError, match="does not follow"):
            journal.commit_round(nonce(2), summary(2, rejected={"malformed": 4}), wrong, AT)
        resume = journal.open_run()
        assert resume is not None
        assert (resume.round is not None, resume.devices, resume.model) == (True, ("dev-a",), version(1))
        assert journal.roster.rejections("run-1") == {}
    journal.commit_round(nonce(2), summary(2), version(2), AT)
    assert [each.version for each in journal.models("run-1")] == [0, 1, 2]
    assert [each.previous for each in journal.models("run-1")] == [None, DIGESTS[0], DIGESTS[1]]


@pytest.mark.parametrize(
    ("number", "digest", "previous"),
    [(2, DIGESTS[2], DIGESTS[1]), (1, DIGESTS[1], DIGESTS[5]), (0, DIGESTS[1], None), (1, DIGESTS[1], None)],
    ids=["skips a version", "chains to another digest", "is there already", "chains to nothing"],
)
def test_the_schema_itself_keeps_the_chain(journal: Journal, number: int, digest: str, previous: str | None) -> None:
    with pytest.raises(StateError, match="fault of this program"):
        journal._database.execute("INSERT INTO models VALUES ('run-1', ?, ?, ?, '')", (number, digest, previous))


def test_the_schema_itself_lets_no_version_change(journal: Journal) -> None:
    with pytest.raises(StateError, match="never changed"):
        journal._database.execute("UPDATE models SET digest = ?", (DIGESTS[3],))


def test_only_one_run_and_one_round_are_open(journal: Journal) -> None:
    with pytest.raises(StateError, match="'run-1' is not finished"):
        journal.start_run(RUN.model_copy(update={"run": "run-2"}), DIGESTS[0], AT)
    journal.open_round(announced(1))
    with pytest.raises(StateError, match="UNIQUE"):
        journal.open_round(announced(1, attempt=1))
    with pytest.raises(StateError, match="open round"):
        journal.finish_run("run-1", AT)
    journal.abandon_round(nonce(1), "train", "stopped")
    journal.finish_run("run-1", AT)
    assert journal.open_run() is None
    journal.start_run(RUN.model_copy(update={"run": "run-2"}), DIGESTS[4], AT)
    assert journal.models("run-2") == (ModelVersion("run-2", 0, DIGESTS[4], None),)


def test_of_a_run_that_is_taken_back_nothing_is_left(journal: Journal) -> None:
    """Seen to fail with its version kept: no run could have its name."""
    journal.forget_run("run-1")
    assert (journal.open_run(), journal.models("run-1")) == (None, ())
    journal.start_run(RUN, DIGESTS[4], AT)
    assert [each.digest for each in journal.models("run-1")] == [DIGESTS[4]]


def test_a_run_that_was_finished_once_stays_finished_then(journal: Journal) -> None:
    """Seen to fail without the look at ``finished``: an earlier run became the last one."""
    journal.finish_run("run-1", "2025-11-24T10:00:00+00:00")
    journal.start_run(RUN.model_copy(update={"run": "run-2"}), DIGESTS[4], AT)
    journal.finish_run("run-2", "2025-11-24T11:00:00+00:00")
    journal.finish_run("run-1", "2025-11-24T12:00:00+00:00")
    last = journal.finished_run()
    assert last is not None
    assert last.settings.run == "run-2"


def test_nothing_can_be_added_to_or_done_with_a_round_that_is_not_open(journal: Journal) -> None:
    with pytest.raises(StateError, match="not open"):
        journal.add_update("run-1", *update("dev-a"))
    commit(journal, 1, "dev-a")
    with pytest.raises(StateError, match="not open"):
        journal.add_update("run-1", *update("dev-b"))
    assert not journal.add_update("run-1", *update("dev-a"))  # a duplicate is still one
    with pytest.raises(StateError, match="no open train round"):
        journal.commit_round(nonce(1), summary(1), version(1), AT)
    with pytest.raises(StateError, match="no open evaluate round"):
        journal.commit_evaluation(nonce(1), METRICS)
    journal.open_round(announced(2))
    with pytest.raises(StateError, match="not open"):
        journal.add_update("run-1", *update("dev-b", 2, attempt=7))  # of another attempt: another nonce


def test_an_exception_in_a_batch_undoes_all_of_it(journal: Journal) -> None:
    journal.open_round(announced(1))

    def fail_after_one() -> None:
        with journal.batch():
            journal.add_update("run-1", *update("dev-a"))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail_after_one()
    assert kept(journal) == []
    assert journal.add_update("run-1", *update("dev-a"))


def test_a_batch_with_a_failed_part_is_not_kept_even_if_the_failure_was_caught(journal: Journal) -> None:
    journal.open_round(announced(1))

    def swallow() -> None:
        with journal.batch():
            journal.add_update("run-1", *update("dev-a"))
            with pytest.raises(StateError, match="does not follow"):
                journal.commit_round(nonce(1), summary(1), version(2), AT)

    with pytest.raises(StateError, match="nothing of this batch"):
        swallow()
    assert kept(journal) == []
    resume = journal.open_run()
    assert resume is not None
    assert resume.round is not None


def test_a_damaged_update_is_found_when_it_is_read(journal: Journal) -> None:
    journal.open_round(announced(1))
    journal.add_update("run-1", *update("dev-a"))
    journal._database.execute("UPDATE updates SET blob = x'00'")
    with pytest.raises(StateError, match=r"update of dev-a .* damaged"):
        kept(journal)


@pytest.mark.parametrize("size", [1, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE, 3 * PIECE + 7])
def test_an_update_of_many_pieces_comes_back_whole_and_goes_whole(journal: Journal, size: int) -> None:
    """Seen to fail with the pieces read in no order, and without the trigger that deletes them."""
    journal.open_round(announced(1))
    blobs = {}
    for device in ("dev-a", "dev-b"):
        blobs[device] = os.urandom(size)
        sent, _, _ = update(device)
        journal.add_update("run-1", sent, blobs[device], hashlib.sha256(blobs[device]).hexdigest())
    assert {each.device: each.blob for each in journal.updates("run-1", 1, "train")} == blobs
    journal.abandon_round(nonce(1), "train", "too few")
    assert not journal._database.execute("SELECT 1 FROM pieces")


def test_a_damaged_piece_of_an_update_is_found_when_it_is_read(journal: Journal) -> None:
    journal.open_round(announced(1))
    sent, _, _ = update("dev-a")
    blob = bytes(2 * PIECE)
    journal.add_update("run-1", sent, blob, hashlib.sha256(blob).hexdigest())
    journal._database.execute("DELETE FROM pieces")
    with pytest.raises(StateError, match=r"update of dev-a .* damaged"):
        kept(journal)


def test_a_second_coordinator_is_refused_while_a_reader_is_welcome(journal: Journal, path: Path) -> None:
    with pytest.raises(StateError, match="in use by another coordinator"):
        Journal(path)
    reader = sqlite3.connect(path)
    assert reader.execute("SELECT run FROM runs").fetchall() == [("run-1",)]
    reader.close()
    assert journal.next_session() == 1


def test_a_full_disk_is_said_and_everything_committed_stays(journal: Journal) -> None:
    journal.open_round(announced(1))
    journal.add_update("run-1", *update("dev-a"))
    pages = journal._database._pragma("page_count")
    journal._database.execute(f"PRAGMA max_page_count = {pages}")  # SQLite's own way to be out of space
    message, _, _ = update("dev-c")
    blob = bytes(5 * database.PAGE_SIZE)

    def too_much() -> None:
        with journal.batch():
            journal.add_update("run-1", *update("dev-b"))
            journal.add_update("run-1", message, blob, hashlib.sha256(blob).hexdigest())

    with pytest.raises(DiskFull, match=r"disk is full.*Free some disk space"):
        too_much()
    assert kept(journal) == ["dev-a"]
    journal._database.execute("PRAGMA max_page_count = 1000000")
    too_much()
    assert kept(journal) == ["dev-a", "dev-b", "dev-c"]


WRITER = """
import hashlib, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_journal import *

with Journal(Path(sys.argv[1])) as journal:
    if journal.open_run() is None:
        journal.start_run(RUN, DIGESTS[0], AT)
        journal.open_round(announced(1))
    begin = len(kept(journal))
    for first in range(begin, 10**6, 5):
        with journal.batch():
            for n in range(first, first + 5):
                message, _, _ = update(f"dev-{n:06d}")
                blob = b"%d" % n * 20_000
                journal.add_update("run-1", message, blob, hashlib.sha256(blob).hexdigest())
        print(first + 5, flush=True)
"""


def test_a_killed_coordinator_has_every_update_it_said_it_had_and_no_half_batch(path: Path) -> None:
    """Invariant 4: kill -9 in the middle of group commits, then again from where it was."""
    said = 0
    for batches in (3, 1, 7):
        command = [sys.executable, "-c", WRITER, str(path), str(Path(__file__).parent)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout is not None
            for _ in range(batches):
                said = int(child.stdout.readline())
            child.kill()
            said = max([said, *map(int, child.stdout.read().split())])
        with Journal(path) as journal:
            found = kept(journal)  # reading checks every digest
            assert found == [f"dev-{n:06d}" for n in range(len(found))]
            assert len(found) % 5 == 0
            assert len(found) in {said, said + 5}  # one batch may be on disk and not yet said
            resume = journal.open_run()
            assert resume is not None
            assert resume.round == announced(1).model_copy(update={"received": len(found)})


@pytest.mark.parametrize(
    ("table", "column", "kind"),
    [
        ("runs", "settings", "RunSettings"),
        ("rounds", "announcement", "RoundAnnouncement"),
        ("devices", "status", "DeviceStatus"),
    ],
)
def test_a_row_that_holds_no_message_is_a_state_error(tmp_path: Path, table: str, column: str, kind: str) -> None:
    """Which names the message, and the option that helps. Seen to fail with ``model_validate_json`` alone."""
    path = tmp_path / "journal.db"
    with Journal(path) as journal:
        journal.start_run(RUN, DIGESTS[0], AT)
        journal.open_round(announced(1))
        journal.roster.add(DeviceStatus(device="dev-1", session=1, state=DeviceState.IDLE), AT)
    with sqlite3.connect(path) as connection:
        connection.execute(f"UPDATE {table} SET {column} = '{{}}'")  # noqa: S608 - our own names
    connection.close()
    says = f"the journal holds a {kind} that can't be read: start a new run with --fresh"
    with Journal(path) as journal, pytest.raises(StateError, match=says):  # noqa: PT012 - one of the two
        journal.open_run()
        journal.roster.devices()


def test_the_newest_rounds_are_told_without_the_rest(journal: Journal) -> None:
    """A run may have thousands. Seen to fail with all of them read."""
    assert journal.last_closed("run-1") == 0
    for number in (1, 2, 3):
        journal.open_round(announced(number))
        journal.commit_round(nonce(number), summary(number), version(number), AT)
    journal.open_round(announced(4))
    assert journal.last_closed("run-1") == 3
    assert [one.round for one in journal.history("run-1", 2)] == [2, 3]
    assert [one.round for one in journal.history("run-1", -6)] == [1, 2, 3]
