"""A source read in a thread of its own, ahead of whoever writes: a card that takes its time must not cost samples.

An fsync on a card can last from milliseconds to seconds. A serial port's buffer overflows in a third of one, and a
converter that is polled has no buffer at all.
"""

from __future__ import annotations

import queue
import threading
from typing import Final

from edge.live.source import Chunk, Clock, LiveSource, Signal, TellsOff

MOST_S: Final = 120.0  # of signal that waits, however it is cut up; a replay then waits for the disk
_LOOK_S: Final = 0.25


class Ahead:
    """Reads ``source`` until closed. ``take`` is for one thread."""

    def __init__(self, source: LiveSource, clock: Clock) -> None:
        """Begin to read."""
        self._source = source
        self._clock = clock
        self._waiting = queue.SimpleQueue[tuple[Chunk, float] | Exception]()
        self._most = max(1, round(MOST_S * source.signal.rate))
        self._held = 0  # samples that wait
        self._taken = threading.Condition()
        self._over = False
        self._thread = threading.Thread(target=self._run, name="source", daemon=True)
        self._thread.start()

    @property
    def signal(self) -> Signal:
        """What the source gives."""
        return self._source.signal

    @property
    def off(self) -> bool:
        """Whether its electrode is off, as far as it can tell."""
        return isinstance(self._source, TellsOff) and self._source.off

    def take(self, wait_s: float) -> tuple[Chunk, float] | None:
        """The next chunk, and when it was read; None where none comes within ``wait_s``.

        Raises what the source does, behind all that it gave.
        """
        try:
            came = self._waiting.get(timeout=wait_s)
        except queue.Empty:
            return None
        if isinstance(came, Exception):
            raise came
        with self._taken:
            self._held -= _samples(came[0])
            self._taken.notify()
        return came

    @property
    def full(self) -> bool:
        """Whether so much waits that no more is read."""
        return self._held >= self._most

    def stop(self) -> tuple[tuple[Chunk, float], ...]:
        """Read no more; what was read and not taken."""
        with self._taken:
            self._over = True
            self._taken.notify()  # it may be waiting for room
        self._thread.join()
        rest: list[tuple[Chunk, float]] = []
        while not self._waiting.empty():
            came = self._waiting.get()
            rest += [] if isinstance(came, Exception) else [came]
        return tuple(rest)

    def close(self) -> None:
        """Let go of the source."""
        self.stop()
        self._source.close()

    def _run(self) -> None:
        try:
            while not self._over:
                if (chunk := self._source.read(_LOOK_S)) is not None:
                    self._waiting.put((chunk, self._clock()))
                    with self._taken:
                        self._held += _samples(chunk)
                        self._taken.wait_for(lambda: self._over or not self.full)
        except Exception as error:  # noqa: BLE001 - whoever takes hears of it
            self._waiting.put(error)


def _samples(chunk: Chunk) -> int:
    return len(chunk.samples[0])
