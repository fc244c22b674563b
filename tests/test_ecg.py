from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from edge import ecg
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


def test_windows_have_the_r_peak_where_it_was_annotated() -> None:
    signal, peaks = beating()
    beats = ecg.cut_beats(signal, RATE, peaks)
    assert beats.signal.shape == (len(peaks), 1, 128)
    assert beats.signal.dtype == np.float32
    assert beats.rr.shape == (len(peaks), 6)
    tallest = beats.signal[:, 0].argmax(axis=1)
    assert np.abs(tallest - ecg.BEFORE).max() <= 1


@pytest.mark.parametrize("rate", [128.0, 250.0, 360.0, 500.0, 1000.0])
def test_any_usual_sampling_rate_gives_the_same_windows(rate: float) -> None:
    reference = ecg.cut_beats(*beating()[:1], RATE, beating()[1]).signal[5, 0]
    signal, peaks = beating(rate=rate)
    window = ecg.cut_beats(signal, rate, peaks).signal[5, 0]
    assert float(np.corrcoef(window, reference)[0, 1]) > 0.97


def test_scale_is_the_records_own_so_that_a_gain_changes_nothing() -> None:
    (quiet, peaks), (loud, _) = beating(amplitude=0.3), beating(amplitude=7.0)
    one, other = (ecg.cut_beats(signal, RATE, peaks).signal for signal in (quiet, loud))
    np.testing.assert_allclose(one, other, atol=1e-5)
    assert one.max() == pytest.approx(1, abs=0.2)


def test_a_few_artefacts_hardly_change_the_scale() -> None:
    signal, _ = beating()
    clean = ecg.robust_scale(signal)
    signal[1000:1050] += 500
    assert ecg.robust_scale(signal) == pytest.approx(clean, rel=0.1)


def test_beats_whose_window_leaves_the_record_are_not_kept_but_count_as_neighbours() -> None:
    signal, peaks = beating()
    with_ends = np.concatenate([[10], peaks, [len(signal) - 10]])
    beats = ecg.cut_beats(signal, RATE, with_ends)
    assert beats.kept.tolist() == [False, *[True] * len(peaks), False]
    np.testing.assert_array_equal(beats.rr, ecg.rr_features(with_ends, RATE)[1:-1])


def test_a_regular_rhythm_has_rr_features_of_zero_at_any_heart_rate() -> None:
    for period in (200, 360, 700):
        np.testing.assert_allclose(ecg.rr_features(np.arange(50) * period, RATE), 0, atol=1e-6)


def test_a_premature_beat_with_its_pause_stands_out() -> None:
    peaks = np.arange(40) * 360
    peaks[20] -= 144  # after 0.6 s, and 1.4 s to the next
    features = ecg.rr_features(peaks, RATE)[20]
    row = dict(zip(ecg.RR_FEATURES, (1.25**features).tolist(), strict=True))
    assert row["pre"] == pytest.approx(0.6, abs=1e-4)
    assert row["post"] == pytest.approx(1.4, abs=1e-4)
    assert row["pre/post"] == pytest.approx(0.6 / 1.4, abs=1e-4)
    assert row["local"] == pytest.approx(0.96, abs=1e-4)
    assert row["pre/local"] == pytest.approx(0.6 / 0.96, abs=1e-4)
    assert row["post/local"] == pytest.approx(1.4 / 0.96, abs=1e-4)


def test_a_gap_in_the_annotation_is_clipped() -> None:
    peaks = np.concatenate([np.arange(10) * 360, np.arange(10) * 360 + 10**7])
    features = ecg.rr_features(peaks, RATE)
    assert np.isfinite(features).all()
    assert 1.25 ** np.abs(features).max() == pytest.approx(10, abs=1e-3)


@pytest.mark.parametrize("count", [0, 1, 2])
def test_very_few_beats_have_features_too(count: int) -> None:
    features = ecg.rr_features(np.arange(count) * 360, RATE)
    assert features.shape == (count, 6)
    assert not features.any()


def test_symbols_map_to_the_aami_classes() -> None:
    expected = {"N": "N", "L": "N", "R": "N", "e": "N", "j": "N", "A": "S", "a": "S", "J": "S", "S": "S"}
    expected |= {"V": "V", "E": "V", "F": "F", "/": "Q", "f": "Q", "Q": "Q"}
    assert {symbol: ecg.AAMI_OF_SYMBOL[symbol] for symbol in expected} == expected
    assert not set('!+~|x[]pt"') & ecg.AAMI_OF_SYMBOL.keys()


def test_a_flat_lead_and_a_coarse_one_say_what_to_do() -> None:
    with pytest.raises(DataError, match="check the electrode"):
        ecg.condition(np.zeros(36000), RATE)
    with pytest.raises(DataError, match="too coarse"):
        ecg.condition(beating()[0], 60)
