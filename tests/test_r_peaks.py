"""R peaks in made and in real ECGs."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import ArrayLike, NDArray

from edge.signals.filters import ecg_band
from edge.signals.r_peaks import LEARNING_S, SILENCE_S, RPeaks
from edge.signals.resampling import Resampler
from tests.running_commands import MITDB

RATE = 180


def beats(at_s: ArrayLike, seconds: float, heights: ArrayLike = 1.0) -> NDArray[np.float64]:
    """An ECG of QRS complexes 80 ms wide and T waves, in a little noise."""
    time = np.arange(int(seconds * RATE)) / RATE
    signal = np.random.default_rng(1).normal(scale=0.01, size=len(time))
    for at, height in zip(*np.broadcast_arrays(at_s, heights), strict=True):
        for shift, width, size in [(-0.025, 0.01, -0.15), (0, 0.011, 1.0), (0.03, 0.01, -0.2), (0.25, 0.05, 0.25)]:
            signal += height * size * np.exp(-(((time - at - shift) / width) ** 2) / 2)
    return signal


def peaks(signal: NDArray[np.float64], *cuts: int) -> NDArray[np.int64]:
    band, detector = ecg_band(RATE), RPeaks(RATE)
    signal = np.concatenate([signal, np.full(2 * RATE, signal[-1])])  # the filters look ahead
    parts = np.split(signal, np.minimum(np.cumsum(cuts, dtype=np.int64), len(signal)))
    return np.concatenate([detector.feed(band.feed(part)) for part in parts])


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.integers(0, 150), min_size=20, max_size=60), st.lists(st.floats(0.35, 1.6), min_size=20, max_size=30)
)
def test_live_and_recorded_peaks_are_the_same(cuts: list[int], intervals: list[float]) -> None:
    """In noise that hides every other beat. Seen to fail where the slopes before a chunk are forgotten."""
    at = np.cumsum(intervals)
    signal = beats(at, at[-1] + 1)
    signal += np.random.default_rng(2).normal(scale=0.3, size=len(signal))
    assert np.array_equal(peaks(signal), peaks(signal, *cuts))


@settings(max_examples=30, deadline=None)
@given(st.floats(0.35, 1.4), st.integers(0, 1000), st.floats(0.02, 50))
def test_every_beat_of_a_steady_heart_is_found_in_its_place(interval: float, seed: int, height: float) -> None:
    jitter = np.random.default_rng(seed).normal(scale=0.03, size=int(30 / interval))
    at = 0.5 + np.cumsum(np.maximum(0.3, interval + jitter))
    found = peaks(height * beats(at, at[-1] + 1))
    assert len(found) == len(at)
    assert np.abs(found / RATE - at).max() <= 3 / RATE


def test_a_premature_beat_and_the_pause_after_it_are_no_matter() -> None:
    intervals = np.full(60, 0.8)
    intervals[[20, 40]], intervals[[21, 41]] = 0.45, 1.15
    at = np.cumsum(intervals)
    assert len(peaks(beats(at, at[-1] + 1))) == len(at)


def test_a_weak_beat_among_strong_ones_is_found_at_a_second_look() -> None:
    """Seen to fail without the second look."""
    at = np.arange(1, 41) * 0.8
    heights = np.ones(40)
    heights[25] = 0.22
    assert len(peaks(beats(at, 34, heights))) == 40


@pytest.mark.parametrize("change", [0.15, 6.0])
def test_an_electrode_that_moves_costs_some_seconds_and_no_more(change: float) -> None:
    """Seen to fail without a new start after a silence."""
    at = np.arange(1, 101) * 0.8
    found = peaks(beats(at, 82, np.where(at < 40, 1.0, change)))
    missed = [beat for beat in at if np.abs(found / RATE - beat).min() > 0.02]
    assert len(found) <= 100
    assert all(40 <= beat < 40 + SILENCE_S + 2 for beat in missed)


def test_a_line_without_a_heart_has_no_beats() -> None:
    assert len(peaks(np.full(RATE * 60, 1.7))) == 0


def test_an_electrode_that_falls_off_leaves_no_beats_behind() -> None:
    """Seen to fail where the levels are learnt anew however small the peaks are."""
    at = np.arange(1, 40) * 0.8
    signal = beats(at, 60)
    assert (peaks(signal) / RATE <= at[-1] + 0.1).all()


def test_nothing_is_told_before_the_levels_are_known_and_then_all_of_it() -> None:
    at = np.arange(1, 21) * 0.8
    detector, band = RPeaks(RATE), ecg_band(RATE)
    signal = beats(at, 19)
    early = int((LEARNING_S - 1) * RATE)
    assert len(detector.feed(band.feed(signal[:early]))) == 0
    assert len(detector.feed(band.feed(signal[early:]))) == 20


@pytest.mark.skipif(not MITDB.is_dir(), reason="no recordings")
@pytest.mark.parametrize("record", ["100", "200", "208", "232"])
def test_98_of_a_hundred_peaks_of_real_patients_are_found(record: str) -> None:
    """PVCs in 200 and 208, long pauses in 232. All records: ``benchmarks/r_peaks.py``."""
    import wfdb  # noqa: PLC0415  - half a second

    read = wfdb.rdrecord(str(MITDB / record), channels=[0], sampto=10 * 60 * 360)
    marks = wfdb.rdann(str(MITDB / record), "atr", sampto=10 * 60 * 360)
    at = marks.sample[np.isin(marks.symbol, list("NLRBejnAaJSVEFfQ/"))] / 360
    found = peaks(Resampler(read.fs, RATE).feed(read.p_signal[:, 0])) / RATE
    near = np.abs(found[:, None] - at).min(axis=0) <= 0.15
    true = np.abs(found[:, None] - at).min(axis=1) <= 0.15
    assert near[at > 1].mean() >= 0.98 - 0.01 * (record == "208")
    assert true.mean() >= 0.98
