"""``edge record`` as its users start it."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import wfdb

from edge.cli import cli
from edge.live import KINDS, kind
from edge.live import read as read_setting
from edge.live.setting import Surroundings
from edge.sources import RECIPES, open_source, read
from schemas.link.address import BrokerAddress
from schemas.link.mqtt_settings import MqttSettings
from tests.running_commands import EDGE, MITDB, events, finished, in_process


def test_a_replayed_record_is_the_same_record_to_the_bit(tmp_path: Path) -> None:
    source = f"replay:{MITDB / '100'}?speed=max"
    done = finished(*EDGE, "record", "--source", source, "--to", "rec", "--segment", "1900", "--json", cwd=tmp_path)
    assert done.code == 0, done.err
    told = [event for event in events(done.out) if event["event"] == "segment"]
    assert [event["seconds"] for event in told] == [round(650_000 / 360, 3)]
    record = tmp_path / "rec" / told[0]["name"]
    was, now = (wfdb.rdrecord(str(path), physical=False) for path in (MITDB / "100", record))
    assert np.array_equal(was.d_signal, now.d_signal)
    assert (now.checksum, now.init_value) == (was.checksum, was.init_value)
    assert [now.sig_name, now.units, now.fs, now.adc_gain, now.baseline, now.fmt] == [
        was.sig_name,
        was.units,
        was.fs,
        was.adc_gain,
        was.baseline,
        ["16", "16"],
    ]

    shutil.copy(MITDB / "100.atr", record.with_suffix(".atr"))
    form = RECIPES["ecg-beats"].form
    examples = []
    for path in (MITDB / "100", record):
        opened = open_source(str(path), "ecg-beats")
        examples.append(read(opened, opened.owners, form).dataset)
    assert len(examples[1]) == 2271
    assert all(np.array_equal(a, b) for a, b in zip(examples[0].inputs, examples[1].inputs, strict=True))


def test_segments_follow_one_another_without_a_sample_lost(tmp_path: Path) -> None:
    source = f"replay:{MITDB / '208'}?speed=max&leads=MLII"
    assert not in_process(cli, "record", "--source", source, "--to", "rec", "--segment", "700", cwd=tmp_path).code
    parts = [wfdb.rdrecord(str(path.with_suffix("")), physical=False) for path in sorted(tmp_path.glob("rec/*.hea"))]
    assert [part.sig_len for part in parts] == [252_000, 252_000, 146_000]
    assert "after: length" in parts[1].comments
    assert "gap_s: 0.000" in parts[1].comments
    was = wfdb.rdrecord(str(MITDB / "208"), physical=False, channel_names=["MLII"])
    assert np.array_equal(was.d_signal, np.concatenate([part.d_signal for part in parts]))


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ((), 2, ("no source is chosen: add --source",)),
        (("--source", "seral:/dev/ttyUSB0"), 2, ("there is no source 'seral'", "  serial:/dev/ttyUSB0?rate=250")),
        (("--source", "tcp:localhost:1"), 2, ("add rate=", "It is written tcp:HOST:PORT?rate=250")),
        (("--source", "tcp:localhost:1?rate=9", "--keep", "12"), 2, ("'12' is no size",)),
        (("--source", "serial:/dev/nothing?rate=250"), 3, ("can't open the serial port /dev/nothing", "plugged in")),
        (("--source", "replay:nothing", "--to", "file"), 7, ("can't record to file",)),
    ],
)
def test_what_can_not_be_recorded_is_told_in_a_sentence(
    tmp_path: Path, arguments: tuple[str, ...], code: int, words: tuple[str, ...]
) -> None:
    (tmp_path / "file").touch()
    done = in_process(cli, "record", "--to", "rec", *arguments, cwd=tmp_path)
    assert "Traceback" not in done.err
    assert done.code == code
    for word in words:
        assert word in done.err


def test_all_kinds_of_source_are_listed_with_how_they_are_written(tmp_path: Path) -> None:
    """Seen to fail where ``help``, which the option promises, is an unknown source."""
    for asked in (("record", "--source"), ("run", "--record"), ("predict", "--live")):
        done = in_process(cli, *asked, "help", cwd=tmp_path)
        assert (done.code, done.err) == (0, "")
        for name in KINDS:
            assert f"  {name}:" in done.out
            assert f"such as {name}:" in done.out


@pytest.mark.parametrize("name", KINDS)
def test_an_example_of_a_source_is_one_that_could_be_there(name: str) -> None:
    """It is read without a look at any device, as a device's start does."""
    assert callable(read_setting(kind(name).example, Surroundings(time.monotonic, this_broker)))


def this_broker(client_id: str) -> MqttSettings:
    return MqttSettings(BrokerAddress.parse("mqtt://localhost"), client_id)


def test_settings_of_recording_come_from_a_file_too(tmp_path: Path) -> None:
    (tmp_path / "edge.toml").write_text(
        'record = "serial:/dev/ttyACM0?rate=500"\nrecord_keep = "5GB"\nrecord_days = 30\n'
    )
    out = in_process(cli, "record", "--config", "edge.toml", "--show-config", "--sync", "5", cwd=tmp_path).out
    shown = {line.split()[0]: line.split()[1:] for line in out.splitlines() if line.startswith("record")}
    assert shown["record"] == ["serial:/dev/ttyACM0?rate=500", "edge.toml"]
    assert shown["record_keep"] == ["5GB", "edge.toml"]
    assert shown["record_sync"] == ["5.0", "flag"]
    assert shown["record_segment"] == ["1800.0", "default"]
