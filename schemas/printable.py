"""What others have said, made fit for a terminal and for one line of a log. Pure."""

from __future__ import annotations


def printable(text: str) -> str:
    """``text`` without what would move a terminal's cursor or forge a log line: others choose their own words."""
    if text.isprintable():
        return text
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)
