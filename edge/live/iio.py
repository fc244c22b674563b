"""A converter of Linux's Industrial I/O, such as an ADS1115 behind an AD8232: polled by sysfs, nothing to install.

A value is ``(raw + offset) * scale`` mV at the converter's input (the kernel's ABI, sysfs-bus-iio). From there to the
electrodes, ``zero`` is what the amplifier gives for 0 mV and ``scale`` the inverse of its gain: an AD8232 amplifies 100
times (its data sheet), and once more by its filter, about half of its supply; hence ``scale=0.01&zero=1650`` on 3.3 V
where the filter adds nothing.

A poll that comes too late for its sample has lost it; what can't be read is lost too. Linux isn't a real-time system,
so that happens: the recording's notes tell what was bridged.
"""

from __future__ import annotations

import errno
import os
import re
import sys
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from edge.live.setting import Kind, Opener, Options, Scale, Surroundings
from edge.live.source import Chunk, Clock, Lead, LiveSource, Signal, SourceLost

_FORM: Final = "iio:device0?channel=voltage0&rate=250&scale=0.01&zero=1650&leads=ecg&root=/ (or iio:ads1015, its name)"
_DEVICES: Final = "sys/bus/iio/devices"
_TOGETHER_S: Final = 0.1  # of samples in a chunk
_MOST_FAILURES: Final = 20  # reads one after the other that fail, on a bus that sometimes does
_CHANNEL: Final = re.compile(r"[a-z]+\d*(-[a-z]+\d+)?")


class Iio:
    """Channels of one converter, polled at ``signal.rate``."""

    def __init__(
        self, name: str, files: list[int], to_mv: list[tuple[Scale, Scale]], signal: Signal, clock: Clock
    ) -> None:
        """``files`` are the channels' raw values; ``to_mv`` leads from raw to the input's mV, and from there on."""
        self.signal = signal
        self._name = name
        self._files = files
        self._to_mv = to_mv
        self._clock = clock
        # The thread that polls is to have Python's lock as soon as its sleep is over, not 5 ms later.
        self._switching_s = sys.getswitchinterval()
        sys.setswitchinterval(min(self._switching_s, 0.1 / signal.rate))
        self._began = clock()
        self._next = 0  # sample
        self._lost = 0
        self._failures = 0

    def read(self, wait_s: float) -> Chunk | None:
        """A tenth of a second of samples; see ``LiveSource``."""
        rate = self.signal.rate
        ends = self._clock() + min(wait_s, _TOGETHER_S)
        frames: list[tuple[float, ...]] = []
        at, lost, self._lost = ends, self._lost, 0
        while (due := self._began + self._next / rate) < ends:
            late_s = self._clock() - due
            if late_s < 0:
                time.sleep(-late_s)
                continue  # it may have been a long sleep
            if (late := int(late_s * rate)) > 0:
                if frames:
                    break  # the next chunk begins behind the gap
                self._next, lost, due = self._next + late, lost + late, due + late / rate
            frame = self._poll()
            self._next += 1
            if frame is not None:
                frames.append(frame)
                at = due
            elif frames:
                self._lost = 1
                break
            else:
                lost += 1
        if not frames:
            self._lost = lost
            return None
        columns = zip(zip(*frames, strict=True), self._to_mv, strict=True)
        return Chunk(at, tuple(then.mv(first.mv(raw)) for raw, (first, then) in columns), lost)

    def close(self) -> None:
        """Let go of it."""
        sys.setswitchinterval(self._switching_s)
        for file in self._files:
            os.close(file)
        self._files = []

    def _poll(self) -> tuple[float, ...] | None:
        try:
            frame = tuple(float(os.pread(file, 64, 0)) for file in self._files)
        except (OSError, ValueError) as error:
            self._failures += 1
            gone = isinstance(error, OSError) and error.errno in {errno.ENODEV, errno.ENXIO}
            if gone or self._failures >= _MOST_FAILURES:
                raise SourceLost(f"{self._name} can't be read any more: {error}") from None
            return None
        self._failures = 0
        return frame


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What a setting says of a converter: it may be there or not."""

    root: Path
    channels: list[str]
    rate: float
    leads: tuple[Lead, ...]
    scale: Scale


def _read(options: Options, surroundings: Surroundings) -> Opener:
    channels = options.text("channel", "voltage0").split(",")
    rate, leads, scale = options.rate(250.0), options.leads(len(channels)), options.scale()
    root = Path(options.text("root", "/")) / _DEVICES
    options.done()
    if not all(map(_CHANNEL.fullmatch, channels)):
        raise options.wrong("channel= is to name channels such as voltage0, or voltage0-voltage1")
    return partial(_open, options, _Wanted(root, channels, rate, leads, scale), surroundings.clock)


def _open(options: Options, wanted: _Wanted, clock: Clock) -> LiveSource:
    device, channels, rate = _found(wanted.root, options.place), wanted.channels, wanted.rate
    most = next((each for name in channels if (each := _attribute(device, name, "sampling_frequency"))), None)
    if most is not None and most < rate:
        raise options.wrong(
            f"{device.name} converts {most:g} times a second: rate={most:g}, or raise its sampling_frequency"
        )
    files: list[int] = []
    try:
        for channel in channels:
            files.append(os.open(device / f"in_{channel}_raw", os.O_RDONLY | os.O_CLOEXEC))
    except OSError as error:
        for file in files:
            os.close(file)
        there = ", ".join(sorted(path.name[3:-4] for path in device.glob("in_*_raw")))
        raise SourceLost(f"can't read channel {channel} of {device}: {error.strerror}; it has: {there}") from None
    to_mv = []
    for channel in channels:
        offset, step = _attribute(device, channel, "offset"), _attribute(device, channel, "scale")
        to_mv.append((Scale(-(offset or 0.0), 1.0 if step is None else step), wanted.scale))
    return Iio(f"{device.name}", files, to_mv, Signal(wanted.leads, rate), clock)


def _found(root: Path, place: str) -> Path:
    """The device of this number or name."""
    devices = sorted(root.glob("iio:device*"))
    for device in devices:
        if device.name == f"iio:{place}" or _text(device / "name") == place:
            return device
    there = ", ".join(f"{device.name[4:]} ({_text(device / 'name')})" for device in devices) or "none"
    raise SourceLost(f"there is no converter {place} in {root}; there is: {there}. See its device tree overlay")


def _attribute(device: Path, channel: str, what: str) -> float | None:
    """A number that the driver tells of one channel, of all of its kind, or of the whole device."""
    kind = re.sub(r"\d", "", channel)
    for name in (f"in_{channel}_{what}", f"in_{kind}_{what}", what):
        try:
            return float(_text(device / name))
        except ValueError:
            continue
    return None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""


KIND = Kind(
    _FORM, "a converter of Linux's Industrial I/O (an AD8232 on an ADS1115), polled", "iio:ads1015?rate=250", _read
)
