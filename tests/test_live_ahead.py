from __future__ import annotations

import threading
import time

import pytest

from edge.live.ahead import Ahead
from edge.live.source import Chunk, EndOfSignal, Lead, Signal, SourceLost
from tests.waiting import until


class Counting:
    """Gives 0, 1, 2, ... as fast as it is asked, up to ``most``; then it raises ``end``."""

    signal = Signal((Lead("ecg"),), 10.0)

    def __init__(self, most: int, end: Exception, at_once: int = 1) -> None:
        self.given = 0
        self._at_once = at_once
        self.closed = 0
        self._most = most
        self._end = end

    def read(self, _: float) -> Chunk | None:
        if self.given == self._most:
            raise self._end
        first, self.given = self.given, self.given + self._at_once
        return Chunk(float(self.given), ([float(number) for number in range(first, self.given)],))

    def close(self) -> None:
        self.closed += 1


def test_it_is_read_while_nobody_takes_and_nothing_is_lost_up_to_its_end() -> None:
    source = Counting(500, EndOfSignal())
    ahead = Ahead(source, time.monotonic)
    until(lambda: source.given == 500, "all of it")
    got = [came[0].samples[0][0] for _ in range(500) if (came := ahead.take(1.0)) is not None]
    assert got == list(range(500))
    with pytest.raises(EndOfSignal):
        ahead.take(1.0)
    ahead.close()
    assert source.closed == 1


@pytest.mark.parametrize("at_once", [1, 7, 5000])
def test_a_source_that_is_faster_than_the_disk_waits_and_can_be_stopped(at_once: int) -> None:
    """Two minutes of signal wait, in pieces of whatever size. Seen to fail with a bound on the number of pieces."""
    source = Counting(10**9, SourceLost("x"), at_once)
    ahead = Ahead(source, time.monotonic)
    until(lambda: ahead.full, "the bound")
    assert 1200 <= source.given < 1200 + at_once
    first = ahead.take(1.0)
    assert first is not None
    until(lambda: ahead.full, "the bound again")
    rest = [value for chunk, _ in ahead.stop() for value in chunk.samples[0]]
    assert [*first[0].samples[0], *rest] == list(range(source.given))
    assert not [thread for thread in threading.enumerate() if thread.name == "source"]
    ahead.close()


def test_each_chunk_tells_when_it_was_read_not_when_it_was_taken() -> None:
    now = [5.0]
    ahead = Ahead(Counting(1, SourceLost("gone")), lambda: now[0])
    until(lambda: ahead._waiting.qsize() == 2, "the chunk")
    now[0] = 9.0
    came = ahead.take(1.0)
    assert came is not None
    assert came[1] == 5.0
    with pytest.raises(SourceLost, match="gone"):
        ahead.take(1.0)
    assert ahead.take(0.0) is None
    ahead.close()
