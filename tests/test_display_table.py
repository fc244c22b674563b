"""The live table while a run goes on, its bar, its rows and what stands under it; and what a log leaves out."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from coordinator import observers as seen
from coordinator import scores
from coordinator.display import MOST, ROWS, Lines, LiveTable, choose, json_line, plain_line
from schemas.messages import Counts
from schemas.restraint import WINDOW_S
from tests.full_disks import Ballast, small_disk
from tests.test_display import METRICS, STORY, closed, table

STARTED = STORY[0]
TRAINING = seen.RoundOpened(1, "train", 0, 4, None, 2, 600.0)


def now(*story: seen.Observation) -> str:
    """What would be drawn after ``story``, with its spaces as one."""
    console = Console(file=io.StringIO(), width=100, record=True, markup=False, emoji=False)
    live = LiveTable(console)
    for event in (STARTED, *story):
        live(event)
    console.print(live._render())
    return " ".join(console.export_text().split())


def accepted(received: int) -> seen.UpdateAccepted:
    return seen.UpdateAccepted(1, "train", f"dev-{received}", 10, 0.5, 100, received)


@pytest.mark.parametrize(
    ("story", "words", "count"),
    [
        ((seen.Selecting(1, 0, 2, 600.0),), "round 1: waiting for devices", "0/2"),
        ((seen.Selecting(1, 0, 2, 600.0), seen.FleetSeen(4, 1, 0)), "round 1: waiting for devices", "1/2"),
        ((seen.Selecting(1, 0, 2, 600.0), seen.FleetSeen(4, 3, 0)), "round 1: waiting for devices", "3/3"),
        ((seen.FleetSeen(4, 1, 0), seen.Selecting(1, 0, 2, 600.0)), "round 1: waiting for devices", "1/2"),
        ((TRAINING,), "round 1: training", "0/4"),
        ((TRAINING, accepted(1), accepted(2)), "round 1: training", "2/4"),
        ((seen.RoundOpened(1, "train", 0, 4, 3, 2, 600.0), accepted(1)), "round 1: training", "1/3"),
        ((seen.RoundOpened(1, "evaluate", 0, 1, None, 1, 600.0),), "round 1: evaluating", "0/1"),
        ((seen.Selecting(1, 0, 2, 600.0), TRAINING, accepted(1), seen.FleetSeen(9, 9, 9)), "training", "1/4"),
    ],
)
def test_the_bar_says_what_the_round_waits_for_and_how_far_it_is(
    story: tuple[seen.Observation, ...], words: str, count: str
) -> None:
    """Who was there before the wait counts too. Seen to fail: of one device that had stayed and one that had left, the
    bar of the next round said "0/2" until another came or went.
    """
    screen = now(*story)
    assert words in screen
    assert f" {count} " in screen


def test_the_bar_is_gone_once_the_run_is_over() -> None:
    assert "training" not in "\n".join(table([STARTED, TRAINING]))


def test_the_newest_thirty_committed_rounds_have_a_row_and_abandoned_ones_have_none() -> None:
    rounds = [seen.RoundClosed(closed(number)) for number in range(1, 36)]
    rows = [line.split() for line in table([STARTED, *rounds, seen.RoundClosed(closed(36, "abandoned"))])]
    numbers = [int(row[0]) for row in rows if row and row[0].isdecimal()]
    assert numbers == list(range(36 - ROWS, 36))


def test_the_row_of_a_reconstruction_has_no_accuracy() -> None:
    """Which would be 1.000, of the one class there is."""
    metrics = scores.metrics(Counts(examples=4, loss_sum=0.01, confusion=((4,),)), ("beat",), ("beat",))
    shown = now(seen.RoundClosed(closed(1)), seen.ModelEvaluated(1, 1, 2, metrics))
    assert "1 1 2 123456 1.970 29.3 kB 12.3" in shown


LOST = seen.Disconnected("connection refused", 2.0)
REMARKABLE = (
    seen.RivalDoubted,
    seen.RivalReplaced,
    seen.Overwritten,
    seen.Paused,
    seen.Resumed,
    seen.DeviceTroubled,
    seen.DeviceDeclined,
    seen.MessageRejected,
    seen.Disconnected,
    seen.EvaluationFailed,
    seen.DataMadeUp,
    seen.LabelsByRule,
    seen.OwnModelsAwaited,
    seen.Finished,
)


@pytest.mark.parametrize(
    "event", [event for event in STORY if isinstance(event, REMARKABLE)], ids=lambda e: type(e).__name__
)
def test_what_an_operator_should_know_stands_under_the_table(event: seen.Observation) -> None:
    words = plain_line(event)
    assert words is not None
    assert words.split()[:6] == now(event).split()[-len(words.split()) :][:6]


def test_what_goes_as_it_should_is_no_remark() -> None:
    """A connection is one after an outage alone, and a start where it goes on from an earlier one."""
    for event in (
        STARTED,
        seen.Connected(),
        accepted(1),
        seen.RoundClosed(closed(1)),
        seen.ModelEvaluated(1, 1, 1, METRICS),
    ):
        assert (plain_line(event) or "") not in now(event)
    assert "connected to the broker" in now(LOST, seen.Connected())


def test_a_terminal_has_the_table_unless_json_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # as on a terminal, to rich
    assert isinstance(choose(json_lines=False), LiveTable)
    assert not isinstance(choose(json_lines=True), LiveTable)


def test_a_full_disk_under_the_table_costs_drawings_and_not_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it costs lines. Seen to fail: a run that was done, or stopped, ended with exit code 7."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    with small_disk(tmp_path / "disk") as disk, (disk / "log").open("w") as out:
        monkeypatch.setattr("sys.stdout", out)
        ballast = Ballast(disk)
        with choose(json_lines=False) as display:
            ballast.fill()
            for number in range(1, 100):
                display(seen.RoundClosed(closed(number)))
            display.flush()
        assert isinstance(display, LiveTable)
        ballast.drop()


def test_what_came_after_the_last_drawing_is_drawn_at_the_end() -> None:
    console = Console(file=io.StringIO(), width=100, record=True, markup=False, emoji=False, force_terminal=True)
    with LiveTable(console) as live:
        live.flush()
        live(seen.Paused("/state: disk is full"))
    assert "paused: /state: disk is full" in console.export_text()


@pytest.mark.parametrize(
    ("event", "words"),
    [
        (
            seen.UpdateAccepted(3, "train", "dev-one", 10, 0.5, 14_800, 1, staleness=1),
            "round 3: update from dev-one, 10 examples, 14.8 kB, 1 version behind",
        ),
        (seen.UpdateAccepted(3, "train", "dev-one", 10, 0.5, 2_340_000, 1), "dev-one, 10 examples, 2.34 MB"),
        (
            seen.RoundClosed(closed(1).model_copy(update={"train_loss": None, "uplink_bytes": 1_000_000})),
            "from 2 devices, 123456 examples, 1.00 MB up, 12.3 s",
        ),
        (
            seen.ModelEvaluated(1, 1, 1, METRICS.model_copy(update={"macro_f1": None})),
            "accuracy 0.700, loss 0.500, 10 held-out",
        ),
    ],
)
def test_a_line_leaves_out_what_nobody_gave_and_has_its_figures_in_fitting_units(
    event: seen.Observation, words: str
) -> None:
    assert words in (plain_line(event) or "")


def test_of_an_evaluation_the_log_has_its_result_alone() -> None:
    for event in (
        seen.RoundOpened(1, "evaluate", 0, 1, None, 1, 600.0),
        seen.UpdateAccepted(1, "evaluate", "dev-one", 10, None, 500, 1),
    ):
        assert plain_line(event) is None


def test_a_program_reads_messages_as_json_and_the_time_of_the_wall_clock() -> None:
    line = json.loads(json_line(seen.RoundClosed(closed(1))))
    assert line["summary"] == closed(1).model_dump(mode="json")
    assert line["at"] > 1.7e9


def test_what_was_left_out_is_told_though_nothing_else_happens() -> None:
    now, out = 0.0, io.StringIO()
    with Lines(plain_line, out, lambda: now) as lines:
        for _ in range(MOST[seen.MessageRejected] + 7):
            lines(seen.MessageRejected("malformed", "not the bytes of any message", "fl/v1/home/run", None))
        now = WINDOW_S
        lines.flush()
        assert out.getvalue().splitlines()[-1].startswith("7 more lines like these are left out")
