"""What recording costs a device: bytes that reach its card, processor time, memory.

    sudo python benchmarks/recording.py --seconds 180

For each of several ``--sync`` a recorder of two leads at 360 Hz works on an ext4 of its own, in a file mounted as a
block device, all at the same time. Counted is what the kernel writes to that device, journal and metadata included, and
scaled up to an hour. Then converters on a tree of files are polled at several rates, one at a time: what that costs the
processor, and what came too late. Needs root, to mount. Prints tables.
"""

from __future__ import annotations

import argparse
import math
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

import psutil
from broker import end_together, machine

from edge.record.segment_files import segments

RATE: Final = 360
SYNCS: Final = (1.0, 2.0, 5.0, 10.0)
RATES: Final = (250, 500, 860)
SETTLE_S: Final = 5.0
SECTOR: Final = 512


@contextmanager
def card(folder: Path) -> Iterator[tuple[Path, Path]]:
    """An ext4 of 256 MB: where it is mounted, and where the kernel counts what is written to it."""
    image, place = folder / "card", folder / "mounted"
    with image.open("wb") as file:
        file.truncate(256 * 2**20)
    place.mkdir()
    # Without lazy initialisation, which would go on writing for minutes.
    subprocess.run(["mkfs.ext4", "-q", "-E", "lazy_itable_init=0,lazy_journal_init=0", image], check=True)
    subprocess.run(["mount", "-o", "loop,noatime", image, place], check=True)
    try:
        found = subprocess.run(["losetup", "-j", image], check=True, capture_output=True, text=True).stdout
        yield place, Path("/sys/block") / Path(found.split(":")[0]).name / "stat"
    finally:
        subprocess.run(["umount", place], check=True)


def written(stat: Path) -> int:
    """Bytes."""
    return int(stat.read_text().split()[6]) * SECTOR


def send(server: socket.socket, over: threading.Event) -> None:
    """Two leads, each sample at its time."""
    peer, _ = server.accept()
    began, count = time.monotonic(), 0
    with peer:
        while not over.wait(0.05):
            due = int((time.monotonic() - began) * RATE)
            lines = (
                f"{math.sin(n / 40):.3f},{math.exp(-(((n % 300) - 150) ** 2) / 50):.3f}\n" for n in range(count, due)
            )
            peer.sendall("".join(lines).encode())
            count = due


def poll(rate: int, seconds: float) -> str:
    """A row: a converter is polled at ``rate`` Hz."""
    with tempfile.TemporaryDirectory() as folder:
        device = Path(folder, "sys/bus/iio/devices/iio:device0")
        device.mkdir(parents=True)
        (device / "in_voltage0_raw").write_text("512\n")
        source = f"iio:device0?rate={rate}&root={folder}"
        command = [sys.executable, "-m", "edge", "record", "--source", source, "--to", f"{folder}/rec"]
        child = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        process = psutil.Process(child.pid)
        time.sleep(SETTLE_S)
        before = sum(process.cpu_times()[:2])
        time.sleep(seconds)
        share = 100 * (sum(process.cpu_times()[:2]) - before) / seconds
        child.terminate()
        child.wait()
        notes = [segment.glance for segment in segments(Path(folder, "rec"))]
    bridged = sum(int(glance.notes["bridged"]) for glance in notes)
    kept = sum(glance.samples for glance in notes)
    return f"| {rate} | {share:.1f} | {100 * bridged / kept:.2f} | {len(notes)} |"


def main() -> None:
    """Run them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=180.0)
    seconds = parser.parse_args().seconds
    end_together()
    over = threading.Event()
    with ExitStack() as stack:
        running = []
        for sync in SYNCS:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            place, stat = stack.enter_context(card(folder))
            server = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            threading.Thread(target=send, args=(server, over), daemon=True).start()
            source = f"tcp:127.0.0.1:{server.getsockname()[1]}?rate={RATE}&leads=MLII,V5"
            command = [
                sys.executable,
                "-m",
                "edge",
                "record",
                "--source",
                source,
                "--to",
                str(place),
                "--sync",
                f"{sync}",
            ]
            child = subprocess.Popen(command, stdout=subprocess.DEVNULL)
            stack.callback(child.wait)
            stack.callback(child.terminate)
            running.append((sync, stat, psutil.Process(child.pid)))
        stack.callback(over.set)
        time.sleep(SETTLE_S)
        before = [(written(stat), sum(process.cpu_times()[:2])) for _, stat, process in running]
        time.sleep(seconds)
        after = [(written(stat), sum(process.cpu_times()[:2])) for _, stat, process in running]
        memory = [process.memory_info().rss / 1e6 for _, _, process in running]
    print(machine())
    print(f"2 leads at {RATE} Hz: {2 * 2 * RATE * 3600 / 1e6:.1f} MB of samples an hour; {seconds:.0f} s each\n")
    print("| --sync, s | MB an hour to the card | processor, % | memory, MB |\n|---|---|---|---|")
    for (sync, _, _), old, new, mb in zip(running, before, after, memory, strict=True):
        hourly, share = (new[0] - old[0]) * 3600 / seconds / 1e6, 100 * (new[1] - old[1]) / seconds
        print(f"| {sync:g} | {hourly:.0f} | {share:.2f} | {mb:.0f} |")
    print("\n| polled at, Hz | processor, % | bridged samples, % | segments |\n|---|---|---|---|")
    for rate in RATES:
        print(poll(rate, seconds / 3), flush=True)


if __name__ == "__main__":
    main()
