"""A serial port, on a pseudo-terminal."""

from __future__ import annotations

import os
import termios
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge.live.source import SourceLost
from schemas.errors import SettingsError
from tests.live_reading import gather, opened, values
from tests.waiting import until


@pytest.fixture
def terminal() -> Iterator[tuple[int, str]]:
    """The far end, and the name of the near one."""
    far, near = os.openpty()
    yield far, os.ttyname(near)
    os.close(near)
    os.close(far)


def test_bytes_arrive_untouched_at_the_speed_that_is_set(terminal: tuple[int, str]) -> None:
    far, name = terminal
    with opened(f"serial:{name}?rate=250&baud=57600&leads=a,b") as source:
        os.write(far, b"torn\n1,2\r\n3,4\n-5.5,6e-1\n")
        chunks = gather(source, 3)
        assert (values(chunks), values(chunks, 1)) == ([1, 3, -5.5], [2, 4, 0.6])
        flags = termios.tcgetattr(far)
        assert flags[4] == termios.B57600
        assert not flags[3] & (termios.ICANON | termios.ECHO)


def test_what_came_before_it_was_opened_is_thrown_away(terminal: tuple[int, str]) -> None:
    far, name = terminal
    os.write(far, b"7\n8\n9\n")
    with opened(f"serial:{name}?rate=250") as source:
        os.write(far, b"rest\n1\n")
        assert values(gather(source, 1)) == [1.0]


def test_nothing_within_the_wait_is_nothing(terminal: tuple[int, str]) -> None:
    with opened(f"serial:{terminal[1]}?rate=250") as source:
        assert source.read(0.01) is None


def test_a_cable_that_is_pulled_is_told() -> None:
    far, near = os.openpty()
    with opened(f"serial:{os.ttyname(near)}?rate=250") as source:
        os.close(near)
        os.close(far)
        with pytest.raises(SourceLost, match=r"the serial port .* (is gone|has ended)"):
            until(lambda: source.read(0.1), "the end")


def test_what_is_no_serial_port_is_told(tmp_path: Path) -> None:
    with (
        pytest.raises(SourceLost, match=r"can't open the serial port .*No such file.*group dialout"),
        opened(f"serial:{tmp_path}/tty?rate=250"),
    ):
        pass
    (tmp_path / "file").touch()
    with pytest.raises(SourceLost, match="can't be used as a serial port"), opened(f"serial:{tmp_path}/file?rate=250"):
        pass
    with pytest.raises(SettingsError, match=r"baud=123 is no speed"), opened("serial:/dev/null?rate=250&baud=123"):
        pass
