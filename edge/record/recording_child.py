"""The agent's side of recording: a child process that records, and what it last said.

A failure is a line in the log and in the device's status. A segment that a killed child leaves is finished by the next.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, Final

from edge.kept_child import KeptChild
from edge.record.recording import Recording

_LEVELS: Final = {
    **dict.fromkeys(("silent", "off", "flat", "rate", "lost", "full", "trouble", "failed"), logging.WARNING),
    **dict.fromkeys(("segment", "removed"), logging.DEBUG),  # every half an hour, and of no use in a journal
}
# What the status says, to everybody who reads the broker: not when somebody wore what, nor a sensor's address.
_CONDITIONS: Final = {
    "source": "recording",
    "room": "recording",
    "segment": "recording, quality {quality}",
    "heard": "recording",
    "rate": "recording at another rate than is set; see the log",
    "silent": "not recording: nothing comes from the source; see the log",
    "off": "not recording: an electrode is off; see the log",
    "flat": "recording, but an electrode is off; see the log",
    "lost": "not recording: the source is lost; see the log",
    "full": "not recording: the disk is full",
    "failed": "not recording: the recorder failed; see the log",
    "end": "not recording: the source has ended",
}
_MOST_QUALITY: Final = 100  # characters; some leads' worth
_log = logging.getLogger(__name__)


class RecordingChild(KeptChild):
    """Records in a process of its own, for as long as it is entered. ``condition`` may be asked from any thread."""

    def __init__(self, recording: Recording) -> None:
        """Nothing is started yet."""
        super().__init__("edge.record.recording", recording.as_json(), "the recorder", "segment")
        self._condition = "starting"

    @property
    def condition(self) -> str:
        """How recording goes, in words that anybody may read."""
        return self._condition

    def heard(self, event: str, text: str, told: Mapping[str, Any]) -> None:
        """Log it, and say how recording goes."""
        notes = told.get("notes")
        quality = str(notes.get("quality", "?")) if isinstance(notes, dict) else ""
        _log.log(_LEVELS.get(event, logging.INFO), "%s", text)
        stays = event == "segment" and self._condition in {_CONDITIONS["off"], _CONDITIONS["flat"]}
        words = None if stays else _CONDITIONS.get(event)
        self._condition = self._condition if words is None else words.format(quality=quality[:_MOST_QUALITY])
