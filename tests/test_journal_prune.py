"""Which updates the journal forgets, in which order, and how many at a time."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.journal import PIECE, Journal
from schemas.messages import Task
from tests.test_journal import (
    AT,
    DIGESTS,
    METRICS,
    RUN,
    announced,
    commit,
    journal,
    kept,
    nonce,
    path,
    summary,
    update,
    version,
)

__all__ = ["journal", "path"]

TASKS: tuple[Task, ...] = ("train", "evaluate")
Course = Literal["abandoned", "trained", "evaluated"]


def test_pruning_forgets_the_updates_of_old_rounds_and_nothing_else(journal: Journal) -> None:
    for number in (1, 2, 3):
        commit(journal, number, "dev-a", "dev-b")
    journal.open_round(announced(3, "evaluate"))
    journal.add_update("run-1", *update("dev-a", 3, "evaluate"))
    journal.prune(1)
    assert [kept(journal, number) for number in (1, 2, 3)] == [[], [], ["dev-a", "dev-b"]]
    journal.prune(0)
    assert kept(journal, 3) == []
    assert kept(journal, 3, "evaluate") == ["dev-a"]
    assert len(journal.history("run-1")) == 3
    assert len(journal.models("run-1")) == 4


@settings(max_examples=20, deadline=None)
@given(st.lists(st.sampled_from(["abandoned", "trained", "evaluated"]), min_size=1, max_size=7), st.integers(0, 5))
def test_the_newest_committed_rounds_stay_whatever_else_was_opened(
    tmp_path_factory: pytest.TempPathFactory, courses: list[Course], keep: int
) -> None:
    """With their evaluations. Seen to fail with evaluations, and with attempts that were abandoned, counted as rounds:
    half of what was to stay was gone.
    """
    with Journal(tmp_path_factory.mktemp("journal") / "journal.db") as journal:
        journal.start_run(RUN, DIGESTS[0], AT)
        number, attempt = 1, 0
        for course in courses:
            journal.open_round(announced(number, attempt=attempt))
            journal.add_update("run-1", *update("dev-a", number, attempt=attempt))
            if course == "abandoned":
                journal.abandon_round(nonce(number, attempt=attempt), "train", "too few")
                attempt += 1
                continue
            journal.commit_round(nonce(number, attempt=attempt), summary(number), version(number), AT)
            if course == "evaluated":
                journal.open_round(announced(number, "evaluate"))
                journal.add_update("run-1", *update("dev-b", number, "evaluate"))
                journal.commit_evaluation(nonce(number, "evaluate"), METRICS)
            number, attempt = number + 1, 0
        before = {(each, task): kept(journal, each, task) for each in range(1, number) for task in TASKS}
        assert journal.prune(keep)
        for (each, task), devices in before.items():
            assert kept(journal, each, task) == (devices if each >= number - keep else [])


def test_the_file_stops_growing_when_rounds_are_pruned(journal: Journal, path: Path) -> None:
    """Invariant 11, for the disk."""
    sizes = []
    for number in range(1, 9):
        journal.open_round(announced(number))
        message, _, _ = update("dev-a", number)
        blob = bytes([number]) * 400_000
        journal.add_update("run-1", message, blob, hashlib.sha256(blob).hexdigest())
        journal.commit_round(nonce(number), summary(number), version(number), AT)
        journal.prune(1)
        journal.checkpoint()
        sizes.append(sum(file.stat().st_size for file in path.parent.iterdir()))
    assert sizes[-1] == sizes[3]


def test_a_large_round_is_pruned_in_pieces(journal: Journal) -> None:
    """Each keeps nobody waiting for long. Seen to fail without the comparison with ``most_bytes``."""
    journal.open_round(announced(1))
    for number in range(7):
        journal.add_update("run-1", *update(f"dev-{number}"))
    size = len(update("dev-0")[1])
    journal.commit_round(nonce(1), summary(1), version(1), AT)
    left = []
    while not journal.prune(0, 2 * size):
        left.append(len(list(journal.updates("run-1", 1, "train"))))
    assert left == [5, 3, 1]
    assert list(journal.updates("run-1", 1, "train")) == []


def test_the_oldest_updates_go_first(journal: Journal) -> None:
    """A coordinator that ends between two pieces has what it would miss most. Seen to fail in the reverse order."""
    for number in (1, 2):
        commit(journal, number, "dev-b", "dev-a")
    left = []
    while not journal.prune(0, 1):
        left.append(kept(journal, 1) + kept(journal, 2))
    assert left == [["dev-a", "dev-a", "dev-b"], ["dev-a", "dev-b"], ["dev-a"]]


@pytest.mark.parametrize(("over", "left"), [(-1, 2), (0, 2), (1, 1)])
def test_an_update_of_many_pieces_weighs_what_all_of_them_do(journal: Journal, over: int, left: int) -> None:
    """Seen to fail with the row alone counted, with one piece of the next update, and without the first or the last."""
    blob = bytes(3 * PIECE + 7)
    journal.open_round(announced(1))
    for device in ("dev-a", "dev-b", "dev-c"):
        journal.add_update("run-1", update(device)[0], blob, hashlib.sha256(blob).hexdigest())
    journal.commit_round(nonce(1), summary(1), version(1), AT)
    assert not journal.prune(0, len(blob) + over)
    assert len(kept(journal)) == left
