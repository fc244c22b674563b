"""``edge data list``, ``show`` and ``prune`` on what was recorded."""

from __future__ import annotations

import codecs
import json
import os
import re
import shutil
from pathlib import Path

import pytest

from edge.cli import cli
from edge.live.source import Lead, Signal
from edge.record.segment_files import segments
from tests.running_commands import MITDB, Done, in_process
from tests.test_recordings import DAY, Shelf, block

ECG = Signal((Lead("MLII"),), 100.0)


@pytest.fixture
def room(tmp_path: Path) -> Path:
    """A folder with three segments in ``rec``: 1, 2 and 3 hours of running old; the newest is open."""
    (tmp_path / "rec").mkdir()
    shelf = Shelf(tmp_path / "rec")
    for hours, quality in ((1, "1.000 0.500"), (2, "0.900 1.000")):
        shelf.store.begin(Signal((Lead("a"), Lead("b")), 100.0), {"after": "silence", "gap_s": "3.000"})
        for second in range(1, 11):
            shelf.store.append(block(second), sync=False)
        shelf.store.finish({"ended_s": f"{hours * 3600}", "quality": quality})
    shelf.store.begin(ECG, {"after": "length"})
    shelf.store.append(bytes(500), sync=True)
    return tmp_path


def asked(room: Path, *arguments: str) -> Done:
    return in_process(cli, "data", *arguments, cwd=room)


def test_each_record_is_listed_with_when_how_long_and_how_good(room: Path) -> None:
    for ending in ("hea", "dat", "atr"):
        shutil.copy(MITDB / f"100.{ending}", room / "rec")
    other, first, second, newest, total = asked(room, "list", "rec").out.splitlines()
    assert other.split() == ["100", "?", "1805.6", "s", "2", "x", "360", "Hz", "annotated"]
    assert first.startswith(f"ecg_000001_{DAY:%Y%m%dT%H%M%S}  03:04:05 02/01/2026       10.0 s  2 x 100 Hz")
    assert first.endswith("quality 1.000 0.500  after silence (3.000 s)")
    assert "quality 0.900 1.000" in second
    assert newest.endswith("2.5 s  1 x 100 Hz  not finished")
    assert total.startswith("4 records, 0.5 h, 1.96 MB")


def test_a_comment_that_is_not_utf_8_hides_no_record(room: Path) -> None:
    """Seen to fail: a record that was trained on wasn't listed."""
    for ending in ("hea", "dat"):
        shutil.copyfile(MITDB / f"100.{ending}", room / "rec" / f"100.{ending}")
    with (room / "rec" / "100.hea").open("ab") as header:
        header.write(b"# M\xfcller\n")
    assert asked(room, "list", "rec").out.startswith("100  ")


def test_a_header_that_an_editor_marked_as_utf_8_is_read_as_any_other(room: Path) -> None:
    """Whoever reads it. Seen to fail: it was "damaged", its record not trained on, its segment never pruned."""
    for ending in ("hea", "dat", "atr"):
        shutil.copyfile(MITDB / f"100.{ending}", room / "rec" / f"100.{ending}")
    before = asked(room, "list", "rec").out
    for header in [*(room / "rec").glob("*.hea"), *(room / "rec").glob("*.open")]:
        header.write_bytes(codecs.BOM_UTF8 + header.read_bytes())
    sizes = re.compile(r"[\d.]+ MB")
    assert sizes.sub("", asked(room, "list", "rec").out) == sizes.sub("", before)
    assert asked(room, "export", "rec", "--to", "stick").out == "copied 3 records to stick\n"
    assert "2271 examples" in asked(room, "show", "rec/100").out
    again = ("label", "import", "rec/100.atr", "--to", "rec"), ("record", "--source", "replay:rec/100?speed=max")
    for arguments in again:
        done = in_process(cli, *arguments, cwd=room)
        assert done.code == 0, done.err
    assert len(segments(room / "rec")) == 2
    assert len(Shelf(room / "rec").store.recover()) == 1


def test_headers_that_can_not_be_read_are_named(room: Path) -> None:
    """Seen to fail where they are passed over: a folder seemed to hold all that there was."""
    (room / "rec" / "bad.hea").write_bytes(b"noise")
    (room / "rec" / os.fsdecode(b"caf\xe9.hea")).write_bytes(b"\xff\xfe")
    *_, total, left_out = asked(room, "list", "rec").out.splitlines()
    assert total.startswith("3 records")
    assert left_out.startswith(r"left out: bad.hea, caf\udce9.hea, which can't be read")


def test_a_rate_that_can_not_be_right_is_marked(room: Path) -> None:
    """Seen to fail without the mark: a segment whose every heart rate is wrong has good quality."""
    header = next((room / "rec").glob("ecg_000001*.hea"))
    for hz, marked in (("100.3", False), ("144.2", True), ("noise", False)):
        text = "".join(line for line in header.read_text().splitlines(keepends=True) if "measured" not in line)
        header.write_text(f"{text}# measured_hz: {hz}\n")
        assert ("WRONG RATE: 144.2 Hz were measured" in asked(room, "list", "rec").out) == marked


def test_programs_are_given_the_same(room: Path) -> None:
    rows = [json.loads(line) for line in asked(room, "list", "rec", "--json").out.splitlines()]
    assert [row["open"] for row in rows] == [False, False, True]
    assert rows[0]["notes"]["quality"] == "1.000 0.500"
    assert (rows[0]["seconds"], rows[0]["rate_hz"], rows[2]["seconds"]) == (10.0, 100.0, 2.5)


def test_a_folder_that_is_not_there_is_told(room: Path) -> None:
    for arguments in (("list", "nowhere"), ("prune", "nowhere", "--days", "1")):
        asked(room, *arguments).says(3, "there is no folder nowhere")


def test_what_was_recorded_is_shown_where_there_is_nothing_to_train_on(room: Path) -> None:
    recorded, nothing = asked(room, "show", "rec", "--recipe", "ecg-beats").out.splitlines()
    assert recorded == f"recorded: 2 segments, 0.0 h; quality at least 0.50 (ecg_000001_{DAY:%Y%m%dT%H%M%S})"
    assert nothing.startswith(
        "nothing to train on yet: rec holds 2 recorded segments without annotations: annotate its beats first, or"
    )
    assert "2 recorded segments without annotations" in asked(room, "show", "rec").out
    name = segments(room / "rec")[0].glance.name
    lines = asked(room, "show", f"rec/{name}").out.splitlines()
    assert lines[0].split() == ["after:", "silence"]
    assert asked(room, "show", "rec", "--json", "--recipe", "ecg-beats").code == 3


def test_segments_without_annotations_are_counted_beside_others(room: Path) -> None:
    for ending in ("hea", "dat", "atr"):
        shutil.copy(MITDB / f"100.{ending}", room / "rec")
    out = asked(room, "show", "rec").out
    assert "2271 examples" in out
    assert "left out: recorded segments without annotations (2)" in out


def test_the_oldest_go_by_size_and_by_age_when_asked_and_not_in_a_trial(room: Path) -> None:
    asked(room, "prune", "rec").says(2, "add --keep BYTES or --days D")
    asked(room, "prune", "rec", "--keep", "much").says(2, "'much' is no size")
    trial = asked(room, "prune", "rec", "--days", "0.02", "--trial").out.splitlines()
    assert trial[0].startswith("would remove ecg_000001")
    assert trial[-1] == "1 segment would go"
    assert len(segments(room / "rec")) == 2
    assert asked(room, "prune", "rec", "--days", "0.02").out.splitlines()[-1] == "1 segment went"
    assert asked(room, "prune", "rec", "--keep", "1kB").out.splitlines()[-1] == "1 segment went"
    assert [path.suffix for path in sorted((room / "rec").iterdir())] == [".dat", ".open"]
