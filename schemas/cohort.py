"""Who takes part in a round: a draw both ends compute, so that nobody has to be told.

A device is in the cohort where its draw is below the announced bound. The coordinator knows every device's draw
too, so it sets the bound to let in exactly as many of the devices it knows as it wants.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable


def draw(nonce: str, device: str) -> float:
    """A number in [0, 1), uniform over devices and fresh with each nonce."""
    digest = hashlib.sha256(f"{nonce}/{device}".encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


def has(nonce: str, device: str, bound: float) -> bool:
    """Whether a device is in the cohort of ``bound``, 0 to 1."""
    return draw(nonce, device) < bound


def bound(nonce: str, devices: Iterable[str], wanted: int) -> float:
    """The cohort bound that lets in ``wanted`` of ``devices``, or 1.0 (everybody, newcomers too) where that is all."""
    draws = sorted(draw(nonce, device) for device in devices)
    return draws[wanted] if wanted < len(draws) else 1.0
