from __future__ import annotations

import math
from array import array

import numpy as np
import pytest
import wfdb
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.record.quality import LEAST, MISSING, MOST, WINDOW, Quality, Tally, kurtosis, measure
from tests.running_commands import MITDB

RATE = 100
GAIN = 1000.0


def total(samples: list[int]) -> Quality:
    return Tally(RATE, GAIN).add(samples).total


def beats(seconds: int, mv: float = 1.0) -> list[int]:
    """A narrow wave a second on a slow one."""
    wave = [mv * math.exp(-(((n - 50) / 3) ** 2)) + 0.05 * math.sin(n / 16) for n in range(RATE)]
    return [round(value * GAIN) for value in wave] * seconds


def test_a_heart_is_good() -> None:
    assert total(beats(12)) == Quality(12, 0, 0)


@pytest.mark.parametrize(
    ("second", "name"),
    [
        ([0] * RATE, "flat"),
        ([MOST] * RATE, "at the top of the range"),
        ([*beats(1)[:60], *([LEAST] * 40)], "at its bottom for a while"),
        ([*beats(1)[:60], *([1650] * 40)], "stuck at the amplifier's end"),
        ([*beats(1)[:99], MISSING], "a sample missing"),
        ([MISSING] * RATE, "nothing but missing samples"),
    ],
)
def test_a_second_with_the_lead_off_is_off_and_its_neighbours_are_not(second: list[int], name: str) -> None:
    assert total([*beats(3), *second, *beats(6)]) == Quality(9, 0, 1), name


@pytest.mark.parametrize(
    ("samples", "name"),
    [
        (beats(WINDOW, 0.05), "weak"),
        ([round(6000 * math.sin(n / 80)) for n in range(WINDOW * RATE)], "large"),
        ([round(800 * math.sin(n / 3)) for n in range(WINDOW * RATE)], "hum"),
        (np.random.default_rng(1).integers(-500, 500, WINDOW * RATE).tolist(), "noise"),
        ([*beats(2)[:130], *(value + 2500 for value in beats(4)[:370])], "a jump"),
    ],
)
def test_a_window_that_can_be_no_heart_is_poor_and_only_that_window(samples: list[int], name: str) -> None:
    assert total([*beats(WINDOW), *samples, *beats(WINDOW)]) == Quality(2 * WINDOW, WINDOW, 0), name


@settings(deadline=None)
@given(st.lists(st.integers(-(2**15), 2**15 - 1), max_size=700), st.lists(st.integers(0, 700), max_size=6))
def test_however_samples_are_dealt_out_the_total_is_the_same(samples: list[int], cuts: list[int]) -> None:
    places = sorted(min(cut, len(samples)) for cut in cuts)
    tally = Tally(RATE, GAIN)
    for start, stop in zip([0, *places], [*places, len(samples)], strict=True):
        tally = tally.add(samples[start:stop])
    quality = tally.total
    assert quality == total(samples)
    assert quality.good_s + quality.poor_s + quality.off_s == len(samples) // RATE
    assert 0.0 <= quality.index <= 1.0


@settings(deadline=None)
@given(st.lists(st.integers(-(2**15), 2**15 - 1), min_size=1, max_size=50))
def test_a_second_is_measured_without_what_is_missing(samples: list[int]) -> None:
    found = measure(array("h", samples), RATE)
    present = [value for value in samples if value != MISSING]
    assert found.missing == (len(present) < len(samples))
    if present:
        assert (found.low, found.high) == (min(present), max(present))


@pytest.mark.parametrize(("record", "least"), [("100", 0.99), ("103", 0.99), ("208", 0.95), ("233", 0.95)])
def test_real_recordings_of_good_quality_are_told_to_be(record: str, least: float) -> None:
    read = wfdb.rdrecord(str(MITDB / record), sampto=360 * 300, channels=[0], physical=False)
    tally = Tally(360, 200.0).add(read.d_signal[:, 0].tolist())
    assert tally.total.index >= least


@settings(deadline=None)
@given(st.lists(st.lists(st.integers(-5000, 5000), min_size=RATE, max_size=RATE), min_size=1, max_size=3))
def test_the_kurtosis_of_slopes_is_what_numpy_says(seconds: list[list[int]]) -> None:
    slopes = np.concatenate([np.subtract(second[2:], second[:-2]) for second in seconds]).astype(float)
    if slopes.std() > 1.0:
        wanted = np.mean((slopes - slopes.mean()) ** 4) / slopes.var() ** 2
        assert kurtosis([measure(array("h", second), RATE) for second in seconds]) == pytest.approx(wanted, rel=1e-6)
