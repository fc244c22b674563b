"""Made-up people: their ECGs are the same each time, labelled right, and differ from person to person."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.beats.synthetic_ecg import MOST, SHORTEST_S, Recording, person, record
from edge.signals.filters import ecg_band
from edge.signals.r_peaks import RPeaks
from edge.signals.resampling import Resampler

PEOPLE = st.integers(0, 9999)


def made(number: int, seconds: float = 60, rate: float = 250) -> Recording:
    return record(person(number), seconds, rate, number)


@settings(max_examples=20, deadline=None)
@given(PEOPLE, st.sampled_from([125.0, 250.0, 360.0]))
def test_a_recording_is_whole_and_the_same_each_time(number: int, rate: float) -> None:
    one, again = made(number, rate=rate), made(number, rate=rate)
    assert one.signal.tobytes() == again.signal.tobytes()
    assert one.signal.shape == (int(60 * rate),)
    assert one.signal.dtype == np.float32
    assert np.isfinite(one.signal).all()
    assert np.abs(one.signal).max() < 8
    assert len(one.peaks) == len(one.symbols) > 30
    assert (np.diff(one.peaks) >= int(SHORTEST_S * rate)).all()
    assert set(one.symbols.tolist()) <= {"N", "L", "A", "V"}


@settings(max_examples=20, deadline=None)
@given(PEOPLE)
def test_the_rate_is_the_recorder_s_and_not_the_heart_s(number: int) -> None:
    """Seen to fail where intervals are counted in samples."""
    slow, fast = made(number, rate=125), made(number, rate=500)
    both = min(len(slow.peaks), len(fast.peaks))  # the last may fall on the end of the one
    assert both >= max(len(slow.peaks), len(fast.peaks)) - 1
    assert np.abs(slow.peaks[:both] / 125 - fast.peaks[:both] / 500).max() <= 0.01


@settings(max_examples=20, deadline=None)
@given(PEOPLE)
def test_premature_beats_come_early_and_those_of_a_ventricle_are_wide(number: int) -> None:
    """Seen to fail with labels shifted by one beat."""
    who = person(number)
    assert max(who.share.values()) <= MOST
    one = record(who, 300, 250, number)
    intervals = np.diff(one.peaks) / 250
    symbols = one.symbols[1:]
    if who.irregular < 0.1:
        usual = np.median(intervals[symbols == who.usual])
        assert (intervals[np.isin(symbols, ["A", "V"])] < 0.95 * usual).all()
    assert who.beats["V"].width[0] > 0.9 * who.beats[who.usual].width[2]


def test_people_differ_and_a_few_have_most_of_the_ectopic_beats() -> None:
    shares = np.array([[person(number).share[symbol] for symbol in "AV"] for number in range(400)])
    assert 0.02 < shares.mean() < 0.08
    assert np.median(shares) < shares.mean() / 3
    assert len({person(number).interval_s for number in range(400)}) == 400
    assert 0.08 < np.mean([person(number).usual == "L" for number in range(400)]) < 0.22


@pytest.mark.parametrize("number", [0, 5, 8])
def test_the_detector_hears_these_hearts(number: int) -> None:
    """So the labels are where the beats are."""
    one = made(number, 120)
    found = RPeaks(180).feed(ecg_band(180).feed(Resampler(250, 180).feed(one.signal.astype(np.float64)))) / 180
    near = (np.abs(found[:, None] - one.peaks / 250).min(axis=0) < 0.06)[1:-1]
    usual = (one.symbols == person(number).usual)[1:-1]
    assert near[usual].mean() > 0.98
    assert near.mean() > 0.95
