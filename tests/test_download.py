from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.download import WINDOW, Download, Move
from schemas import parts
from schemas.errors import Reject, WireError

BLOB = bytes(range(256)) * 40
REF = parts.describe(BLOB, 256)


class Topics:
    """The part topics of a broker, and which of them a download is subscribed to."""

    def __init__(self, download: Download) -> None:
        self.download = download
        self.open: set[int] = set()
        self.widest = 0
        self.move(download.begin())

    def move(self, move: Move) -> None:
        assert not self.open & set(move.subscribe), "subscribed twice"
        assert set(move.unsubscribe) <= self.open, "unsubscribed from what it has not"
        self.open = (self.open - set(move.unsubscribe)) | set(move.subscribe)
        self.widest = max(self.widest, len(self.open))

    def deliver(self, index: int) -> None:
        self.move(self.download.take(index, parts.cut(BLOB, REF, index)))


@given(draw=st.randoms(use_true_random=False), strays=st.integers(0, 5))
def test_must_05_a_blob_comes_whole_in_any_order_with_repeats_and_parts_nobody_asked_for(
    draw: random.Random, strays: int
) -> None:
    topics = Topics(Download(REF, len(BLOB)))
    delivered: set[int] = set()
    while not topics.download.complete:
        stray = draw.randrange(10) < strays
        waiting = sorted(topics.open - delivered) or sorted(topics.open)
        index = draw.randrange(REF.parts) if stray else draw.choice(waiting)
        topics.deliver(index)
        delivered.add(index)
    assert topics.download.blob() == BLOB
    assert topics.open == set()
    assert topics.widest <= WINDOW + WINDOW // 2


def test_must_08_no_more_than_a_window_is_asked_for_at_once_and_refills_come_together() -> None:
    topics = Topics(Download(REF, len(BLOB)))
    assert topics.open == set(range(WINDOW))
    for index in range(WINDOW // 2 - 1):
        topics.deliver(index)
    assert topics.open == set(range(WINDOW))
    topics.deliver(WINDOW // 2 - 1)
    assert topics.open == set(range(WINDOW // 2, WINDOW + WINDOW // 2))


def test_a_part_on_the_topic_of_another_is_refused() -> None:
    with pytest.raises(WireError) as caught:
        Download(REF, len(BLOB)).take(3, parts.cut(BLOB, REF, 4))
    assert caught.value.reason is Reject.WRONG_SENDER


def test_a_part_of_another_blob_is_refused_and_the_download_goes_on() -> None:
    other = bytes(len(BLOB))
    topics = Topics(Download(REF, len(BLOB)))
    with pytest.raises(WireError):
        topics.download.take(0, parts.cut(other, parts.describe(other, 256), 0))
    for index in range(REF.parts):
        topics.deliver(index)
    assert topics.download.blob() == BLOB


def test_must_06_a_blob_beyond_the_limit_is_refused_before_anything_is_asked_for() -> None:
    with pytest.raises(WireError) as caught:
        Download(REF, len(BLOB) - 1)
    assert caught.value.reason is Reject.TOO_LARGE


def test_giving_up_unsubscribes_from_everything() -> None:
    topics = Topics(Download(REF, len(BLOB)))
    topics.deliver(2)
    topics.move(topics.download.end())
    assert topics.open == set()


def test_parts_that_came_before_they_were_asked_for_are_never_asked_for() -> None:
    """Some brokers send what others wait for. Seen to fail where the window moved over them: they came twice."""
    topics = Topics(Download(REF, len(BLOB)))
    early = set(range(WINDOW, WINDOW + 5))
    for index in early:
        topics.deliver(index)
    come, asked = set(early), set(topics.open)
    while not topics.download.complete:
        index = min(topics.open - come)
        topics.deliver(index)
        come.add(index)
        asked |= topics.open
    assert asked == set(range(REF.parts)) - early


def test_a_part_that_comes_again_is_an_answer_as_often_as_it_was_asked_for_once_more() -> None:
    """Else a broker that repeats a part for ever would keep a download alive. Seen to fail without the count."""
    download = Download(REF, len(BLOB))
    download.begin()
    download.take(0, parts.cut(BLOB, REF, 0))
    assert not download.is_answer(0)
    assert download.again() == Move(subscribe=tuple(range(1, WINDOW)))
    assert download.again() == Move(subscribe=tuple(range(1, WINDOW)))
    assert not download.is_answer(1)  # its first is news, and no answer
    download.take(1, parts.cut(BLOB, REF, 1))
    assert [download.is_answer(1) for _ in range(3)] == [True, True, False]
    assert not download.is_answer(0)
