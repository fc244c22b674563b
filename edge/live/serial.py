"""Lines of numbers from a serial port: an Arduino, an ESP32, an ADS1292R board. By termios; nothing to install."""

from __future__ import annotations

import os
import termios
from functools import partial
from typing import Final

from edge.live.lines import OPTIONS, Lines, lines_of
from edge.live.setting import Kind, Opener, Options, Surroundings
from edge.live.source import Clock, LiveSource, SourceLost
from edge.live.stream import Stream

_FORM: Final = f"serial:/dev/ttyUSB0?{OPTIONS}&baud=115200"
_IFLAG, _OFLAG, _CFLAG, _LFLAG, _ISPEED, _OSPEED, _CC = range(7)  # of what tcgetattr gives


def _read(options: Options, surroundings: Surroundings) -> Opener:
    lines = lines_of(options, from_middle=True)
    baud = options.text("baud", "115200")
    speed = getattr(termios, f"B{baud}", None)
    if not isinstance(speed, int) or not speed:
        raise options.wrong(f"baud={baud} is no speed of a serial port: such as 9600 or 115200")
    options.done()
    return partial(_open, options.place, speed, lines, surroundings.clock)


def _open(place: str, speed: int, lines: Lines, clock: Clock) -> LiveSource:
    try:
        port = os.open(place, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise SourceLost(
            f"can't open the serial port {place}: {error.strerror}; see that it is plugged in, and that we may "
            "read it (group dialout)"
        ) from None
    try:
        _prepare(port, speed)
    except termios.error as error:
        os.close(port)
        raise SourceLost(f"{place} can't be used as a serial port: {error.args[-1]}") from None
    return Stream(f"the serial port {place}", port, partial(os.close, port), lines, clock)


def _prepare(port: int, speed: int) -> None:
    """Eight bits, no parity, nothing translated, no flow control; what came before is thrown away."""
    flags = termios.tcgetattr(port)
    flags[_IFLAG] = flags[_OFLAG] = flags[_LFLAG] = 0
    # HUPCL is left out: an Arduino starts anew where the line that it drops comes back.
    flags[_CFLAG] = termios.CS8 | termios.CREAD | termios.CLOCAL
    flags[_ISPEED] = flags[_OSPEED] = speed
    flags[_CC][termios.VMIN], flags[_CC][termios.VTIME] = 1, 0
    termios.tcsetattr(port, termios.TCSANOW, flags)
    termios.tcflush(port, termios.TCIFLUSH)


KIND = Kind(_FORM, "lines of numbers from a serial port, one line a sample", "serial:/dev/ttyUSB0?rate=250", _read)
