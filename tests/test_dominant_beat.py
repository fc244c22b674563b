from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edge.beats.dominant_beat import BLOCK, FIRST, LOST, REACH, Followed, align, correlation, follow

SAMPLES = 128
QRS = slice(53, 79)
RATE = 180
NARROW, WIDE = 3.0, 12.0  # samples


def wave(width: float, height: float = 1.0) -> NDArray[np.float64]:
    return height * np.exp(-0.5 * ((np.arange(SAMPLES) - 64) / width) ** 2)


def record(kinds: str, intervals: NDArray[np.float64]) -> Followed:
    """Beats of kinds N (narrow, upright) and V (wide, inverted) at these intervals in s, followed."""
    places = np.rint(np.cumsum(intervals) * RATE).astype(np.int64)
    signal = np.zeros(int(places[-1]) + 2 * SAMPLES)
    for kind, place in zip(kinds, places, strict=True):
        signal[place : place + SAMPLES] += wave(NARROW) if kind == "N" else wave(WIDE, -1.2)
    return follow(signal.astype(np.float32), places, SAMPLES, intervals, QRS)


def test_the_dominant_beat_is_the_usual_one_whatever_came_between() -> None:
    followed = record("NNNNV" * 40, np.ones(200))
    np.testing.assert_allclose(followed.dominant, np.tile(wave(NARROW), (len(followed.dominant), 1)), atol=1e-3)
    assert len(followed.dominant) == -(-200 // BLOCK)
    assert np.flatnonzero(followed.strange).tolist() == list(range(4, 200, 5))


def test_every_other_beat_may_be_ventricular() -> None:
    intervals = np.concatenate([np.ones(FIRST), np.tile([1.3, 0.6], 100)])
    followed = record("N" * FIRST + "NV" * 100, intervals)
    assert followed.strange.tolist() == [False] * FIRST + [False, True] * 100


def test_a_record_that_begins_with_a_ventricular_beat_at_every_other_place_is_righted_in_the_end() -> None:
    followed = record("NV" * 250, np.tile([1.3, 0.6], 250))
    assert followed.strange[-20:].tolist() == [False, True] * 10


def test_a_shifted_beat_is_laid_on_the_dominant_one() -> None:
    room = np.zeros((2 * REACH + 1, SAMPLES + 2 * REACH))
    for shift in range(2 * REACH + 1):
        room[shift, shift : shift + SAMPLES] = wave(NARROW)
    beats, likeness = align(room, wave(NARROW), QRS)
    np.testing.assert_allclose(beats, np.tile(wave(NARROW), (len(room), 1)), atol=1e-9)
    np.testing.assert_allclose(likeness, 1, atol=1e-3)


@pytest.mark.parametrize("length", [1, 8, 40])
def test_a_run_of_premature_beats_does_not_become_the_rhythm(length: int) -> None:
    intervals = np.concatenate([np.ones(80), np.full(length, 0.6), np.ones(20)])
    followed = record("N" * len(intervals), intervals)
    assert followed.sinus == pytest.approx(1, abs=0.09)


def test_a_heart_that_stays_fast_has_another_rhythm_in_the_end() -> None:
    intervals = np.concatenate([np.ones(80), np.full(400, 0.6)])
    assert record("N" * 480, intervals).sinus[-1] == pytest.approx(0.6, rel=0.1)


def test_a_heart_that_grows_faster_is_followed() -> None:
    intervals = np.geomspace(1.2, 0.6, 300)
    followed = record("N" * 300, intervals)
    assert np.abs(np.log(intervals / followed.sinus))[FIRST:].max() < 0.1


def test_the_pause_after_a_ventricular_beat_is_no_sinus_interval_and_after_an_atrial_one_it_is() -> None:
    start = np.ones(FIRST)
    early = np.tile([1.0, 0.6, 1.4], 30)
    ventricular = record("N" * FIRST + "NVN" * 30, np.concatenate([start, early]))
    atrial = record("N" * FIRST + "NNN" * 30, np.concatenate([start, early]))
    assert ventricular.sinus[-1] == pytest.approx(1, abs=0.03)
    assert atrial.sinus[-1] > 1.1


def test_after_a_beat_that_stays_another_the_dominant_beat_follows() -> None:
    followed = record("N" * 100 + "V" * (LOST + 150), np.ones(LOST + 250))
    assert correlation(followed.dominant[-1].astype(np.float64), wave(WIDE, -1))[()] > 0.9
    assert not followed.strange[-1]


@given(st.integers(0, 2**32), st.integers(FIRST + 1, 150))
@settings(max_examples=20, deadline=None)
def test_after_the_first_beats_no_reference_knows_what_comes_later(seed: int, cut: int) -> None:
    rng = np.random.default_rng(seed)
    signal = rng.normal(size=170 * 120).astype(np.float32)
    places = np.arange(1, 151) * 120
    intervals = rng.uniform(0.3, 2, 150)
    whole = follow(signal, places, SAMPLES, intervals, QRS)
    part = follow(signal[: places[cut - 1] + 2 * SAMPLES], places[:cut], SAMPLES, intervals[:cut], QRS)
    for name in ("beats", "likeness", "sinus", "strange"):
        np.testing.assert_allclose(getattr(whole, name)[:cut], getattr(part, name), atol=1e-9, err_msg=name)
    np.testing.assert_allclose(whole.dominant[: len(part.dominant)], part.dominant, atol=1e-9)


@given(st.lists(st.floats(0.02, 100), min_size=1, max_size=40), st.integers(0, 2**32))
@settings(max_examples=30, deadline=None)
def test_any_beats_can_be_followed(intervals: list[float], seed: int) -> None:
    rng = np.random.default_rng(seed)
    starts = np.sort(rng.integers(-200, 3000, len(intervals)))
    signal = (rng.normal(size=2000) * rng.integers(0, 2)).astype(np.float32)
    followed = follow(signal, starts, SAMPLES, np.array(intervals), QRS)
    assert np.isfinite(followed.sinus).all()
    assert (followed.sinus > 0).all()
    assert (np.abs(followed.likeness) <= 1 + 1e-9).all()
