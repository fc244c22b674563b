"""What updates leave out, on a device's disk: which is in use, and what crashes and receipts make of it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from edge import files
from edge.core.events import Parcel, Ticket
from edge.core.jobs import Train
from edge.outbox import Outbox
from edge.residuals import Left
from schemas import parts
from schemas.errors import StateError
from schemas.messages import Outcome, Task
from schemas.topics import Kind
from tests.edge_scripts import DEVICE, announcement, digest, nonce, receipt
from tests.test_agent import World

PLAN = digest("plan")


def ticket(number: int, task: Task = "train", run: str = "run-one", attempt: int = 0) -> Ticket:
    return Ticket(run, number, task, nonce(number * 10 + attempt))


class Box:
    """An outbox, and what it reported."""

    def __init__(self, directory: Path) -> None:
        self.reports: list[str] = []
        self.directory = directory
        self.outbox = Outbox(directory, self.reports.append)

    def put(self, about: Ticket, left: bytes = b"") -> None:
        blob = f"{about}".encode()
        self.outbox.put(Parcel(about, parts.describe(blob, 1024)), blob, 0.0, Left(PLAN, left))

    def settle(self, about: Ticket, outcome: str = "accepted") -> None:
        self.outbox.settle(about, outcome)

    def residual(self, number: int, run: str = "run-one", plan: str = PLAN) -> bytes:
        """What round ``number`` is to carry, as it was before a restart and as it is after it."""
        before = self.outbox.residual(ticket(number, run=run), plan)
        assert Outbox(self.directory, self.reports.append).residual(ticket(number, run=run), plan) == before
        return before

    def files(self) -> set[str]:
        return {path.name for path in self.directory.glob("*.residual")}


@pytest.fixture
def box(tmp_path: Path) -> Box:
    return Box(tmp_path / "outbox")


def test_what_an_update_left_out_is_the_next_ones_whether_its_receipt_has_come_or_not(box: Box) -> None:
    box.put(ticket(1), b"one")
    assert box.residual(2) == b"one"
    box.settle(ticket(1))
    assert box.residual(2) == b"one"
    box.put(ticket(2), b"two")
    assert box.residual(3) == b"two"


@pytest.mark.parametrize("outcome", ["rejected", "late", "superseded"])
def test_after_an_update_that_was_not_counted_the_residual_before_it_is_in_use_again(box: Box, outcome: str) -> None:
    """Seen to fail with the newest update's taken whatever became of it."""
    box.put(ticket(1), b"one")
    box.settle(ticket(1))
    box.put(ticket(2), b"two")
    box.settle(ticket(2), outcome)
    assert box.residual(3) == b"one"
    box.put(ticket(3), b"three")
    box.settle(ticket(3), outcome)
    assert box.residual(4) == b"one"


@pytest.mark.parametrize("outcome", ["expired", "dropped", "evicted"])
def test_after_an_update_of_which_nobody_knows_whether_it_was_counted_nothing_is_carried(
    box: Box, outcome: str
) -> None:
    """It may have been, its receipt being lost. Seen to fail where the residual before it was in use again."""
    box.put(ticket(1), b"one")
    box.settle(ticket(1))
    box.put(ticket(2), b"two")
    box.settle(ticket(2), outcome)
    assert box.residual(3) == b""
    box.put(ticket(3), b"three")
    assert box.residual(4) == b"three"
    box.settle(ticket(3), "rejected")
    assert box.residual(4) == b""


def test_an_update_that_rots_after_it_was_sent_is_settled_by_its_receipt_and_carried_on_from(box: Box) -> None:
    """Seen to fail where damage dropped its entry: "one" was carried twice, and round 2 was trained again."""
    box.put(ticket(1), b"one")
    box.settle(ticket(1))
    box.put(ticket(2), b"two")
    assert box.outbox.blob(ticket(2)) is not None  # from memory
    (path,) = box.directory.glob("*.2.train.update")
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    assert box.outbox.blob(ticket(2)) is None
    assert box.outbox.residual(ticket(3), PLAN) == b"two"
    box.settle(ticket(2))
    assert box.residual(3) == b"two"
    assert ticket(2) in Outbox(box.directory, print).contents().settled


def test_another_attempt_at_a_round_carries_what_the_first_one_did(box: Box) -> None:
    """An abandoned round counts nobody's update, accepted or not."""
    box.put(ticket(1), b"one")
    box.put(ticket(2), b"two")
    box.settle(ticket(2))
    assert box.residual(2) == b"one"
    box.put(ticket(2, attempt=1), b"two again")
    assert (box.residual(2), box.residual(3)) == (b"one", b"two again")


def test_nothing_is_added_twice_where_a_codec_kept_no_account_in_between(box: Box) -> None:
    box.put(ticket(1), b"one")
    box.put(ticket(2))
    assert box.residual(3) == b""


def test_another_run_or_plan_has_no_use_for_it(box: Box) -> None:
    box.put(ticket(1), b"one")
    assert box.residual(2, run="run-two") == b""
    assert box.residual(2, plan=digest("another plan")) == b""
    box.put(ticket(1, run="run-two"), b"other")
    assert box.files() == {"run-two.1.train.residual"}


def test_an_evaluation_changes_nothing(box: Box) -> None:
    box.put(ticket(1), b"one")
    box.put(ticket(1, "evaluate"))
    box.settle(ticket(1, "evaluate"))
    assert box.residual(2) == b"one"


def test_at_most_two_are_on_disk(box: Box) -> None:
    for number in range(1, 12):
        box.put(ticket(number), bytes([number]) * 100)
        if number % 3:
            box.settle(ticket(number), "late" if number % 2 else "accepted")
        assert len(box.files()) <= 2


@pytest.mark.parametrize("harm", [lambda p: p.write_bytes(p.read_bytes()[:-1]), lambda p: p.write_bytes(b"")])
def test_a_torn_one_is_set_aside_with_a_message_and_not_used(box: Box, harm: Callable[[Path], int]) -> None:
    """Nor is the one before it, whose part the update has carried already."""
    box.put(ticket(1), b"one")
    box.put(ticket(2), b"two")
    harm(box.directory / "run-one.2.train.residual")
    assert box.residual(3) == b""
    assert "run-one.2.train.residual is damaged; set aside" in box.reports[0]


def test_one_of_another_update_is_not_used(box: Box) -> None:
    """A crash after a residual was written, and before its update was."""
    box.put(ticket(1), b"one")
    path = box.directory / "run-one.1.train.residual"
    files.write(path, {"update": digest("another"), "plan": PLAN}, b"two", durable=False)
    assert (box.residual(2), box.reports) == (b"", [])


def test_one_that_the_disk_does_not_give_is_not_used_and_its_owner_is_told(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen to fail with nothing told."""
    box.put(ticket(1), b"one")

    def refuse(path: Path) -> None:
        raise StateError(f"can't read {path.name}")

    with monkeypatch.context() as patch:
        patch.setattr(files, "read", refuse)
        assert box.outbox.residual(ticket(2), PLAN) == b""
    assert box.reports == ["can't read run-one.1.train.residual"]
    assert box.residual(2) == b"one"


def test_it_waits_for_no_disk(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", synced.append)
    box.put(ticket(1), b"one")
    assert len(synced) == 2


def test_on_a_full_disk_the_update_has_its_room(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seen to fail without the second try in ``Outbox.put``."""
    box.put(ticket(1), b"one")
    box.settle(ticket(1))
    write = files.write

    def full(path: Path, header: dict[str, object], payload: bytes = b"", **how: object) -> None:
        taken = sum(one.stat().st_size for one in box.directory.iterdir())
        if taken + len(payload) > 4000:
            raise StateError("the disk is full")
        write(path, header, payload, **how)  # type: ignore[arg-type]  # as it came

    monkeypatch.setattr(files, "write", full)
    box.put(ticket(2), bytes(2500))
    assert box.outbox.blob(ticket(2)) is not None
    box.put(ticket(3), bytes(9000))
    assert box.outbox.blob(ticket(3)) is not None
    assert "what round 3 leaves out is lost" in box.reports[-1]


# -- in the device -----------------------------------------------------------------------------------------------------


class Killed(BaseException):
    """The process ends here."""


@contextmanager
def dying(patch: pytest.MonkeyPatch, at: int) -> Iterator[list[str]]:
    """The process is killed at its ``at``-th change of a directory, before or after it by turns."""
    done: list[str] = []

    def counted(name: str, does: Callable[..., object]) -> Callable[..., object]:
        def operation(*arguments: object, **options: object) -> object:
            done.append(name)
            if len(done) == at:
                if at % 2:
                    does(*arguments, **options)
                raise Killed
            return does(*arguments, **options)

        return operation

    with patch.context() as within:
        for name in ("replace", "unlink"):
            within.setattr(Path, name, counted(name, getattr(Path, name)))
        yield done


def chained(world: World) -> None:
    """A trainer whose residual says which update it was made with."""
    world.trainer.payload = lambda job: b"%d carries (%s)" % (job.seed, job.residual[-200:])
    world.trainer.residual = lambda job: b"left by " + world.trainer.payload(job)


def sent_with(job: Train, world: World) -> bytes:
    return b"left by " + world.trainer.payload(job)


def rounds(world: World, outcomes: tuple[Outcome, ...], patch: pytest.MonkeyPatch, kill: int, *, torn: bool) -> bool:
    """Play rounds with a device that is killed once; True where that was early enough to happen.

    Each training must carry what the newest update left out that was counted, or nothing where that is lost.
    """
    counted, killed = b"", False
    for number, outcome in enumerate(outcomes, start=1):
        while True:
            try:
                with dying(patch, 0 if killed else kill) as done:
                    message = world.desk.announce(announcement(number, version=0))
                    world.turn()
                    job = world.trainer.trainings()[-1]
                    world.desk.say(Kind.RECEIPT, receipt(message, outcome), number)
                    world.turn(1.0)
                break
            except Killed:
                killed = True
                if torn:
                    for path in world.state.rglob("*.residual"):
                        os.truncate(path, path.stat().st_size // 2)
                world.broker.cut(DEVICE)
                world.agent._link.close()  # or the dead one would connect again
                world.device()
            finally:
                kill -= len(done)
        jobs = [job for job in world.trainer.trainings() if f"/{number}/train/" in job.key]
        for job in jobs:
            assert job.residual in ({counted, b""} if torn else {counted}), (number, kill)
        if outcome is Outcome.ACCEPTED:
            counted = sent_with(jobs[-1], world)
    return killed


@pytest.mark.parametrize("torn", [False, True], ids=["killed", "power cut"])
def test_invariant_08_killed_at_any_write_a_device_carries_what_was_left_and_nothing_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, torn: bool
) -> None:
    """Seen to fail with residuals kept under one name: what a refused update left out was carried."""
    outcomes = (Outcome.ACCEPTED, Outcome.ACCEPTED, Outcome.REJECTED, Outcome.ACCEPTED)
    at, killed = 0, True
    while killed:
        at += 1
        world = World(tmp_path / f"{at}")
        chained(world)
        world.desk.begin()
        world.turn()
        killed = rounds(world, outcomes, monkeypatch, at, torn=torn)
    assert at > len(outcomes) * 3
