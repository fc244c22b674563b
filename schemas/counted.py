"""So many of something, in words. Pure."""

from __future__ import annotations


def counted(number: int, noun: str, plural: str = "") -> str:
    """A number with its noun, in the plural where there is not one; ``plural`` is the noun with an s unless given."""
    return f"{number} {noun if number == 1 else plural or f'{noun}s'}"
