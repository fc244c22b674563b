"""What a fuzzer needs to know of one decoder: how inputs for it are made, and how it may end."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Target:
    """``make`` gives an input, mostly one that was valid once; ``read`` has the decoder take it.

    ``errors`` are what the decoder's documentation lets out. ``share`` is of the inputs, next to other targets'.
    """

    name: str
    make: Callable[[random.Random], bytes]
    read: Callable[[bytes], object]
    errors: tuple[type[Exception], ...]
    share: int = 10
