"""Lines of numbers from an open file descriptor: what a serial port and a TCP connection have in common."""

from __future__ import annotations

import os
import select
from collections.abc import Callable
from typing import Final

from edge.live.lines import Lines
from edge.live.source import Chunk, Clock, Signal, SourceLost

_READ: Final = 65_536


class Stream:
    """A source of lines behind a descriptor that doesn't block."""

    def __init__(self, name: str, descriptor: int, close: Callable[[], None], lines: Lines, clock: Clock) -> None:
        """``close`` closes ``descriptor``; ``name`` is what people call it."""
        self._name = name
        self._descriptor = descriptor
        self._close = close
        self._lines = lines
        self._clock = clock
        self._poll = select.poll()
        self._poll.register(descriptor, select.POLLIN)
        self._closed = False

    @property
    def signal(self) -> Signal:
        """What it gives."""
        return self._lines.signal

    @property
    def off(self) -> bool:
        """Whether its electrode is off, as it says."""
        return self._lines.off

    def read(self, wait_s: float) -> Chunk | None:
        """Samples that came; see ``LiveSource``."""
        if (chunk := self._lines.take()) is not None:
            return chunk
        if not self._poll.poll(wait_s * 1000):
            return None
        try:
            raw = os.read(self._descriptor, _READ)
        except BlockingIOError:
            return None
        except OSError as error:
            raise SourceLost(f"{self._name} is gone: {error.strerror}") from None
        if not raw:
            raise SourceLost(f"{self._name} has ended")
        self._lines.feed(raw, self._clock())
        return self._lines.take()

    def close(self) -> None:
        """Let go of it."""
        if not self._closed:
            self._closed = True
            self._close()
