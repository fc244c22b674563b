"""What the benchmarks share: a mosquitto of their own, what a process has used, and an end that leaves none."""

from __future__ import annotations

import os
import platform
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType

import psutil

CONFIG = Path(__file__).parents[1] / "mosquitto" / "test.conf"
START_S = 10.0
END_S = 10.0
ENDS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


@contextmanager
def mosquitto() -> Iterator[str]:
    """A broker on a free loopback port; its address."""
    program = shutil.which("mosquitto", path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin")
    if program is None:
        raise SystemExit("mosquitto is missing: apt install mosquitto")
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "mosquitto.conf"
        text = CONFIG.read_text().replace("listener 1883", f"listener {port}").replace("/var/lib/mosquitto", folder)
        config.write_text(text + ("\nuser root\n" if os.geteuid() == 0 else ""))
        process = subprocess.Popen([program, "-c", str(config)], stderr=subprocess.DEVNULL)
        try:
            wait_for(port)
            yield f"mqtt://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait()


def end_together() -> None:
    """Have the signals of ``ENDS`` end all that was started, and what that has started, before they end us.

    First, since whoever waits for a process on the way out may wait for hours; and here, since SIGTERM by itself runs
    no ``finally``, and Ctrl-C reaches a terminal's processes only. A second signal ends us at once.
    """
    taken = [each for each in ENDS if signal.getsignal(each) is not signal.SIG_IGN]  # as behind nohup

    def handle(number: int, _: FrameType | None) -> None:
        for each in taken:
            signal.signal(each, signal.SIG_DFL)
        started = psutil.Process().children(recursive=True)
        brokers = [child for child in psutil.Process().children() if child.name() == "mosquitto"]
        _end([child for child in started if child not in brokers])
        _end(brokers)  # which the others take their leave of
        raise SystemExit(128 + number)

    for each in taken:
        signal.signal(each, handle)


def _end(processes: list[psutil.Process]) -> None:
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.terminate()
    for process in psutil.wait_procs(processes, timeout=END_S)[1]:
        with suppress(psutil.NoSuchProcess):
            process.kill()


def free_port() -> int:
    """A loopback port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(port: int, limit_s: float = START_S) -> None:
    """Return once somebody accepts connections on a loopback port."""
    deadline = time.monotonic() + limit_s
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            if time.monotonic() > deadline:
                raise SystemExit(f"nothing listens on port {port} after {limit_s:g} s") from None
            time.sleep(0.02)
        else:
            return


def memory(pid: int, field: str = "VmHWM") -> float:
    """Of a process, in MB: its peak (``VmHWM``) or what it has now (``VmRSS``)."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) / 1e3
    return 0.0


def machine() -> str:
    """The machine and the date, as figures must carry them."""
    model = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        platform.machine(),
    )
    return f"{os.cpu_count()} cores, {model}, Python {platform.python_version()}, {datetime.now(UTC):%Y-%m-%d}"
