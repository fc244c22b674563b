"""Resampling and filters, live as in a recording."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edge.signals.filters import ecg_band
from edge.signals.resampling import HALF, Resampler
from schemas.errors import DataError

RATES = st.sampled_from([100.0, 125.0, 130.0, 180.0, 250.0, 256.0, 360.0, 500.0, 860.0, 1000.0])
CUTS = st.lists(st.integers(0, 400), max_size=8)


def noise(count: int, seed: int = 0) -> NDArray[np.float64]:
    return np.cumsum(np.random.default_rng(seed).normal(size=count)) / 10


def pieces(samples: NDArray[np.float64], cuts: list[int]) -> list[NDArray[np.float64]]:
    return np.split(samples, np.minimum(np.cumsum(cuts, dtype=np.int64), len(samples)))


@settings(deadline=None)
@given(RATES, CUTS, st.integers(0, 50))
def test_the_same_bits_come_out_however_the_signal_is_cut(rate: float, cuts: list[int], seed: int) -> None:
    """Seen to fail with a filter that begins anew at each chunk."""
    samples = noise(1500, seed)
    whole = ecg_band(180).feed(Resampler(rate, 180).feed(samples))
    resampler, band = Resampler(rate, 180), ecg_band(180)
    parts = [band.feed(resampler.feed(piece)) for piece in pieces(samples, cuts)]
    assert np.concatenate(parts).tobytes() == whole.tobytes()


@given(RATES, st.floats(1, 35), st.floats(0, 6))
def test_a_wave_keeps_its_height_and_its_place_in_time(rate: float, frequency: float, phase: float) -> None:
    """Seen to fail with a shift of one sample."""
    seconds = np.arange(int(4 * rate)) / rate
    wave = Resampler(rate, 180).feed(np.sin(2 * np.pi * frequency * seconds + phase))
    expected = np.sin(2 * np.pi * frequency * np.arange(len(wave)) / 180 + phase)
    settled = slice(2 * HALF * 2, len(wave))
    assert np.abs(wave - expected)[settled].max() < 0.02


@given(RATES)
def test_what_the_slower_rate_cannot_hold_is_gone(rate: float) -> None:
    if rate < 250:
        return
    hum = Resampler(rate, 180).feed(np.sin(2 * np.pi * 115 * np.arange(int(4 * rate)) / rate))
    assert np.abs(hum[100:]).max() < 0.02


@given(RATES)
def test_a_new_sample_comes_as_soon_as_its_neighbours_are_there(rate: float) -> None:
    made = Resampler(rate, 180).feed(noise(1000))
    assert 0 <= 1000 * 180 / rate - len(made) <= HALF * max(1.0, 180 / rate) + 1


def test_one_rate_stays_as_it_is() -> None:
    samples = noise(500)
    assert np.array_equal(Resampler(180, 180).feed(samples), samples)


@pytest.mark.parametrize("rate", [0.0, -1.0, float("nan"), float("inf"), 1e-9, 1e9])
def test_a_rate_that_is_none_is_told(rate: float) -> None:
    with pytest.raises(DataError, match="Hz"):
        Resampler(rate, 180)


@pytest.mark.parametrize("mains", [49.8, 50.0, 60.0, 60.2])
def test_mains_hum_and_wander_go_and_a_beat_stays(mains: float) -> None:
    seconds = np.arange(180 * 30) / 180
    hum, wander, wave = (np.sin(2 * np.pi * frequency * seconds) for frequency in (mains, 0.05, 10))
    settled = slice(180 * 2, None)
    assert np.abs(ecg_band(180).feed(hum)[settled]).max() < 0.02
    assert np.abs(ecg_band(180).feed(wander)[settled]).max() < 0.02
    kept = ecg_band(180).feed(wave)
    assert np.abs(kept - wave[: len(kept)])[settled].max() < 0.02


def test_an_offset_of_the_electrodes_makes_no_step() -> None:
    """Seen to fail where the filters begin at zero."""
    assert np.abs(ecg_band(180).feed(Resampler(360, 180).feed(np.full(1000, 300.0)))).max() < 1e-9
