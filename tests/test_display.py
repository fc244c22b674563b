"""What is shown while a federation runs, as text: the live table, plain lines and JSON lines."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from coordinator import observers as seen
from coordinator import scores
from coordinator.display import MOST, Lines, LiveTable, choose, classes_table, json_line, plain_line
from schemas.messages import Counts, Metrics, RoundSummary
from schemas.printable import printable
from schemas.restraint import WINDOW_S
from tests.full_disks import Ballast, small_disk

COUNTS = Counts(examples=10, loss_sum=5.0, confusion=((4, 1, 0), (1, 3, 0), (0, 1, 0)))
METRICS = scores.metrics(COUNTS, ("N", "S", "V"), ("N", "S"))
LONG = "there is nothing at /var/lib/fedbeat/recordings: give the folder or file of the recordings (windows as .csv)"


def closed(number: int, outcome: str = "committed", metrics: Metrics | None = None) -> RoundSummary:
    return RoundSummary(
        run="run-1d1045a8",
        round=number,
        outcome=outcome,
        reason="" if outcome == "committed" else "0 of at least 2 updates came by the deadline",
        model_version=number,
        devices=("dev-one", "dev-two"),
        examples=123_456,
        train_loss=1.97,
        seconds=12.34,
        uplink_bytes=29_300,
        metrics=metrics,
    )


STORY: tuple[seen.Observation, ...] = (
    seen.Started("run-1d1045a8", "watch", 5, 1, 0, resumed=False),
    seen.DataMadeUp("dev-one", 2),
    seen.RivalDoubted("run-other", 7, 75.0),
    seen.RivalReplaced("run-other", 7),
    seen.Overwritten("fl/v1/home/run"),
    seen.Selecting(1, 0, 2, 600.0),
    seen.Connected(),
    seen.Paused("/state/journal.db: database or disk is full"),
    seen.Resumed(),
    seen.FleetSeen(4, 3, 1),
    seen.DeviceTroubled("dev-three", LONG),
    seen.RoundOpened(1, "train", 0, 4, None, 2, 600.0),
    seen.DeviceJoined(1, "train", "dev-one", 1),
    seen.DeviceDeclined(1, "train", "dev-four", "the plan takes examples of 6x150 [/b] [red]"),
    seen.LabelsByRule(),
    seen.OwnModelsAwaited(),
    seen.Withheld("message_rejected", 4312),
    seen.UpdateAccepted(1, "train", "dev-one", 1000, 1.5, 14_800, 1),
    seen.MessageRejected("malformed", "not the bytes of any message", "fl/v1/home/rounds/1/update/dev-x/0", "dev-x"),
    seen.RoundClosed(closed(1)),
    seen.RoundOpened(1, "evaluate", 0, 1, None, 1, 600.0),
    seen.UpdateAccepted(1, "evaluate", "dev-one", 10, None, 500, 1),
    seen.ModelEvaluated(1, 1, 1, METRICS),
    seen.Disconnected("connection refused", 2.0),
    seen.Connected(),
    seen.RoundClosed(closed(2, "abandoned")),
    seen.RoundClosed(closed(2)),
    seen.EvaluationFailed(2, "0 of at least 1 update came by the deadline"),
    seen.Finished(2, stopped=True, error=None),
)


def table(story: Iterable[seen.Observation], width: int = 80) -> list[str]:
    """The screen as it stands at the end."""
    console = Console(
        file=io.StringIO(), width=width, height=50, record=True, markup=False, emoji=False, force_terminal=True
    )
    with LiveTable(console) as live:
        for event in story:
            live(event)
    text = console.export_text()  # one frame after another
    return text[text.rindex("run-1", 0, text.rindex("   plan watch   ")) :].splitlines()


def test_the_table_has_a_row_for_each_committed_round_and_fits_80_columns() -> None:
    screen = table(STORY)
    assert max(map(len, screen)) <= 80
    assert not any("…" in line for line in screen)
    assert "run-1d1045a8   plan watch   5 rounds" in screen[0]
    rows = [line.split() for line in screen if line.strip()[:2] in {"1 ", "2 "}]
    assert rows == [
        ["1", "1", "2", "123456", "1.970", "0.700", "0.733", "29.3", "kB", "12.3"],
        ["2", "2", "2", "123456", "1.970", "29.3", "kB", "12.3"],
    ]


def test_the_newest_remarks_stand_under_the_table_in_the_order_they_came() -> None:
    text = " ".join(" ".join(table(STORY)).split())
    words = (
        "fl/v1/home/rounds/1/update/dev-x/0: not the bytes",
        "no connection: connection refused; trying again in 2.0 s",
        "connected to the broker",
        "round 2: abandoned: 0 of at least 2 updates came by the deadline",
        "round 2: not evaluated",
        "stopped at model 2; the same command goes on from here",
    )
    places = [text.index(word) for word in words]
    assert places == sorted(places)
    assert "dev-four" not in text  # there is room for six


def test_what_a_device_says_is_shown_as_it_is() -> None:
    screen = "\n".join(
        table([STORY[0], seen.DeviceDeclined(1, "train", "dev-four", "no [/b] [red]\x1b[2J\r\nround 9")])
    )
    assert "no [/b] [red]\N{REPLACEMENT CHARACTER}[2J" in screen
    assert "\x1b" not in screen


def test_the_newest_evaluation_is_told_by_class_at_the_end() -> None:
    screen = table(STORY)
    start = next(number for number, line in enumerate(screen) if "newest model, on held-out examples" in line)
    assert [line.split() for line in screen[start + 3 :] if line.strip()] == [
        ["N", "5", "0.800", "0.800", "0.800"],
        ["S", "4", "0.750", "0.600", "0.667"],
        ["V", "1", "0.000", "0.000"],
    ]


def test_a_class_without_held_out_examples_is_left_out() -> None:
    metrics = scores.metrics(Counts(examples=2, loss_sum=1.0, confusion=((1, 1), (0, 0))), ("N", "V"), ("N",))
    assert classes_table(metrics).row_count == 1


def test_of_a_reconstruction_the_loss_alone_is_told() -> None:
    """It has one class, of which an accuracy of 1 would say nothing. Seen to fail where that is told."""
    metrics = scores.metrics(Counts(examples=4, loss_sum=0.01, confusion=((4,),)), ("beat",), ("beat",))
    story = (STORY[0], seen.ModelEvaluated(1, 1, 2, metrics))
    assert "loss 0.00250" in (plain_line(story[1]) or "")
    for text in (plain_line(story[1]) or "", "\n".join(table(story))):
        assert "1.000" not in text
        assert "sensitivity" not in text


@pytest.mark.parametrize(("synthetic", "words"), [(2, "2 devices (synthetic people)"), (1, "(synthetic people on 1)")])
def test_figures_of_made_up_people_are_said_to_be_that(synthetic: int, words: str) -> None:
    """Seen to fail where only ``--virtual`` was said to bring them."""
    summary = closed(1).model_copy(update={"synthetic": synthetic})
    metrics = METRICS.model_copy(update={"synthetic": synthetic})
    for event in (seen.RoundClosed(summary), seen.ModelEvaluated(1, 1, 2, metrics)):
        assert words in (plain_line(event) or "")
    lines = table((STORY[0], seen.DataMadeUp("dev-one"), seen.ModelEvaluated(1, 1, 2, metrics)))
    screen = " ".join(" ".join(lines).split())
    assert "dev-one: the people are synthetic" in screen
    assert "newest model, on held-out examples (synthetic people)" in screen
    for event in (seen.RoundClosed(closed(1)), seen.ModelEvaluated(1, 1, 2, METRICS)):
        assert "synthetic" not in (plain_line(event) or "")


def test_an_evaluation_of_a_round_from_before_a_restart_is_told_too() -> None:
    story = (seen.Started("run-1", "watch", 2, 2, 2, resumed=True), seen.ModelEvaluated(2, 2, 1, METRICS))
    text = "\n".join(table(story))
    assert "resuming at round 2 of 2 from model 2" in text
    assert "newest model, on held-out examples" in text


@pytest.mark.parametrize("event", STORY, ids=lambda event: type(event).__name__)
def test_each_event_is_one_json_object(event: seen.Observation) -> None:
    line = json.loads(json_line(event))
    assert set(line) == {"event", "at", *type(event).__dataclass_fields__}


def test_the_story_tells_every_kind_of_event() -> None:
    assert {type(event) for event in STORY} == set(get_args(seen.Observation))


# It said "going on in its place" here already, and gave up where a sign of life came.
DOUBT = (
    "another coordinator (run run-other) has not said that it ended: asked it for a sign of life, and waiting for one "
    "for 75 s"
)


def test_a_trouble_that_many_devices_have_is_one_line() -> None:
    assert plain_line(seen.DeviceTroubled("dev-000", "no recordings", 299)) == (
        "dev-000 and 299 more can't take part: no recordings"
    )


def test_the_plain_log_says_what_happens_in_order() -> None:
    out = io.StringIO()
    with Lines(plain_line, out) as lines:
        for event in STORY:
            lines(event)
    assert out.getvalue().splitlines()[:12] == [
        "run run-1d1045a8: plan watch, 5 rounds",
        "dev-one and 2 more: the people are synthetic, and what comes of them says nothing about patients",
        DOUBT,
        "no sign of life of the coordinator of run run-other: going on in its place",
        "somebody else has written on fl/v1/home/run: published again what belongs there",
        "round 1: waiting for 2 devices, at most 600 s",
        "connected to the broker",
        "paused: /state/journal.db: database or disk is full",
        "the disk takes more again: going on",
        f"dev-three can't take part: {LONG}",
        "round 1: 4 devices asked to train, 600 s",
        "round 1: dev-four declines: the plan takes examples of 6x150 [/b] [red]",
    ]
    assert "round 1: committed as model 1 from 2 devices, 123456 examples, training loss 1.970, 29.3 kB up, 12.3 s" in (
        out.getvalue().splitlines()
    )
    assert "model 1: accuracy 0.700, macro-F1 0.733, loss 0.500, 10 held-out examples on 1 device" in out.getvalue()


@pytest.mark.parametrize(
    ("event", "words"),
    [
        (
            seen.Started("run-1", "tiny", 3, 3, 2, resumed=True),
            "run run-1: plan tiny, resuming at round 3 of 3 from model 2",
        ),
        (
            seen.Started("run-1", "tiny", 2, 3, 2, resumed=True),
            "all of its 2 rounds are done; model 2 is published again",
        ),
        (seen.RoundOpened(3, "train", 0, 0, None, 2, 600.0), "round 3: open again, waiting for updates, 600 s"),
        (
            seen.DataMadeUp("virtual-000"),
            "virtual-000: the people are synthetic, and what comes of them says nothing about patients",
        ),
        (seen.Finished(2, stopped=False, error=None), "finished with model 2"),
        (
            seen.Withheld("message_rejected", 4312),
            "4312 more lines like these are left out: messages that were rejected",
        ),
        (seen.LabelsByRule(), "labels are a rule's: figures of this run say how like the rule a model is, and no more"),
        (seen.OwnModelsAwaited(), "the virtual devices make models of their own"),
        (seen.Disconnected("it refuses us", None), "no connection: it refuses us"),
        (seen.MessageRejected("wrong-run", "never asked", "", "dev-one"), "rejected (wrong-run) from dev-one: never"),
    ],
)
def test_how_a_run_begins_and_ends_is_said_in_words(event: seen.Observation, words: str) -> None:
    assert words in (plain_line(event) or "")


def test_of_what_has_no_line_none_is_said_to_be_left_out() -> None:
    """Seen to fail with "5 more lines like these are left out: device_joined", where there never was one."""
    assert plain_line(seen.DeviceJoined(1, "train", "dev-0", 1)) is None
    assert plain_line(seen.Withheld("device_joined", 5)) is None


def test_an_error_is_left_to_the_command_to_tell() -> None:
    assert plain_line(seen.Finished(2, stopped=False, error="no device came")) is None


@given(st.text())
def test_no_word_of_a_device_moves_the_cursor_or_starts_a_line(text: str) -> None:
    shown = printable(text)
    assert shown.isprintable()
    assert len(shown) == len(text)
    assert printable(shown) == shown


def test_what_a_device_says_stays_on_its_line_of_the_log() -> None:
    """Seen to fail with the line printed as it is: a device's reason began a line of its own."""
    out = io.StringIO()
    with Lines(plain_line, out) as lines:
        lines(seen.DeviceDeclined(1, "train", "dev-four", "no\x1b[2J\r\nfinished with model 9"))
    assert out.getvalue() == (
        "round 1: dev-four declines: no\N{REPLACEMENT CHARACTER}[2J"
        + 2 * "\N{REPLACEMENT CHARACTER}"
        + "finished with model 9\n"
    )


def test_where_the_output_is_no_terminal_lines_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    with choose(json_lines=False) as display:
        display(STORY[0])
    assert capsys.readouterr().out == "run run-1d1045a8: plan watch, 5 rounds\n"
    with choose(json_lines=True) as display:
        display(STORY[0])
    assert json.loads(capsys.readouterr().out)["event"] == "started"


def test_a_full_disk_under_the_log_costs_lines_and_not_the_run(tmp_path: Path) -> None:
    """And the first line after it is whole. Seen to fail: the coordinator ended with a traceback."""
    with small_disk(tmp_path / "disk") as disk:
        path = disk / "log"
        with path.open("w") as out, Lines(json_line, out) as lines:
            (ballast := Ballast(disk)).fill()
            for _ in range(1000):
                lines(seen.Connected())
            lines.flush()
            ballast.drop()
            lines(seen.Resumed())
        assert json.loads(path.read_text().splitlines()[-1])["event"] == "resumed"


def test_a_reader_that_is_gone_costs_lines_and_not_the_run() -> None:
    """Behind ``| head -1``, say. Seen to fail: the coordinator ended with exit code 1 in the middle of its round."""
    reads, writes = os.pipe()
    with os.fdopen(writes, "w") as out, Lines(json_line, out) as lines:
        os.close(reads)
        for _ in range(1000):
            lines(seen.Connected())
            lines.flush()
        os.dup2(os.open(os.devnull, os.O_WRONLY), writes)  # what waits to be printed is the interpreter's to drop


def test_lines_reach_whoever_reads_them_at_each_flush(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with path.open("w") as out, Lines(plain_line, out) as lines:
        lines(seen.Connected())
        lines.flush()
        assert path.read_text() == "connected to the broker\n"


REJECTED = seen.MessageRejected("malformed", "not the bytes of any message", "fl/v1/home/devices/dev-x", "dev-x")
FLOODS: tuple[seen.Observation, ...] = (
    REJECTED,
    seen.DeviceTroubled("dev-x", LONG),
    seen.DeviceDeclined(1, "train", "dev-x", LONG),
    seen.DeviceJoined(1, "train", "dev-x", 1),
)


@pytest.mark.parametrize("flood", FLOODS, ids=lambda event: type(event).__name__)
def test_a_flood_takes_a_bounded_number_of_lines_a_minute_and_how_much_was_left_out_is_told(
    flood: seen.Observation,
) -> None:
    """All else is told as ever. Seen to fail without a restraint: a line for each, 6 MB for 60,000 messages."""
    now, most, out = 0.0, MOST[type(flood)], io.StringIO()
    with Lines(json_line, out, lambda: now) as lines:
        for _ in range(most + 50):
            lines(flood)
        lines(seen.RoundClosed(closed(1)))
        now = WINDOW_S
        lines.flush()
        lines(flood)
    told = [json.loads(line) for line in out.getvalue().splitlines()]
    kind = seen.name_of(type(flood))
    assert [one["event"] for one in told] == [*[kind] * most, "round_closed", "withheld", kind]
    assert (told[-2]["kind"], told[-2]["count"]) == (kind, 50)


def test_what_was_left_out_is_told_at_the_end_too() -> None:
    """Seen to fail without ``ends``: the last minute's flood was never told of."""
    out = io.StringIO()
    with Lines(plain_line, out, lambda: 0.0) as lines:
        for _ in range(MOST[seen.MessageRejected] + 7):
            lines(REJECTED)
    assert out.getvalue().splitlines()[-1].startswith("7 more lines like these are left out")
