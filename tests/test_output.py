"""Output that can't be printed; the commands whose work outlasts that are in `test_recorder` and `test_display`."""

from __future__ import annotations

import os
import pty
import subprocess
import sys

import pytest

from schemas.output import Output
from tests.running_commands import ROOT


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
