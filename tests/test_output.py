"""Output that can't be printed; the commands whose work outlasts that are in `test_recorder` and `test_display`."""

from __future__ import annotations

import errno
import io
import os
import pty
import select
import subprocess
import sys
from pathlib import Path

import pytest

from schemas.output import Output, Terminal
from tests.full_disks import Ballast, small_disk
from tests.running_commands import LIMIT_S, ROOT


def test_what_is_needed_ends_where_nobody_reads_it_and_outlasts_a_full_disk() -> None:
    """``edge predict --live`` is for what it prints. Seen to fail: a full disk under its lines ended it."""
    reads, writes = os.pipe()
    os.close(reads)
    out = os.fdopen(writes, "w")
    with pytest.raises(BrokenPipeError):
        Output(out, needed=True).tell("a window")
    full = os.open("/dev/full", os.O_WRONLY)
    os.dup2(full, writes)
    output = Output(out, needed=True)
    for _ in range(10_000):
        output.tell("a window")
    os.dup2(os.open(os.devnull, os.O_WRONLY), writes)
    out.close()


def test_what_is_needed_ends_with_its_terminal_as_with_a_pipe() -> None:
    """Seen to fail with EIO, which ends a command with a traceback."""
    own, theirs = pty.openpty()
    os.close(own)
    with os.fdopen(theirs, "w") as out:
        with pytest.raises(BrokenPipeError):
            Output(out, needed=True).tell("a window")
        os.dup2(os.open(os.devnull, os.O_WRONLY), theirs)


def test_a_terminal_may_be_closed_before_what_draws_on_it_is_cleared_away() -> None:
    """Seen to fail with a traceback, from Python 3.13 on outside of its development mode too."""
    code = "import os; from schemas.output import Terminal; out = open(os.devnull, 'w'); screen = Terminal(out); "
    command = [sys.executable, "-X", "dev", "-c", f"{code}out.close(); del screen"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stderr == ""


def test_a_line_that_a_disk_takes_in_part_spoils_none_after_it(tmp_path: Path) -> None:
    """Seen to fail with the next line behind what had got to the disk, and with an empty line before each one after."""
    with small_disk(tmp_path / "disk") as disk:
        path, ballast = disk / "log", Ballast(disk)
        with path.open("w") as out:
            output = Output(out)
            output.tell("first")
            ballast.fill()  # all but the rest of that page
            output.line("torn" * 10_000)
            ballast.drop()
            output.tell("next")
            output.tell("last")
        first, torn, *rest = path.read_text().splitlines()
    assert (first, torn[:8], rest) == ("first", "torntorn", ["next", "last"])
    assert len(torn) < 40_000


def test_a_quota_costs_lines_as_a_full_disk_does() -> None:
    """Seen to fail with an error for it."""

    class OverQuota(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT), text)

    Output(OverQuota()).tell("a line")


def test_any_other_trouble_with_the_output_is_an_error() -> None:
    with Path(os.devnull).open() as unwritable, pytest.raises(OSError, match="not writable"):
        Output(unwritable).line("a line")


def test_what_is_drawn_is_on_the_terminal_at_once_where_it_is_one(tmp_path: Path) -> None:
    """Seen to fail without passing on a flush, and where all were said to be terminals, or none."""
    own, theirs = pty.openpty()
    with os.fdopen(theirs, "w", encoding="utf-8") as out:
        terminal = Terminal(out)
        assert (terminal.isatty(), terminal.fileno(), terminal.encoding) == (True, theirs, "utf-8")
        assert terminal.write("37 °C") == 5
        terminal.flush()
        assert select.select([own], [], [], LIMIT_S)[0]
        assert os.read(own, 100) == "37 °C".encode()
    os.close(own)
    with (tmp_path / "log").open("w", encoding="latin-1") as out:
        assert (Terminal(out).isatty(), Terminal(out).encoding) == (False, "latin-1")
    assert Terminal(io.StringIO()).encoding == "utf-8"  # where none is known


@pytest.mark.parametrize("size", [1, 100_000])
def test_what_is_drawn_after_a_terminal_went_away_is_dropped(tmp_path: Path, size: int) -> None:
    """Whether it goes while something is written, or only put together.

    Seen to fail with an input or output error, and where drawing was tried again each time.
    """
    own, theirs = pty.openpty()
    with os.fdopen(theirs, "w") as out:
        terminal = Terminal(out)
        os.close(own)
        assert terminal.write("x" * size) == size
        terminal.flush()
        elsewhere = os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT)
        os.dup2(elsewhere, theirs)
        os.close(elsewhere)
        assert terminal.write("y" * size) == size
        terminal.flush()
        assert not (tmp_path / "log").read_text()


@pytest.mark.parametrize("size", [1, 100_000])
def test_what_is_drawn_on_a_full_disk_is_dropped_until_there_is_room(tmp_path: Path, size: int) -> None:
    """Whether it is full while something is written, or only put together. Seen to fail with an error for it."""
    with small_disk(tmp_path / "disk") as disk:
        path, ballast = disk / "log", Ballast(disk)
        with path.open("w") as out:
            terminal = Terminal(out)
            ballast.fill()
            assert terminal.write("x" * size) == size
            terminal.flush()
            ballast.drop()
            terminal.write("last")
            terminal.flush()
        assert path.read_text().endswith("last")


def test_other_trouble_with_a_terminal_is_an_error() -> None:
    """Seen to fail with it taken for one that went away."""
    with Path(os.devnull).open() as unwritable, pytest.raises(OSError, match="not writable"):
        Terminal(unwritable).write("x")
