"""A command in a terminal of its own, as its user sees it: what it draws, keys pressed, the line cut."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Self

from tests.running_commands import LIMIT_S, ROOT

GONE = -1


class Terminal:
    """80 columns and 24 rows, of which the command is in charge. ``outlasts`` is as under ``nohup``."""

    def __init__(self, *arguments: str, cwd: Path | None = None, outlasts: bool = False) -> None:
        self._own, theirs = pty.openpty()
        command = ["setsid", "--ctty", sys.executable, *arguments]
        self._child = subprocess.Popen(
            ["sh", "-c", 'trap "" HUP; exec "$@"', "sh", *command] if outlasts else command,
            env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "80", "LINES": "24"},
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            cwd=cwd,
        )
        os.close(theirs)
        self.pid = self._child.pid
        self.screen = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._child.kill()
        self._child.wait()
        self.hang_up()

    def until(self, words: str) -> str:
        """Read until ``words`` are there; what came since the last time, and with it."""
        deadline, seen = time.monotonic() + LIMIT_S, self.screen
        while words not in seen:
            assert select.select([self._own], [], [], max(0.0, deadline - time.monotonic()))[0], seen
            try:
                seen += os.read(self._own, 65_536).decode(errors="replace")
            except OSError:
                raise AssertionError(f"ended without {words!r}: {seen}") from None
        before, _, self.screen = seen.partition(words)
        return before + words

    def press(self, keys: str) -> None:
        os.write(self._own, keys.encode())

    def send(self, number: signal.Signals) -> None:
        self._child.send_signal(number)

    def hang_up(self) -> None:
        """The window is closed, or the connection to it lost."""
        if self._own != GONE:
            os.close(self._own)
        self._own = GONE

    def end(self) -> int:
        return self._child.wait(LIMIT_S)
