"""The rules by which a window is worth a look, and how their thresholds are written."""

from __future__ import annotations

import pytest

from edge.alerts import LIMITS, alerts, parse, words
from edge.beat_windows import Window
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
