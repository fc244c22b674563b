"""Labelling a record's beats, one key a beat: which beat is shown, and what each is labelled. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

LABELS: Final = {"n": "N", "s": "S", "v": "V", "f": "F", "q": "Q"}  # a key, and the symbol it stands for
TAKE: Final = "\n"
KEYS: Final = "n s v f q: its class  Enter: as suggested  u: skip  b: back  x: save, quit"


@dataclass(frozen=True, slots=True)
class Labelling:
    """``symbols`` has each beat's, empty for one without a label; ``suggested`` likewise. ``at`` is the one shown."""

    symbols: tuple[str, ...]
    suggested: tuple[str, ...]
    at: int = 0
    over: bool = False

    @classmethod
    def begin(cls, symbols: tuple[str, ...], suggested: tuple[str, ...]) -> Labelling:
        """At the first beat without a label; over where each has one."""
        at = next((place for place, symbol in enumerate(symbols) if not symbol), None)
        return cls(symbols, suggested, at or 0, over=at is None)

    @property
    def left(self) -> int:
        """Beats without a label."""
        return self.symbols.count("")


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
            return replace(state, at=max(0, state.at - 1)), None
        case "x":
            return replace(state, over=True), None
    return state, None


def _on(state: Labelling) -> Labelling:
    last = state.at + 1 >= len(state.symbols)
    return replace(state, over=True) if last else replace(state, at=state.at + 1)
