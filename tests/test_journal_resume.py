"""What the journal tells a coordinator that goes on where another one ended."""

from __future__ import annotations

from pathlib import Path

from coordinator.journal import Journal, ModelVersion, newest_version
from tests.test_journal import (
    AT,
    DIGESTS,
    METRICS,
    RUN,
    announced,
    commit,
    journal,
    nonce,
    path,
    summary,
    update,
    version,
)

__all__ = ["journal", "path"]


def test_only_what_is_in_a_committed_version_has_counted(journal: Journal) -> None:
    """What the open attempt holds may still come to nothing, and its devices are taken again then.

    Seen to fail with the open attempt's among them, with evaluations, and with the first round asked for left out.
    """
    commit(journal, 1, "dev-a", "dev-b")
    journal.open_round(announced(1, "evaluate"))
    journal.add_update("run-1", *update("dev-c", 1, "evaluate"))
    journal.commit_evaluation(nonce(1, "evaluate"), METRICS)
    journal.open_round(announced(2))
    journal.add_update("run-1", *update("dev-d", 2))
    journal.add_update("run-1", *update("dev-e", 1), nonce(2))  # late, in a buffer that takes in what is
    before = frozenset({("dev-a", 1), ("dev-b", 1)})
    assert journal.counted("run-1", 1) == before
    journal.commit_round(nonce(2), summary(2), version(2), AT)
    assert journal.counted("run-1", 1) == before | {("dev-d", 2), ("dev-e", 1)}
    assert journal.counted("run-1", 2) == {("dev-d", 2)}
    assert journal.counted("run-2", 1) == frozenset()


def test_what_counts_is_read_by_device_and_round_however_it_came(journal: Journal) -> None:
    """So that a sum is the same to the last bit after a restart. Seen to fail by device alone, and by when it came."""
    commit(journal, 1)
    journal.open_round(announced(2))
    came = [("dev-b", 2), ("dev-a", 2), ("dev-b", 1), ("dev-a", 1)]
    for device, number in came:
        journal.add_update("run-1", *update(device, number), nonce(2))
    assert [(one.device, one.nonce) for one in journal.updates("run-1", 2, "train")] == [
        (device, nonce(number)) for device, number in sorted(came)
    ]


def test_the_updates_of_two_runs_are_kept_apart(journal: Journal) -> None:
    """And their rounds and scores. Seen to fail with a later run's among them, and with an earlier one's scores."""
    commit(journal, 1, "dev-a")
    journal.open_round(announced(1, "evaluate"))
    journal.commit_evaluation(nonce(1, "evaluate"), METRICS)
    journal.finish_run("run-1", AT)
    journal.start_run(RUN.model_copy(update={"run": "run-2"}), DIGESTS[0], AT)
    assert journal.attempts("run-2", 1, "train") == 0
    other = {"run": "run-2", "nonce": "f" * 16}
    journal.open_round(announced(1).model_copy(update=other))
    sent, blob, digest = update("dev-a")
    assert journal.add_update("run-2", sent.model_copy(update={"nonce": "f" * 16}), blob, digest)
    assert [[one.nonce for one in journal.updates(run, 1, "train")] for run in ("run-1", "run-2")] == [
        [nonce(1)],
        ["f" * 16],
    ]
    assert (journal.last_closed("run-1"), journal.last_closed("run-2")) == (1, 0)
    journal.commit_round("f" * 16, summary(1, run="run-2"), ModelVersion("run-2", 1, DIGESTS[1], DIGESTS[0]), AT)
    assert [[one.metrics for one in journal.history(run)] for run in ("run-1", "run-2")] == [[METRICS], [None]]
    journal.open_round(announced(2).model_copy(update={"run": "run-2"}))
    journal.abandon_round(nonce(2), "train", "too few")
    assert (journal.last_closed("run-1"), journal.last_closed("run-2")) == (1, 2)


def test_the_time_that_an_attempt_has_been_open_is_its_own(journal: Journal, path: Path) -> None:
    """Seen to fail where nothing is written, and where every attempt is."""
    journal.open_round(announced(1))
    journal.mark(nonce(1), 12.5, 7)
    journal.mark(nonce(1), 20.0, 8)
    journal.abandon_round(nonce(1), "train", "too few")
    journal.open_round(announced(1, attempt=1))
    assert journal.marked(nonce(1, attempt=1)) == (0.0, 0)
    journal.mark(nonce(1, attempt=1), 3.25, 2)
    journal.close()
    with Journal(path) as again:
        assert again.marked(nonce(1)) == (20.0, 8)
        assert again.marked(nonce(1, attempt=1)) == (3.25, 2)


def test_the_newest_version_is_that_of_the_open_run_else_of_the_last_one_that_ended(path: Path) -> None:
    """While another process has the journal. Seen to fail with the run that ended last, with the first one,
    and with the first one's rounds taken for the second's."""
    with Journal(path) as journal:
        assert newest_version(path) is None
        journal.start_run(RUN, DIGESTS[0], AT)
        commit(journal, 1)
        commit(journal, 2)
        journal.finish_run("run-1", "2025-11-24T10:00:00+00:00")
        assert newest_version(path) == 2
        second = RUN.model_copy(update={"run": "a-run-2"})
        journal.start_run(second, DIGESTS[4], AT)
        assert (journal.has_opened("run-1"), journal.has_opened("a-run-2")) == (True, False)
        assert newest_version(path) == 0
        journal.finish_run("a-run-2", "2025-11-24T11:00:00+00:00")
        assert newest_version(path) == 0
        last = journal.finished_run()
        assert last is not None
        assert (last.settings, last.model.version, last.committed) == (second, 0, 0)
        journal.change_settings(RUN)
        assert newest_version(path) == 2
        resumed = journal.open_run()
        assert resumed is not None
        assert (resumed.settings, resumed.committed, resumed.evaluated) == (RUN, 2, 0)
        journal.finish_run("run-1", "2025-11-24T12:00:00+00:00")
        last = journal.finished_run()
        assert last is not None
        assert last.settings == RUN


def test_an_abandoned_attempt_comes_before_the_one_that_made_the_version_and_has_none_of_its_metrics(
    journal: Journal,
) -> None:
    """Seen to fail with attempts before rounds, and with any attempt given the metrics of the version after its own."""
    journal.open_round(announced(1))
    journal.abandon_round(nonce(1), "train", "too few")
    journal.open_round(announced(1, attempt=1))
    journal.commit_round(nonce(1, attempt=1), summary(1), version(1), AT)
    journal.open_round(announced(1, "evaluate"))
    journal.commit_evaluation(nonce(1, "evaluate"), METRICS)
    commit(journal, 2)
    told = [(each.round, each.outcome, each.metrics) for each in journal.history("run-1")]
    assert told == [(1, "abandoned", None), (1, "committed", METRICS), (2, "committed", None)]
    assert [each.round for each in journal.history("run-1", 2)] == [2]
