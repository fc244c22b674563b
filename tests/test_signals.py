"""Resampling and filters, live as in a recording."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import scipy.ndimage
import scipy.signal
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edge.signals.filters import BandPass, LowPass, ecg_band, low_pass_taps
from edge.signals.r_peaks import highest_around
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


@given(st.floats(60, 1000), st.floats(1, 12), st.floats(1, 15), CUTS)
def test_the_band_pass_is_scipys(rate: float, low: float, width: float, cuts: list[int]) -> None:
    """However it is cut, and from the first sample on. Seen to fail where the filter begins at zero."""
    samples = noise(1500) + 3
    sections = scipy.signal.butter(2, (low, low + width), btype="bandpass", fs=rate, output="sos")
    expected, _ = scipy.signal.sosfilt(sections, samples, zi=scipy.signal.sosfilt_zi(sections) * samples[0])
    ours = BandPass(low, low + width, rate)
    made = np.concatenate([ours.feed(piece) for piece in pieces(samples, cuts)])
    assert np.abs(made - expected).max() < 1e-7  # both lose some digits where the band is narrow


@given(st.integers(1, 300), st.floats(0.01, 0.99), st.floats(0, 12))
def test_the_taps_of_a_low_pass_are_scipys(half: int, share: float, beta: float) -> None:
    expected = scipy.signal.firwin(2 * half + 1, share, window=("kaiser", beta))
    assert np.allclose(low_pass_taps(half, share, beta), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("rate", [101.0, 180.0, 250.0, 1000.0])
def test_the_band_of_a_beat_ends_as_kaisers_rules_have_it(rate: float) -> None:
    """By SciPy's: an impulse comes out as the low-pass, behind the moving averages that take the baseline."""
    count, beta = scipy.signal.kaiserord(40, 12 / (rate / 2))
    expected = scipy.signal.firwin(count | 1, 44, window=("kaiser", beta), fs=rate)
    impulse = np.zeros(4 * (count | 1) + 1)
    impulse[len(impulse) // 2] = 1
    made = LowPass(rate).feed(impulse)
    middle = len(impulse) // 2
    assert np.allclose(made[middle - count // 2 : middle + count // 2 + 1], expected, rtol=0, atol=1e-15)


@given(st.lists(st.floats(-1, 1), min_size=1, max_size=100), st.integers(0, 60))
def test_the_highest_around_is_scipys(values: list[float], reach: int) -> None:
    expected = scipy.ndimage.maximum_filter1d(np.array(values), 2 * reach + 1)
    assert np.array_equal(highest_around(np.array(values), reach), expected)


def test_finding_beats_takes_no_scipy() -> None:
    """Which takes more memory than all else that a device imports for it."""
    code = "import edge.findings.finder, sys; print('scipy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "False\n"
