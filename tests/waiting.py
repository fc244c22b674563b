"""Waiting for what nobody announces: a look every now and then, up to a limit."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final

LIMIT_S: Final = 60.0
_LOOK_S: Final = 0.01


def until(condition: Callable[[], object], what: str, limit_s: float = LIMIT_S) -> None:
    """Wait until ``condition`` is true of something; the test fails where it is not within ``limit_s``."""
    deadline, pause = time.monotonic() + limit_s, threading.Event()
    while not condition():
        assert time.monotonic() < deadline, f"still waiting for {what}"
        pause.wait(_LOOK_S)
