"""The rules by which a window is worth a look, and how their thresholds are written."""

from __future__ import annotations

import pytest

from edge.findings.alerts import LIMITS, alerts, parse, words
from edge.findings.beat_windows import Window
from schemas.errors import SettingsError


def window(
    quality: float = 1.0, rate: float | None = 70, longest_v: int = 0, signal_s: float = 300, **beats: int
) -> Window:
    return Window(0, 300, signal_s, quality, beats, rate, longest_v)


@pytest.mark.parametrize(
    ("seen", "rules"),
    [
        (window(N=350), []),
        (window(N=350, V=2, longest_v=2), []),
        (window(N=350, V=3, longest_v=3), ["v_run"]),
        (window(N=90, V=10), ["v_share"]),
        (window(N=91, V=9), []),
        (window(N=90, S=10), ["s_share"]),
        (window(N=9, S=10), []),
        (window(N=10, S=10), ["s_share"]),
        (window(N=200, rate=40), ["rate_low"]),
        (window(N=200, rate=41), []),
        (window(N=200, rate=131), ["rate_high"]),
        (window(N=200, rate=130), []),
        (window(rate=None), ["rate_low"]),
        (window(rate=None, V=1, signal_s=30), ["rate_low"]),
        (window(rate=None, signal_s=29), []),
        (window(rate=None, quality=0.4), ["signal"]),
        (window(quality=0.49, N=10, V=100, longest_v=50, rate=200), ["signal"]),
        (window(quality=0.5, N=10, V=100, longest_v=50), ["v_run", "v_share"]),
    ],
)
def test_a_window_calls_for_what_the_rules_say(seen: Window, rules: list[str]) -> None:
    """Seen to fail with ``>`` for ``>=``, and the other rules beside a poor signal, and none where no beat is."""
    found = alerts(seen, parse(""))
    assert [one.rule for one in found] == rules
    assert all(one.rule in words(one) for one in found)


def test_an_alert_says_by_how_much() -> None:
    """Seen to fail with shares to four places, with one beat of each class that has none, and with 61 s a minute."""
    assert [one.value for one in alerts(window(rate=None, N=60, signal_s=100), parse(""))] == [36]
    assert [one.value for one in alerts(window(quality=0.12345), parse(""))] == [0.123]
    found = alerts(window(N=200, V=100, longest_v=4, rate=150), parse("s_share=0.001"))
    assert [(one.rule, one.value, one.limit) for one in found] == [
        ("v_run", 4, 3),
        ("v_share", 0.333, 0.1),
        ("rate_high", 150, 131),
    ]


def test_an_owner_who_switches_the_rule_of_the_signal_off_hears_of_beats_however_poor_it_is() -> None:
    """Seen to fail where a signal that isn't perfect counted as poor without a threshold."""
    assert [one.rule for one in alerts(window(quality=0.1, N=90, V=10), parse("signal=off"))] == ["v_share"]


def test_an_owner_sets_thresholds_and_switches_rules_off() -> None:
    limits = parse(" v_run = 5, s_share=off,signal=0")
    assert limits == {name: limit.default for name, limit in LIMITS.items() if name != "s_share"} | {
        "v_run": 5,
        "signal": 0,
    }
    assert [one.rule for one in alerts(window(quality=0, N=10, S=30, V=4, longest_v=4), limits)] == []


@pytest.mark.parametrize(
    ("text", "says"),
    [("v_runs=5", "no alert's threshold"), ("v_run", "from 2 to 1000"), ("rate_low=nan", "from 10 to 300, or off")],
)
def test_what_is_no_threshold_is_refused_with_how_to_write_it(text: str, says: str) -> None:
    with pytest.raises(SettingsError, match=says):
        parse(text)
