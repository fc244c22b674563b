"""When a window of beats is worth its owner's look: a few named rules, each with a threshold its owner sets. Pure.

They say what a model has counted, and are no diagnosis. Where a threshold comes from stands in ``LIMITS``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from edge.findings.beat_windows import Window
from schemas.errors import SettingsError
from schemas.findings import Alert

LEAST_BEATS: Final = 20  # below which a share says little
LEAST_S: Final = 30.0  # of signal, below which beats that are missing do


@dataclass(frozen=True, slots=True)
class Limit:
    """One rule's threshold, what may be set, and what it is in words."""

    default: float
    least: float
    most: float
    what: str


LIMITS: Final[dict[str, Limit]] = {
    # Below it a window has this alert alone: noise looks like ectopic beats. Half is ours.
    "signal": Limit(0.5, 0, 1, "share of good signal below"),
    # Three in a row are a ventricular tachycardia where they are fast (Al-Khatib et al. 2018, AHA/ACC/HRS guideline).
    "v_run": Limit(3, 2, 1000, "V beats in a row, at least"),
    # The least burden at which a weakened heart was seen to recover once it was treated (Baman et al. 2010).
    "v_share": Limit(0.1, 0, 1, "share of V beats, at least"),
    # Ours: what is frequent after Binici et al. (2010), 30 an hour, is less than models here count wrongly.
    "s_share": Limit(0.1, 0, 1, "share of S beats, at least"),
    # The pulse that calls for urgent assessment by itself (NEWS2, Royal College of Physicians 2017).
    "rate_low": Limit(40, 10, 300, "beats a minute, at most"),
    "rate_high": Limit(131, 10, 300, "beats a minute, at least"),
}
Limits = Mapping[str, float]  # the thresholds of the rules that are on


def parse(text: str) -> Limits:
    """Thresholds as an owner writes them, ``v_run=5,s_share=off``; the others are the defaults.

    Raises ``SettingsError``.
    """
    chosen = {name: limit.default for name, limit in LIMITS.items()}
    for item in (part.strip() for part in text.split(",")):
        if not item:
            continue
        name, _, value = (part.strip() for part in item.partition("="))
        if name not in LIMITS:
            there = ", ".join(f"{known}={limit.default:g}" for known, limit in LIMITS.items())
            raise SettingsError(f"{item!r} is no alert's threshold: write NAME=NUMBER or NAME=off, of {there}")
        if value == "off":
            chosen.pop(name, None)
            continue
        limit = LIMITS[name]
        try:
            number = float(value)
        except ValueError:
            number = float("nan")
        if not limit.least <= number <= limit.most:
            raise SettingsError(f"{item!r}: {name} is a number from {limit.least:g} to {limit.most:g}, or off")
        chosen[name] = number
    return chosen


def alerts(window: Window, limits: Limits) -> tuple[Alert, ...]:
    """What ``window`` calls for."""
    if window.quality < limits.get("signal", 0.0):
        return (Alert(rule="signal", value=round(window.quality, 3), limit=limits["signal"]),)
    return tuple(_others(window, limits))


def _others(window: Window, limits: Limits) -> Iterator[Alert]:
    total = sum(window.beats.values())
    values: dict[str, float] = {"v_run": window.longest_v}
    if total >= LEAST_BEATS:
        values |= {f"{name.lower()}_share": round(window.beats.get(name, 0) / total, 3) for name in ("V", "S")}
    if window.rate is not None:
        values |= {"rate_low": window.rate, "rate_high": window.rate}
    elif window.signal_s >= LEAST_S:  # no two beats in a row: a heart that stands still has no interval
        values |= {"rate_low": round(60 * total / window.signal_s)}
    for rule, limit in limits.items():
        if rule in values and (values[rule] <= limit if rule == "rate_low" else values[rule] >= limit):
            yield Alert(rule=rule, value=values[rule], limit=limit)


def words(alert: Alert) -> str:
    """An alert for people."""
    return f"{alert.rule} {alert.value:g} ({LIMITS[alert.rule].what} {alert.limit:g})"
