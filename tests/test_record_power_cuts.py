"""Power cuts: what had reached the card at some instant, and nothing of what the kernel still held back.

The card is an ext4 in a file. A copy of that file is the card as a power cut would leave it, to be mounted and read.
"""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

import pytest

from edge.record.recordings import Recordings
from edge.record.segment_files import segments
from tests.live_sender import WRAP, Sender
from tests.running_commands import EDGE, Running
from tests.test_recorder import samples
from tests.waiting import until

CUTS = 8
LOST_S = 1.0


@contextmanager
def mounted(image: Path, place: Path) -> Iterator[None]:
    """The test is skipped where this machine mounts no file for us."""
    place.mkdir(exist_ok=True)
    done = subprocess.run(["mount", "-o", "loop,noatime", image, place], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"this machine mounts no file for us: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", place], check=True)


def card(folder: Path) -> Path:
    """A file with an empty ext4 in it."""
    image = folder / "card"
    with image.open("wb") as file:
        file.truncate(32 * 2**20)
    if (program := shutil.which("mkfs.ext4", path="/usr/sbin:/sbin:/usr/bin")) is None:
        pytest.skip("this machine has no mkfs.ext4")
    subprocess.run([program, "-q", image], check=True)
    return image


def test_a_power_cut_at_any_instant_loses_a_second_at_most_and_tears_nothing(tmp_path: Path) -> None:
    """Seen to fail without each of the two fdatasync, and with a header that isn't synced before it is renamed."""
    draw, pause = random.Random(7), threading.Event()  # noqa: S311 - any instants will do
    image, cuts = card(tmp_path), list[tuple[Path, int]]()
    with mounted(image, tmp_path / "mounted"), Sender() as sender:
        place = tmp_path / "mounted" / "rec"
        flags = ("--source", sender.setting, "--to", str(place), "--sync", "0.1", "--segment", "3")
        with Running(*EDGE, "record", *flags, cwd=tmp_path) as recorder:
            until(lambda: list(place.glob("*.dat")), "a segment")
            for number in range(CUTS):
                pause.wait(draw.uniform(0.2, 0.8))
                recorder.send(signal.SIGSTOP)
                most = sender.sent_before(time.monotonic() - LOST_S)
                cuts.append((tmp_path / f"cut{number}", most))
                subprocess.run(["cp", "--sparse=always", image, cuts[-1][0]], check=True)
                recorder.send(signal.SIGCONT)
            recorder.send(signal.SIGTERM)
            assert recorder.end().code == 0
    assert cuts[-1][1] > 1000
    for cut, most in cuts:
        with mounted(cut, tmp_path / "after"):
            reports: list[str] = []
            Recordings(tmp_path / "after" / "rec", datetime.now, reports.append).recover()
            found = [value for each in segments(tmp_path / "after" / "rec") for value in samples(each.path)]
        assert found == [value % WRAP for value in range(len(found))]
        assert len(found) >= most, f"{len(found)} samples of at least {most} are there"
        assert reports == []
