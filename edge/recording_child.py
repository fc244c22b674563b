"""The agent's side of recording: a child process that records, started again where it dies, and what it last said.

Whatever becomes of it the agent goes on: a failure is a line in the log and in the device's status.
"""

from __future__ import annotations

import contextlib
import json
import logging
import subprocess
import sys
import threading
from typing import Final, Self

from edge.recording import Recording

_AGAIN_S: Final = (5.0, 30.0, 300.0)  # waits before a child that died is started again
_GOODBYE_S: Final = 5.0  # for it to finish its segment
_LEVELS: Final = {
    **dict.fromkeys(("lost", "full", "trouble", "failed"), logging.WARNING),
    **dict.fromkeys(("segment", "removed"), logging.DEBUG),  # every half an hour, and of no use in a journal
}
# What the status says, to everybody who reads the broker: not when somebody wore what, nor a sensor's address.
_CONDITIONS: Final = {
    "source": "recording",
    "room": "recording",
    "segment": "recording, quality {quality}",
    "lost": "not recording: the source is lost; see the log",
    "full": "not recording: the disk is full",
    "failed": "not recording: the recorder failed; see the log",
    "end": "not recording: the source has ended",
}
_MOST_QUALITY: Final = 100  # characters; some leads' worth
_log = logging.getLogger(__name__)


class RecordingChild:
    """Records in a process of its own, for as long as it is entered. ``condition`` may be asked from any thread."""

    def __init__(self, recording: Recording) -> None:
        """Nothing is started yet."""
        self._recording = recording
        self._stopping = threading.Event()
        self._child: subprocess.Popen[str] | None = None
        self._thread = threading.Thread(target=self._run, name="recording", daemon=True)
        self._condition = "starting"

    @property
    def condition(self) -> str:
        """How recording goes, in words that anybody may read."""
        return self._condition

    def __enter__(self) -> Self:
        """Start recording."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Let the child finish its segment, and end."""
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
                self._note("failed", f"the recorder can't be started: {error.strerror}")
            if well is None:
                return
            deaths = 0 if well else deaths + 1
            self._stopping.wait(_AGAIN_S[min(deaths, len(_AGAIN_S) - 1)])

    def _follow(self) -> bool | None:
        """Start a child and hear it until it ends; whether it has recorded anything, None where that is all."""
        child = subprocess.Popen(
            [sys.executable, "-m", "edge.recording"],
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
                child.stdin.write(f"{self._recording.as_json()}\n")
                child.stdin.flush()
            if self._stopping.is_set():
                self._close(child)
            for line in child.stdout:
                event = self._hear(line)
                well, last = well or event == "segment", event or last
        with contextlib.suppress(OSError):
            child.stdin.close()
        code = child.wait()
        if self._stopping.is_set() or last == "end":
            return None
        if last != "failed":
            self._note("failed", f"the recorder died ({code}); it is started again")
        return well

    def _hear(self, line: str) -> str:
        try:
            told = json.loads(line)
            event, text, notes = str(told["event"]), str(told["text"]), told.get("notes", {})
            quality = str(notes.get("quality", "?"))
        except (ValueError, KeyError, TypeError, AttributeError):
            return ""
        self._note(event, text, quality)
        return event

    def _note(self, event: str, text: str, quality: str = "") -> None:
        _log.log(_LEVELS.get(event, logging.INFO), "%s", text)
        words = _CONDITIONS.get(event)
        self._condition = self._condition if words is None else words.format(quality=quality[:_MOST_QUALITY])

    def _close(self, child: subprocess.Popen[str] | None) -> None:
        """Tell a child to end; one that doesn't is killed, and its segment finished at the next start."""
        if child is None or child.poll() is not None:
            return
        child.terminate()
        try:
            child.wait(_GOODBYE_S)
        except subprocess.TimeoutExpired:
            child.kill()
