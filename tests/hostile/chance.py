"""Random choices of the fuzzers, each from a text, so that an input is made again from its seed, target and number."""

from __future__ import annotations

import random


def draw(*parts: object) -> random.Random:
    """A generator of its own for ``parts``."""
    return random.Random("/".join(map(str, parts)))  # noqa: S311 - choices, no secret
