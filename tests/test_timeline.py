from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.record.timeline import SLIP_S, WINDOW_S, Timeline


def heard(delays: list[float], rate: float = 100.0, actual: float = 100.0) -> list[Timeline]:
    """A second's samples each time, ``delays`` late; the source samples at ``actual`` Hz."""
    line, lines = Timeline(rate), []
    for number, delay in enumerate(delays, 1):
        line = line.heard(number * rate / actual + delay, round(rate))
        lines.append(line)
    return lines


@settings(deadline=None)
@given(st.lists(st.floats(0.0, SLIP_S / 3), min_size=40, max_size=80))
def test_delays_that_vary_are_no_loss_and_hardly_drift(delays: list[float]) -> None:
    lines = heard(delays)
    assert not any(line.slipped_s for line in lines)
    measured = lines[-1].measured_rate
    assert measured == pytest.approx(100.0, rel=SLIP_S / 3 / (2 * WINDOW_S))


@settings(deadline=None)
@given(st.integers(20, 60), st.floats(0.5, 1.9))
def test_lost_samples_show_within_two_windows(when: int, lost_s: float) -> None:
    lines = heard([lost_s if number >= when else 0.0 for number in range(100)])
    slips = [number for number, line in enumerate(lines) if line.slipped_s]
    assert slips
    assert when <= slips[0] <= when + 2 * WINDOW_S
    assert lines[slips[0]].slipped_s == pytest.approx(lost_s)


@settings(deadline=None)
@given(st.floats(95.0, 105.0))
def test_the_sources_own_rate_is_measured(actual: float) -> None:
    lines = heard([0.0] * 60, actual=actual)
    assert lines[-1].measured_rate == pytest.approx(actual, rel=1e-6)
    assert not any(line.slipped_s for line in lines)


def test_before_three_windows_nothing_is_claimed() -> None:
    assert [line.measured_rate is None for line in heard([0.0] * 31)][-3:] == [True, False, False]
