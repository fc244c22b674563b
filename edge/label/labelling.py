"""Labelling a record's beats, one key a beat: which beat is shown, and what each is labelled. Pure."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from schemas.errors import SettingsError

LABELS: Final = {"n": "N", "s": "S", "v": "V", "f": "F", "q": "Q"}  # a key, and the symbol it stands for
SPREAD: Final = 5  # minutes
TAKE: Final = "\n"
KEYS: Final = ("n s v f q: its class", "Enter: as suggested", "u: skip", "b: back", "x: save, quit")


@dataclass(frozen=True, slots=True)
class Labelling:
    """``symbols`` has each beat's, empty for one without a label; ``suggested`` likewise. ``at`` is the one shown.

    Those that are ``asked`` about, in order, are shown one after the other: all where that is None.
    """

    symbols: tuple[str, ...]
    suggested: tuple[str, ...]
    at: int = 0
    over: bool = False
    asked: tuple[int, ...] | None = None

    @classmethod
    def begin(
        cls, symbols: tuple[str, ...], suggested: tuple[str, ...], asked: tuple[int, ...] | None = None, *, again: bool
    ) -> Labelling:
        """At the first beat without a label, or at the first of all, ``again``; over where there is none."""
        whole = cls(symbols, suggested, asked=asked)
        at = next((place for place in whole.places if again or not symbols[place]), None)
        return replace(whole, at=at or 0, over=at is None)

    @property
    def places(self) -> Sequence[int]:
        """The beats that are asked about."""
        return range(len(self.symbols)) if self.asked is None else self.asked

    @property
    def left(self) -> int:
        """How many of these have no label."""
        return sum(not self.symbols[place] for place in self.places)


@dataclass(frozen=True, slots=True)
class Labelled:
    """To be kept at once: this beat has this symbol."""

    place: int
    symbol: str


def press(state: Labelling, key: str) -> tuple[Labelling, Labelled | None]:
    """What follows from a key; nothing from one that has no meaning here."""
    if state.over:
        return state, None
    symbol = LABELS.get(key.lower()) or (state.suggested[state.at] if key == TAKE else "")
    if symbol:
        symbols = (*state.symbols[: state.at], symbol, *state.symbols[state.at + 1 :])
        return _on(replace(state, symbols=symbols)), Labelled(state.at, symbol)
    match key.lower():
        case "u":
            return _on(state), None
        case "b":
            before = bisect_left(state.places, state.at) - 1
            return replace(state, at=state.places[max(0, before)]), None
        case "x":
            return replace(state, over=True), None
    return state, None


def _on(state: Labelling) -> Labelling:
    after = bisect_right(state.places, state.at)
    return replace(state, over=True) if after == len(state.places) else replace(state, at=state.places[after])


def minutes_asked(text: str, there: int) -> tuple[int, ...]:
    """The minutes, from 0, of a record of so many that ``text`` names: numbers from 1, or ``spread``.

    Raises ``SettingsError``.
    """
    if text == "spread":
        return spread(there)
    words = [word.strip() for word in text.split(",")]
    numbers = [int(word) if word.isdecimal() and len(word) < len(str(there)) + 3 else 0 for word in words]
    if not all(1 <= number <= there for number in numbers):
        raise SettingsError(
            f"--minutes {text:.100}: the record has minutes 1 to {there}; give some of them as 4,17, or `spread`"
        )
    return tuple(sorted({number - 1 for number in numbers}))


def spread(there: int) -> tuple[int, ...]:
    """Minutes, from 0, in the middle of equal parts of a record of so many: ``SPREAD``, or all where there are fewer.

    Labelled, they teach a model more of its owner than as many in a row (``benchmarks/ecg_personal_minutes.py``).
    """
    count = min(SPREAD, there)
    return tuple(int(there * (part + 0.5) / count) for part in range(count))


def key_lines(columns: int) -> tuple[str, ...]:
    """``KEYS`` in lines of fewer than so many columns, where one key's words take no more."""
    lines = [""]
    for words in KEYS:
        joined = f"{lines[-1]}  {words}" if lines[-1] else words
        if lines[-1] and len(joined) >= columns:
            lines.append(words)
        else:
            lines[-1] = joined
    return tuple(lines)
