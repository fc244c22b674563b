from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edge.beats import beat_features as bf
from edge.beats.dominant_beat import FIRST, Followed, follow

SAMPLES = 128
RATE = 180
COUNT = 160
EARLY = 120  # the beat that is another


def wave(width: float = 3.0, p_wave: float = 0.15) -> NDArray[np.float64]:
    time = np.arange(SAMPLES)
    parts = [(1.0, 64, width), (p_wave, 36, 4.0), (0.25, 110, 8.0)]
    return np.asarray(
        np.sum([size * np.exp(-0.5 * ((time - centre) / spread) ** 2) for size, centre, spread in parts], axis=0)
    )


def followed(intervals: NDArray[np.float64], *, width: float = 3.0, p_wave: float = 0.15) -> Followed:
    """Alike beats, one of which, ``EARLY``, is of another width or P wave, in a little noise."""
    places = np.rint(np.cumsum(intervals) * RATE).astype(np.int64)
    signal = np.random.default_rng(0).normal(size=int(places[-1]) + 2 * SAMPLES) * 0.005
    for number, place in enumerate(places):
        signal[place : place + SAMPLES] += wave(width, p_wave) if number == EARLY else wave()
    return follow(signal.astype(np.float32), places, SAMPLES, intervals, bf.QRS)


def premature(early: float, pause: float) -> NDArray[np.float64]:
    intervals = np.ones(COUNT)
    intervals[EARLY : EARLY + 2] = early, pause
    return intervals


def test_a_regular_rhythm_is_all_zero_at_any_heart_rate() -> None:
    for interval in (0.5, 1.0, 1.6):
        intervals = np.full(COUNT, interval)
        for name, values in bf.rhythm(followed(intervals), intervals).items():
            np.testing.assert_allclose(values, 0, atol=1e-9, err_msg=name)


def test_a_premature_beat_and_its_pause_are_told_to_all_their_neighbours() -> None:
    intervals = premature(0.64, 1.25)
    named = bf.rhythm(followed(intervals), intervals)
    assert named["interval +0"][EARLY] == pytest.approx(-2, abs=0.01)  # 0.8 twice
    assert named["interval +1"][EARLY] == pytest.approx(1, abs=0.01)
    for distance in (-2, -1, 0, 1, 2):
        assert named[f"interval {distance:+d}"][EARLY - distance] == pytest.approx(-2, abs=0.1)
    assert named["before/after"][EARLY] == pytest.approx(-3, abs=0.01)


def test_a_full_compensatory_pause_is_told_from_a_shorter_one() -> None:
    full, reset = (premature(0.6, pause) for pause in (1.4, 1.05))
    named = [bf.rhythm(followed(intervals), intervals)["pause"][EARLY] for intervals in (full, reset)]
    assert named[0] == pytest.approx(0, abs=0.02)
    assert named[1] < -0.8


def test_fibrillation_is_told_from_early_beats_in_a_regular_rhythm() -> None:
    rng = np.random.default_rng(0)
    irregular = 0.8 * np.exp(rng.normal(0, 0.2, COUNT))
    regular = np.tile([1, 1, 1, 1, 1, 1, 1, 1, 0.7, 1.2], COUNT // 10)
    both = [bf.rhythm(followed(intervals), intervals)["change"][-1] for intervals in (irregular, regular)]
    assert both[0] > 0.3
    assert both[1] < 0.1


def test_a_beat_is_less_early_where_intervals_change_anyway() -> None:
    regular, irregular = np.ones(COUNT), np.tile([1.1, 0.9], COUNT // 2)
    for intervals in (regular, irregular):
        intervals[EARLY] = 0.7
    both = [bf.rhythm(followed(intervals), intervals) for intervals in (regular, irregular)]
    assert both[0]["early by change"][EARLY] < 2 * both[1]["early by change"][EARLY] < 0


def test_early_beats_are_early_however_many_there_are() -> None:
    intervals = np.concatenate([np.ones(80), np.tile([0.6, 0.6, 0.6, 1.2], 20)])
    named = bf.rhythm(followed(intervals), intervals)
    early = intervals < 1
    assert named["interval +0"][early].max() < -1.5
    assert named["interval +0"][~early].min() > -0.6


def test_a_wide_beat_differs_from_its_owners_and_an_early_one_with_a_narrow_complex_does_not() -> None:
    intervals = premature(0.6, 1.3)
    wide, narrow = (bf.shape(followed(intervals, width=width)) for width in (9.0, 3.0))
    assert wide["qrs rel"][EARLY] > 2
    assert wide["width"][EARLY] > 0.5
    assert wide["qrs rel before"][EARLY + 1] == wide["qrs rel"][EARLY] == wide["qrs rel after"][EARLY - 1]
    assert abs(narrow["qrs rel"][EARLY]) < 0.3
    assert abs(narrow["width"][EARLY]) < 0.2


def test_a_missing_p_wave_is_seen() -> None:
    intervals = np.ones(COUNT)
    named = bf.shape(followed(intervals, p_wave=0.0))
    for name, sign in (("p rel", -1), ("p anywhere rel", -1), ("p size rel", -1), ("p off rel", 1)):
        assert sign * named[name][EARLY] > 0.5, name
        assert np.abs(np.delete(named[name], EARLY)).max() < 0.5, name


def test_the_tables_name_what_is_computed() -> None:
    intervals = np.ones(COUNT)
    assert set(bf.rhythm(followed(intervals), intervals)) == set(bf.RHYTHM)
    assert set(bf.shape(followed(intervals))) == set(bf.SHAPE)


@given(st.integers(0, 2**32), st.integers(FIRST + 3, 140))
@settings(max_examples=10, deadline=None)
def test_a_beat_needs_no_more_than_the_two_beats_after_it(seed: int, cut: int) -> None:
    rng = np.random.default_rng(seed)
    signal = rng.normal(size=150 * 120).astype(np.float32)
    places, intervals = np.arange(1, 141) * 120, rng.uniform(0.3, 2, 140)
    short = signal[: places[cut - 1] + 2 * SAMPLES]
    whole = bf.features(follow(signal, places, SAMPLES, intervals, bf.QRS), intervals)
    part = bf.features(follow(short, places[:cut], SAMPLES, intervals[:cut], bf.QRS), intervals[:cut])
    for one, other in zip(whole, part, strict=True):
        np.testing.assert_allclose(one[: cut - 2], other[: cut - 2], atol=1e-5)


def test_beats_are_compared_in_chunks_without_a_seam(monkeypatch: pytest.MonkeyPatch) -> None:
    intervals = premature(0.6, 1.3)
    whole = bf.features(followed(intervals, width=9.0), intervals)
    monkeypatch.setattr(bf, "CHUNK", 32)
    for one, other in zip(whole, bf.features(followed(intervals, width=9.0), intervals), strict=True):
        np.testing.assert_array_equal(one, other)


@given(st.lists(st.floats(0.02, 100), min_size=1, max_size=70), st.integers(0, 2**32), st.sampled_from([0.0, 1.0]))
@settings(max_examples=30, deadline=None)
def test_features_of_any_beats_are_finite_and_bounded(intervals: list[float], seed: int, size: float) -> None:
    rng = np.random.default_rng(seed)
    signal = (size * rng.normal(size=3000)).astype(np.float32)
    starts = np.sort(rng.integers(-200, 4000, len(intervals)))
    between = np.array(intervals)
    for array in bf.features(follow(signal, starts, SAMPLES, between, bf.QRS), between):
        assert array.dtype == np.float32
        assert np.abs(array).max() <= bf.LIMIT  # which NaN isn't
