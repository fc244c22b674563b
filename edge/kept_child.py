"""A child process beside the agent, started again where it dies: it is told one line of JSON, and tells lines of them.

Its standard input stays open for as long as it is wanted, which a parent that is killed can't forget to close. Whatever
becomes of it the agent goes on.
"""

from __future__ import annotations

import contextlib
import json
import logging
import subprocess
import sys
import threading
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Final, Self

_GOODBYE_S: Final = 5.0  # for it to finish what it is at
_log = logging.getLogger(__name__)


class KeptChild(ABC):
    """Runs ``python -m module`` for as long as it is entered. What it tells is heard on a thread of its own."""

    again_s: ClassVar[tuple[float, ...]] = (5.0, 30.0, 300.0)  # waits before a child that died is started again

    def __init__(self, module: str, line: str, who: str, well: str) -> None:
        """``line`` is what it is told, ``who`` what people call it; an event ``well`` says that it works."""
        self._module = module
        self._line = line
        self._who = who
        self._well = well
        self._stopping = threading.Event()
        self._child: subprocess.Popen[str] | None = None
        self._thread = threading.Thread(target=self._run, name=who, daemon=True)

    @abstractmethod
    def heard(self, event: str, text: str, told: Mapping[str, Any]) -> None:
        """It told this; ``failed`` where it can't work, or died. Never raises."""

    def __enter__(self) -> Self:
        """Start it."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Let it finish, and end."""
        self.close()

    def close(self) -> None:
        """Let it finish, ``_GOODBYE_S`` at most; its last has been ``heard`` once this returns."""
        self._stopping.set()
        self._close(self._child)
        self._thread.join(2 * _GOODBYE_S)

    def _run(self) -> None:
        deaths = 0
        while not self._stopping.is_set():
            try:
                well = self._follow()
            except OSError as error:  # no memory, no processes left
                well = False
                self.heard("failed", f"{self._who} can't be started: {error.strerror}", {})
            if well is None:
                return
            deaths = 0 if well else deaths + 1
            self._stopping.wait(self.again_s[min(deaths, len(self.again_s) - 1)])

    def _follow(self) -> bool | None:
        """Start a child and hear it until it ends; whether it has worked at all, None where that is all."""
        child = subprocess.Popen(  # noqa: S603 - our own module, no shell
            [sys.executable, "-m", self._module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # a Ctrl-C is the agent's to handle
        )
        self._child = child
        assert child.stdin is not None
        assert child.stdout is not None
        well, last = False, ""
        with child.stdout:
            with contextlib.suppress(OSError):
                child.stdin.write(f"{self._line}\n")
                child.stdin.flush()
            if self._stopping.is_set():
                self._close(child)
            for line in child.stdout:
                event = self._hear(line)
                well, last = well or event == self._well, event or last
        with contextlib.suppress(OSError):
            child.stdin.close()
        code = child.wait()
        if self._stopping.is_set() or last == "end":
            return None
        if last != "failed":
            self.heard("failed", f"{self._who} died ({code}); it is started again", {})
        return well

    def _hear(self, line: str) -> str:
        try:
            told = json.loads(line)
            event, text = str(told["event"]), str(told["text"])
        except (ValueError, KeyError, TypeError):
            return ""
        self.heard(event, text, told)
        return event

    def _close(self, child: subprocess.Popen[str] | None) -> None:
        """Tell a child to end; one that doesn't is killed."""
        if child is None or child.poll() is not None:
            return
        child.terminate()
        try:
            child.wait(_GOODBYE_S)
        except subprocess.TimeoutExpired:
            child.kill()
