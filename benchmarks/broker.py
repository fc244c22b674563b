"""What the benchmarks share: a mosquitto of their own, and what a process has used."""

from __future__ import annotations

import os
import platform
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

CONFIG = Path(__file__).parents[1] / "mosquitto" / "test.conf"
START_S = 10.0


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
