"""A real run on mosquitto, with what each device is sent read from the broker's own log."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from pathlib import Path

from tests.link_mosquitto import ROOT, Mosquitto
from tests.running_commands import COORDINATOR, QUICK, Running

ROUNDS = 5
SENT = re.compile(r"Sending PUBLISH to (\S+) .*'fl/v1/home/model/(\d+)/(delta/)?\d+'.*\((\d+) bytes\)")


def test_devices_that_keep_up_are_sent_one_model_whole_and_then_steps_alone(tmp_path: Path) -> None:
    """A step has less than an eighth of a model's bytes. Seen to fail with ``--downlink none``."""
    directory = tmp_path / "broker"
    directory.mkdir()
    config = (ROOT / "mosquitto" / "test.conf").read_text(encoding="utf-8") + "\nlog_type all\n"
    with Mosquitto(directory, config) as broker:
        options = ("--plan", "watch", "--rounds", str(ROUNDS), *QUICK, "--json", "--broker", broker.address)
        with Running(*COORDINATOR, "start", *options, "--state", str(tmp_path / "state"), cwd=tmp_path) as running:
            done = running.end()
        log = broker.log
    assert done.code == 0, done.err
    closed = [json.loads(line)["summary"] for line in done.out.splitlines() if '"round_closed"' in line]
    assert len(closed) == ROUNDS
    whole: dict[str, dict[int, int]] = defaultdict(lambda: defaultdict(int))
    stepped: dict[str, dict[int, int]] = defaultdict(lambda: defaultdict(int))
    for client, version, delta, size in SENT.findall(log):
        (stepped if delta else whole)[client][int(version)] += int(size)
    trained = {device for summary in closed for device in summary["devices"]}
    assert len(trained) == 2
    for device in trained:
        assert len(whole[device]) == 1
        (first, size), *_ = whole[device].items()
        assert set(stepped[device]) >= set(range(first + 1, ROUNDS))  # the last may come as the run ends
        assert max(stepped[device].values()) < size / 8
