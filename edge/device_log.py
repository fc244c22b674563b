"""What one device says in its log. Whatever comes over the network can make it say something: each in bounds."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from typing import Final

from schemas.errors import Reject
from schemas.restraint import Restraint

MOST: Final = {logging.INFO: 100, logging.WARNING: 100, logging.ERROR: 100}  # lines a minute; a flood hides no warning
_log = logging.getLogger(__name__)


class DeviceLog:
    """The lines of device ``name``. ``now`` is in monotonic seconds."""

    def __init__(self, name: str, now: Callable[[], float]) -> None:
        self.rejected: Counter[Reject] = Counter()
        self._name = name
        self._restraint: Restraint[int] = Restraint(MOST, now)

    def say(self, text: str, level: int = logging.INFO) -> None:
        """One line, unless there were too many."""
        self.own_up()
        if self._restraint.lets(level):
            _log.log(level, "%s: %s", self._name, text)

    def warn(self, text: str) -> None:
        """One that somebody should see to."""
        self.say(text, logging.WARNING)

    def reject(self, reason: Reject, detail: str) -> None:
        """Count what was refused, and show each reason's first."""
        self.rejected[reason] += 1
        level = logging.WARNING if self.rejected[reason] == 1 else logging.DEBUG
        _log.log(level, "%s: ignored a message (%s): %.300s", self._name, reason, detail)

    def own_up(self, *, ends: bool = False) -> None:
        """Tell how much was not told, once its minute is over, or where all ends."""
        for level, count in self._restraint.over(ends=ends):
            lines = "1 more line was" if count == 1 else f"{count} more lines were"
            _log.log(level, "%s: %s left out of the log: more than %d came in a minute", self._name, lines, MOST[level])
