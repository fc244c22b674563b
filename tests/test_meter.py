"""How long uploads take: what the meter of a device times, and what it doesn't."""

from __future__ import annotations

from edge.core import events as ev
from edge.core.events import Ticket
from edge.meter import Meter
from tests.edge_scripts import announcement
from tests.test_participation import parcel

ONE, TWO = (parcel(Ticket.of(announcement(number))) for number in (1, 2))


def test_an_upload_is_timed_from_when_the_link_got_to_it() -> None:
    """Seen to fail with the second timed from when it was given to the link: each took as long as all before it."""
    meter = Meter(counts=False)
    meter.uploading(7, ONE, 3000, 10.0)
    meter.uploading(8, TWO, 3000, 20.0)
    assert meter.acknowledged(5, 100.0) == ()
    assert meter.acknowledged(7, 110.0) == (ev.Uploaded(ONE, 3000, 100.0),)
    assert meter.acknowledged(8, 210.0) == (ev.Uploaded(TWO, 3000, 100.0),)
    assert meter.acknowledged(8, 210.0) == ()


def test_a_part_that_went_again_is_not_timed_and_is_none_of_the_time_of_what_comes_after_it() -> None:
    meter = Meter(counts=False)
    meter.uploading(7, None, 1000, 10.0)
    meter.uploading(8, ONE, 3000, 10.0)
    assert meter.take() == (ev.Uploading(10.0),)
    assert meter.acknowledged(7, 40.0) == ()
    assert meter.acknowledged(8, 100.0) == (ev.Uploaded(ONE, 3000, 60.0),)


def test_what_a_cut_was_in_the_middle_of_is_not_timed_nor_is_what_waited_behind_it() -> None:
    """A broker that is down makes no link slow. Seen to fail with the rest of the first left in the second's time."""
    meter = Meter(counts=False)
    meter.uploading(7, ONE, 3000, 10.0)
    assert meter.take() == (ev.Uploading(10.0),)
    meter.cut(0)
    assert meter.take() == (ev.Uploading(None),)
    meter.uploading(8, TWO, 3000, 500.0)
    assert meter.acknowledged(7, 600.0) == ()
    assert meter.acknowledged(8, 610.0) == (ev.Uploaded(TWO, 3000, 10.0),)


def test_a_link_is_busy_from_the_first_update_until_none_is_under_way() -> None:
    meter = Meter(counts=False)
    assert meter.take() == ()
    meter.uploading(6, None, 1000, 5.0)
    assert meter.take() == ()  # a part is no update
    meter.uploading(7, ONE, 3000, 10.0)
    meter.uploading(8, TWO, 3000, 20.0)
    assert meter.take() == (ev.Uploading(10.0),)
    assert meter.take() == ()
    meter.acknowledged(7, 110.0)
    assert meter.take() == ()
    meter.acknowledged(8, 210.0)
    assert meter.take() == (ev.Uploading(None),)


def test_invariant_11_of_uploads_that_are_never_acknowledged_the_newest_are_known() -> None:
    """Seen to fail where all were, and where the newest was the one to be forgotten."""
    meter = Meter(counts=False)
    for token in range(1000):
        meter.uploading(token, ONE, 3000, 10.0)
    timed = [token for token in range(1000) if meter.acknowledged(token, 20.0)]
    assert len(timed) < 100
    assert timed == list(range(1000 - len(timed), 1000))
