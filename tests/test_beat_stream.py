"""A live lead gives the beats and the numbers of a recorded one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edge.beats import ecg
from edge.beats.beat_stream import BeatStream, Described
from edge.beats.synthetic_ecg import person, record
from edge.signals.filters import ecg_band
from edge.signals.r_peaks import RPeaks
from edge.signals.resampling import Resampler
from schemas.errors import DataError
from tests.running_commands import MITDB

Signal = NDArray[np.float64]


def live(signal: Signal, rate: float, cuts: list[int]) -> Described:
    stream = BeatStream(rate)
    parts = [stream.feed(part) for part in np.split(signal, np.minimum(np.cumsum(cuts), len(signal)))]
    parts.append(stream.finish())
    return Described(*(np.concatenate([getattr(part, name) for part in parts]) for name in Described.__slots__))


def detected(signal: Signal, rate: float) -> NDArray[np.int64]:
    """What the detector finds in a lead that is whole."""
    ahead = np.full(int(ecg.AHEAD * rate), signal[-1])
    found = RPeaks(ecg.RATE).feed(ecg_band(ecg.RATE).feed(Resampler(rate, ecg.RATE).feed(np.append(signal, ahead))))
    peaks = np.rint(found * (rate / ecg.RATE)).astype(np.int64)
    return np.asarray(peaks[peaks < len(signal)])


def same(signal: Signal, rate: float, cuts: list[int]) -> int:
    """How many beats there are, the same both ways."""
    one = live(signal, rate, cuts)
    peaks = detected(signal, rate)
    other = ecg.relate_beats(signal, rate, peaks)
    assert np.array_equal(one.peaks, peaks[other.kept])
    np.testing.assert_allclose(one.rhythm, other.rhythm, atol=1e-6)
    np.testing.assert_allclose(one.shape, other.shape, atol=1e-6)
    np.testing.assert_allclose(one.looks, other.looks, atol=1e-6)
    return len(one.peaks)


@settings(max_examples=12, deadline=None)
@given(
    st.integers(0, 500),
    st.sampled_from([125.0, 130.0, 250.0, 360.0]),
    st.lists(st.integers(0, 4000), max_size=40),
    st.floats(3, 200),
)
def test_live_and_recorded_beats_have_the_same_numbers(
    number: int, rate: float, cuts: list[int], seconds: float
) -> None:
    """Seen to fail with features told before their beat's neighbours are there."""
    signal = record(person(number), seconds, rate, number).signal.astype(np.float64)
    if len(detected(signal, rate)):
        same(signal, rate, cuts)


def test_what_is_forgotten_makes_no_difference() -> None:
    """Some 1,500 beats. Seen to fail where fewer than 300 beats are remembered."""
    signal = record(person(5), 1200, 125, 5).signal.astype(np.float64)
    assert same(signal, 125, [125] * 1200) > 1000


@pytest.mark.skipif(not MITDB.is_dir(), reason="no recordings")
@pytest.mark.parametrize("name", ["106", "232"])
def test_a_patient_s_live_and_recorded_beats_have_the_same_numbers(name: str) -> None:
    import wfdb  # noqa: PLC0415  - half a second

    read = wfdb.rdrecord(str(MITDB / name), channels=[0], sampto=15 * 60 * 360)
    assert same(read.p_signal[:, 0], read.fs, [360] * 900) > 500


def test_no_more_is_kept_than_a_beat_to_come_may_need() -> None:
    stream = BeatStream(125)
    signal = record(person(5), 900, 125, 5).signal.astype(np.float64)
    for part in np.split(signal, 900):
        stream.feed(part)
    assert len(stream._lead) < 60 * ecg.RATE
    assert len(stream._peaks) < 600
    for _ in range(900):
        stream.feed(np.zeros(125))  # the electrode has fallen off
    assert len(stream._lead) < 60 * ecg.RATE


def test_a_flat_lead_has_no_beats_and_a_coarse_one_is_refused() -> None:
    """Seen to fail with beats told of what a low rate leaves of them."""
    stream = BeatStream(250)
    assert len(stream.feed(np.zeros(250 * 60)).peaks) == 0
    assert len(stream.finish().peaks) == 0
    for rate, says in ((0, "Hz"), (float("nan"), "Hz"), (75.9, "too coarse for beats: record at 76 Hz")):
        with pytest.raises(DataError, match=says):
            BeatStream(rate)
    BeatStream(76)
