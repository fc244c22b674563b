from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from edge.beats import ecg
from edge.beats.beat_features import BEFORE, RHYTHM
from schemas.errors import DataError

RATE = 360.0


def beating(
    seconds: float = 60.0, amplitude: float = 1.0, rate: float = RATE
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """A lead with a narrow R wave once a second on a slow baseline, and the R peaks' sample numbers."""
    time = np.arange(int(seconds * rate)) / rate
    peaks = (np.arange(0.5, seconds - 0.4, 1.0) * rate).astype(np.int64)
    waves = sum(np.exp(-0.5 * ((time - peak / rate) / 0.012) ** 2) for peak in peaks)
    return amplitude * (waves + 0.8 * np.sin(2 * np.pi * 0.05 * time)), peaks


def tone(frequency: float) -> float:
    """Amplitude, away from the ends, of a unit tone after the filter, relative to one of 10 Hz."""
    time = np.arange(int(60 * RATE)) / RATE
    marker = np.sin(2 * np.pi * 10 * time)
    both = ecg.condition(marker + np.sin(2 * np.pi * frequency * time), RATE)[ecg.RATE * 10 : -ecg.RATE * 10]
    spectrum = np.abs(np.fft.rfft(both * np.hanning(len(both))))
    at = [round(f * len(both) / ecg.RATE) for f in (frequency, 10)]
    return float(spectrum[at[0]] / spectrum[at[1]])


def test_the_band_from_half_to_forty_hertz_passes_and_the_rest_does_not() -> None:
    assert tone(5) == pytest.approx(1, abs=0.05)
    assert tone(20) == pytest.approx(1, abs=0.1)
    assert tone(0.1) < 0.05
    assert tone(75) < 0.15


@pytest.mark.parametrize("rate", [128.0, 250.0, 500.0, 1000.0])
def test_any_usual_sampling_rate_gives_the_same_features(rate: float) -> None:
    signal, peaks = beating()
    reference = ecg.relate_beats(signal, RATE, peaks)
    resampled, moved = beating(rate=rate)
    beats = ecg.relate_beats(resampled, rate, moved)
    np.testing.assert_allclose(beats.rhythm, reference.rhythm, atol=0.4)  # a sample of 128 Hz is 1 % of a second
    assert np.abs(beats.shape[:, :8]).max() < 1  # what a complex is beside the dominant one: alike


def test_a_gain_changes_nothing() -> None:
    (quiet, peaks), (loud, _) = beating(amplitude=0.3), beating(amplitude=7.0)
    one, other = (ecg.relate_beats(signal, RATE, peaks) for signal in (quiet, loud))
    np.testing.assert_allclose(one.shape, other.shape, atol=1e-3)
    np.testing.assert_array_equal(one.rhythm, other.rhythm)


def test_a_few_artefacts_hardly_change_the_scale() -> None:
    signal, peaks = beating()
    beats = signal[peaks[:, None] - BEFORE + np.arange(ecg.WINDOW)].astype(np.float32)
    clean = ecg.usual_height(beats)
    beats[:10] += np.linspace(0, 500, ecg.WINDOW, dtype=np.float32)
    assert ecg.usual_height(beats) == pytest.approx(clean, rel=0.1)


def test_beats_whose_window_leaves_the_record_are_not_kept_but_count_as_neighbours() -> None:
    signal, peaks = beating()
    with_ends = np.concatenate([[10], peaks, [len(signal) - 10]])
    beats = ecg.relate_beats(signal, RATE, with_ends)
    assert beats.kept.tolist() == [False, *[True] * len(peaks), False]
    assert beats.rhythm.shape == (len(peaks), 12)
    assert beats.shape.shape == (len(peaks), 19)
    first = dict(zip(RHYTHM, beats.rhythm[0].tolist(), strict=True))
    assert first["interval +0"] < -2  # 0.47 s after the beat that isn't kept


@pytest.mark.parametrize("count", [0, 1, 2, 3])
def test_very_few_beats_have_features_too(count: int) -> None:
    signal, peaks = beating()
    beats = ecg.relate_beats(signal, RATE, peaks[:count])
    assert beats.rhythm.shape == (count, 12)
    assert np.isfinite(beats.rhythm).all()
    assert np.isfinite(beats.shape).all()


def test_intervals_are_seconds_and_never_nothing() -> None:
    assert ecg.intervals(np.array([360, 720, 720, 1080]), RATE).tolist() == [1, 1, ecg.SHORTEST, 1]
    assert ecg.intervals(np.array([5]), RATE).tolist() == [1]
    assert not len(ecg.intervals(np.array([], dtype=np.int64), RATE))


def test_symbols_map_to_the_aami_classes() -> None:
    expected = {"N": "N", "L": "N", "R": "N", "e": "N", "j": "N", "A": "S", "a": "S", "J": "S", "S": "S"}
    expected |= {"V": "V", "E": "V", "F": "F", "/": "Q", "f": "Q", "Q": "Q"}
    assert {symbol: ecg.AAMI_OF_SYMBOL[symbol] for symbol in expected} == expected
    assert not set('!+~|x[]pt"') & ecg.AAMI_OF_SYMBOL.keys()


def test_a_flat_lead_and_a_coarse_one_say_what_to_do() -> None:
    with pytest.raises(DataError, match="check the electrode"):
        ecg.relate_beats(np.zeros(36000), RATE, np.array([1000, 2000, 3000]))
    with pytest.raises(DataError, match="too coarse"):
        ecg.condition(beating()[0], 60)
