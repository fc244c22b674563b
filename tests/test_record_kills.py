"""The recorder killed at any instant, as a power cut would: at most the last second is lost, and nothing is torn."""

from __future__ import annotations

import random
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import wfdb

from tests.live_sender import WRAP, Sender
from tests.running_commands import EDGE, Running
from tests.waiting import until

LANES = 4
KILLS = 5  # of each
LOST_S = 1.0


def open_bytes(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.glob("*.dat") if path.with_suffix(".open").exists())


def lane(number: int, directory: Path) -> int:
    """Record, be killed, record again. How many kills hit a segment that was open."""
    draw, pause, hits, most = random.Random(number), threading.Event(), 0, 0  # noqa: S311 - any instants will do
    command = (*EDGE, "record", "--to", str(directory), "--sync", "0.1", "--segment", "10", "--json")
    with Sender() as sender:
        for kill in range(KILLS + 1):
            with Running(*command, "--source", sender.setting, cwd=directory.parent) as recorder:
                if kill:
                    recorder.wait_for("recovered")
                    check(directory, kill, most)
                until(lambda: open_bytes(directory) > 0, "a segment")
                if kill < KILLS:
                    pause.wait(draw.uniform(0.3, 1.9))
                recorder.send(signal.SIGTERM if kill == KILLS else signal.SIGKILL)
                most = sender.sent_before(time.monotonic() - LOST_S)
                recorder.end()
            hits += open_bytes(directory) > 0
    assert not list(directory.glob("*.open"))
    return hits


def check(directory: Path, segments: int, most: int) -> None:
    """What was sent is there up to the last second, in its order, and reads as WFDB."""
    names = sorted(directory.glob("*.hea"))
    assert len(names) == segments
    samples = wfdb.rdrecord(str(names[-1].with_suffix("")), physical=False).d_signal[:, 0].tolist()
    assert len(samples) >= most, f"{len(samples)} samples of at least {most} are there"
    assert samples == [value % WRAP for value in range(len(samples))]


def test_twenty_kills_lose_a_second_each_at_most(tmp_path: Path) -> None:
    places = [tmp_path / f"lane{number}" for number in range(LANES)]
    for place in places:
        place.mkdir()
    with ThreadPoolExecutor(LANES) as pool:
        hits = sum(pool.map(lane, range(LANES), places))
    assert hits == LANES * KILLS
