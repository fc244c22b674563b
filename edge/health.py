"""How the machine is: what an owner wants to know of a failing Pi. None wherever it can't tell.

Everything is read from ``/proc`` and ``/sys``; no command is run, so the sandbox needs to allow none.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

from schemas.messages import Health

# The bits of the firmware's word that say "now": under-voltage, capped frequency, throttled, soft temperature limit.
# The same bits 16 higher say "since start", which an owner can do nothing about any more.
_THROTTLED_NOW: Final = 0xF
_FIRMWARE: Final = "sys/devices/platform/soc/soc:firmware/get_throttled"  # Raspberry Pi OS
_ABSURD_C: Final = 200.0  # a sensor that isn't connected says such things
_FRESH_S: Final = 10.0


def read(directory: Path, root: Path = Path("/")) -> Health:
    """The machine's health now; ``directory`` is where free disk space counts, ``root`` where /proc and /sys are."""
    return Health(
        temperature_c=_temperature(root),
        throttled=_throttled(root),
        memory_available_mb=_memory(root),
        disk_free_mb=_disk(directory),
        load=_first_number(root / "proc/loadavg"),
        uptime_s=_first_number(root / "proc/uptime"),
        agent_peak_mb=peak_mb(root),
    )


def peak_mb(root: Path = Path("/")) -> float | None:
    """The most memory this process has had at a time (resident), in MB.

    Not by ``getrusage``: its figure outlives an exec, so that a trainer child would begin with the agent's.
    """
    return _kilobytes(root / "proc/self/status", "VmHWM")


class Monitor:
    """``read`` for many who ask often: at most once in ten seconds."""

    def __init__(self, directory: Path, clock: Callable[[], float], root: Path = Path("/")) -> None:
        """``clock`` is monotonic, in seconds."""
        self._directory = directory
        self._clock = clock
        self._root = root
        self._health: Health | None = None
        self._at = -math.inf

    def __call__(self) -> Health:
        """The newest reading."""
        if self._health is None or self._clock() - self._at >= _FRESH_S:
            self._health, self._at = read(self._directory, self._root), self._clock()
        return self._health


def _temperature(root: Path) -> float | None:
    """The hottest thermal zone, in degrees Celsius."""
    zones = (_first_number(path) for path in root.glob("sys/class/thermal/thermal_zone*/temp"))
    degrees = [zone / 1000 for zone in zones if zone is not None and abs(zone / 1000) < _ABSURD_C]
    return max(degrees, default=None)


def _throttled(root: Path) -> bool | None:
    """Whether a Raspberry Pi is slowed down now, for want of voltage or for heat."""
    text = _text(root / _FIRMWARE)
    try:
        return None if text is None else bool(int(text, 16) & _THROTTLED_NOW)
    except ValueError:
        return None


def _memory(root: Path) -> float | None:
    """What programs could still have without swapping, in MB."""
    return _kilobytes(root / "proc/meminfo", "MemAvailable")


def peaks(health: Health) -> str:
    """What a device's processes took, as the end of a line in the log; empty where it doesn't tell."""
    of = {"agent": health.agent_peak_mb, "trainer": health.trainer_peak_mb}
    known = [f"{name} {mb:.0f} MB" for name, mb in of.items() if mb is not None]
    return f"; peak memory: {', '.join(known)}" if known else ""


def _kilobytes(path: Path, wanted: str) -> float | None:
    """A line of the kernel's that counts in units of 1024 bytes, in MB."""
    for line in (_text(path) or "").splitlines():
        name, _, value = line.partition(":")
        if name == wanted:
            kilobytes = _number(value)
            return None if kilobytes is None else round(kilobytes * 1024 / 1e6, 1)
    return None


def _disk(directory: Path) -> float | None:
    """What is free for us where the state is kept, in MB."""
    try:
        disk = os.statvfs(directory)
    except OSError:
        return None
    return round(disk.f_bavail * disk.f_frsize / 1e6, 1)


def _first_number(path: Path) -> float | None:
    return _number(_text(path) or "")


def _number(text: str) -> float | None:
    words = text.split()
    try:
        value = float(words[0]) if words else math.nan
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return None
