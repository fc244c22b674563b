"""Beats found while a lead comes in are those that are found in it once it is recorded."""

from __future__ import annotations

import numpy as np
import pytest

from edge.beats.beat_stream import BeatStream, Described
from edge.beats.synthetic_ecg import person, record
from edge.findings.beat_windows import Window
from edge.findings.live_findings import LiveFindings

RATE = 250.0
SIGNAL = record(person(5), 200, 250, 5).signal.astype(np.float64)


def classify(beats: Described) -> list[str]:
    """By the features alone, so that another cut of the lead which changed them would show."""
    return ["V" if height > 0 else "N" for height in beats.shape[:, 0]]


def watched(signal: np.ndarray[tuple[int], np.dtype[np.float64]], cuts: list[int]) -> list[Window]:
    live, found = LiveFindings(classify, 60), []
    for start, stop in zip([0, *cuts], [*cuts, len(signal)], strict=True):
        found += live.feed(signal[start:stop], RATE, 500 + stop / RATE)
    return found + live.finish()


@pytest.fixture(scope="module")
def whole() -> list[str]:
    stream = BeatStream(RATE)
    return classify(stream.feed(SIGNAL)) + classify(stream.finish())


@pytest.mark.parametrize("cuts", [[], list(range(37, len(SIGNAL), 997))])
def test_every_beat_is_in_a_window_however_the_lead_is_cut(whole: list[str], cuts: list[int]) -> None:
    """Seen to fail without the last beats at the end."""
    windows = watched(SIGNAL, cuts)
    assert [round(one.began_s) for one in windows] == [500, 560, 620, 680]
    assert round(windows[-1].ended_s) == 700
    assert sum(one.signal_s for one in windows) == pytest.approx(200, abs=0.2)
    for name in "NV":
        assert sum(one.beats.get(name, 0) for one in windows) == whole.count(name)
    assert all(one.quality > 0.9 for one in windows)


def test_beats_on_both_sides_of_a_gap_are_told_and_none_in_it() -> None:
    signal = SIGNAL.copy()
    signal[17_000:20_000] = np.nan
    ends = [BeatStream(RATE), BeatStream(RATE)]
    expected = 0
    for stream, part in zip(ends, (signal[:17_000], signal[20_000:]), strict=True):
        expected += len(stream.feed(part).peaks) + len(stream.finish().peaks)
    windows = watched(signal, list(range(1000, len(signal), 1000)))
    assert sum(sum(one.beats.values()) for one in windows) == expected
    assert sum(one.signal_s for one in windows) == pytest.approx(188, abs=0.2)


def test_an_electrode_that_is_off_has_windows_without_beats_and_comes_back() -> None:
    """Seen to fail with every second of it counted as good."""
    signal = np.concatenate([np.zeros(60_000), SIGNAL[:30_000]])
    windows = watched(signal, list(range(250, len(signal), 250)))
    assert [one.quality for one in windows[:4]] == [0] * 4
    assert windows[-1].beats


def test_a_slow_heart_has_its_beats_in_their_windows() -> None:
    """Beats of 20 a minute: those that a stream begins with take 200 s."""
    seconds = np.arange(300 * 250) / 250
    signal = np.exp(-(((seconds % 3 - 1) / 0.02) ** 2)) + 0.3 * np.exp(-(((seconds % 3 - 1.3) / 0.06) ** 2))
    windows = watched(signal, list(range(250, len(signal), 250)))
    assert [sum(one.beats.values()) for one in windows] == [20] * 5
    assert [one.rate for one in windows] == [20] * 5
