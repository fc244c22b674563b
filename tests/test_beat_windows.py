"""Beats counted in windows: each once, with its signal, and nothing that tells when a single one came."""

from __future__ import annotations

from dataclasses import fields

from hypothesis import given, settings
from hypothesis import strategies as st

from edge.findings.beat_windows import BeatWindows, Window

RATE = 50.0
SECOND = [0.0, 0.5] * 25


def heard(windows: BeatWindows, begin: int, end: int) -> list[Window]:
    found = []
    for at in range(begin, end):
        windows.hear(at + 1.0, SECOND, RATE)
        found += windows.done()
    return found


def test_a_window_waits_for_its_beats_and_has_each_once() -> None:
    windows = BeatWindows(60)
    assert heard(windows, 1000, 1070) == []
    windows.tell([1000.5, 1001.5, 1059.9, 1060.1], ["N", "V", "N", "S"])
    (window,) = windows.done()
    assert (window.began_s, window.ended_s, window.signal_s) == (1000, 1060, 60)
    assert window.beats == {"N": 2, "V": 1}
    assert windows.done() == []
    windows.tell([1061.0], ["S"])
    (last,) = windows.done(whole=True)
    assert (last.began_s, last.ended_s, last.signal_s, last.beats) == (1060, 1070, 10, {"S": 2})


def test_a_window_in_which_no_beat_is_found_is_told_all_the_same() -> None:
    """Seen to fail without ``LATEST_S``: an electrode that is off would never be told."""
    windows = BeatWindows(60)
    heard(windows, 0, 10)
    windows.tell([5.0], ["N"])
    assert heard(windows, 10, 149) == []
    (window,) = heard(windows, 149, 150)
    assert (window.beats, window.rate, window.ended_s) == ({"N": 1}, None, 60)


def test_windows_behind_a_gap_wait_for_its_first_beats() -> None:
    """Seen to fail where ``LATEST_S`` is all: at 20 beats a minute the first window had none, the next all of them."""
    windows = BeatWindows(60)
    for began, before in ((0, []), (1020, [({"N": 4}, 20)])):  # the one with the gap has all its beats
        assert [(one.beats, one.rate) for one in heard(windows, began, began + 200)] == before
        windows.tell([began + 3 * beat + 1.0 for beat in range(64)], ["N"] * 64)
        assert [(one.beats, one.rate) for one in windows.done()] == [({"N": 20}, 20)] * 3
        windows.part()


def test_the_wait_for_first_beats_has_an_end() -> None:
    windows = BeatWindows(60)
    assert heard(windows, 0, 239) == []
    assert [one.ended_s for one in heard(windows, 239, 240)] == [60, 120]
    assert [one.ended_s for one in heard(windows, 240, 270)] == [180]


def test_the_rate_is_of_intervals_without_a_gap_and_a_run_of_v_goes_on_over_windows() -> None:
    windows = BeatWindows(60)
    heard(windows, 0, 130)
    windows.tell([10, 10.5, 11, 58, 59], ["N", "N", "N", "V", "V"])
    windows.part()
    windows.tell([70, 70.5], ["N", "N"])
    first, second = windows.done(whole=True)[:2]
    assert (first.rate, first.longest_v, second.rate) == (80, 2, 120)

    windows = BeatWindows(60)
    heard(windows, 0, 130)
    windows.tell([58.0, 59.0, 60.5, 61.5, 62.5], ["V", "V", "V", "N", "V"])
    assert [one.longest_v for one in windows.done(whole=True)][:2] == [2, 3]


def test_a_flat_lead_has_no_good_second() -> None:
    windows = BeatWindows(60)
    for at in range(60):
        windows.hear(at + 1.0, [0.001] * 50, RATE)
    (window,) = windows.done(whole=True)
    assert window.quality == 0


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 40), st.sampled_from("NSV")), max_size=60), st.integers(1, 200))
def test_however_late_beats_are_told_each_is_in_one_window(steps: list[tuple[int, str]], late: int) -> None:
    """Seen to fail where a beat of a window that was given is dropped."""
    windows, counted, told = BeatWindows(60), 0, 0
    beats: list[tuple[float, str]] = []
    for step, name in steps:
        beats.append(((beats[-1][0] if beats else 0.0) + step / 10, name))
    for at in range(400):
        windows.hear(at + 1.0, SECOND, RATE)
        known = [beat for beat in beats if beat[0] <= at + 1 - late]
        windows.tell([time for time, _ in known[told:]], [name for _, name in known[told:]])
        told = len(known)
        counted += sum(sum(one.beats.values()) for one in windows.done())
    counted += sum(sum(one.beats.values()) for one in windows.done(whole=True))
    assert counted == told


def test_no_field_of_a_window_says_when_a_beat_came() -> None:
    names = {one.name for one in fields(Window)}
    assert names == {"began_s", "ended_s", "signal_s", "quality", "beats", "rate", "longest_v"}
