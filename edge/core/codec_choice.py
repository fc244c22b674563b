"""Which codec a device uses where the run leaves it to devices (``codec = "auto"``). Pure.

The most exact of ``CHOICES`` whose update takes at most a tenth of the time there is to the round's deadline, at the
speed of the last uploads, and at most a tenth of what is left of the device's budget; the smallest where none does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

AUTO: Final = "auto"
# Most exact first, by where the model is after rounds of them (docs/architecture.md); each also takes fewer bytes.
CHOICES: Final = ("int8", "int4", "topk10", "topk")
SHARE: Final = 0.1
_MESSAGE: Final = 400  # bytes around a payload
# The most that an update takes of a model's bytes, the model being as float32 with zstd: about 3.5 bytes a parameter.
# What lowrank takes is a matter of shapes: this is for the bundled plans, and up to 0.29 where all tensors are small.
_SIZES: Final = {
    "float32": 1.1,
    "bfloat16": 0.55,
    "float16": 0.56,
    "int8": 0.28,
    "int4": 0.07,
    "eden1": 0.04,
    "eden2": 0.076,
    "eden3": 0.112,
    "eden4": 0.146,
    "sign": 0.04,
    "topk": 0.008,
    "topk10": 0.04,
    "randk": 0.005,
    "lowrank": 0.033,
}


@dataclass(frozen=True, slots=True)
class Choice:
    """A codec, and why it is none more exact; empty where it is the most exact."""

    codec: str
    why: str = ""
    slow: bool = False  # for want of speed


def update_size(codec: str, model_size: int) -> int:
    """About the most bytes that an update to a model of so many bytes takes."""
    known = _SIZES.get(CHOICES[-1] if codec == AUTO else codec, _SIZES["float32"])
    return int(known * model_size) + _MESSAGE


def choose(model_size: int, speed: float | None, time_s: float, left: int | None) -> Choice:
    """For a model of ``model_size`` bytes, ``speed`` in bytes a second, ``time_s`` to the deadline, ``left`` bytes.

    ``speed`` is None where nothing is known, ``left`` where there is no budget.
    """
    why, slow = "", False
    for codec in CHOICES:
        size = update_size(codec, model_size)
        if speed is not None and size > SHARE * time_s * speed:
            why, slow = f"{codec} would take {size / speed:.1f} s of the {time_s:.0f} s there are", True
        elif left is not None and size > SHARE * left:
            why = f"{codec} would take {size / 1000:.0f} kB of the {left / 1000:.0f} kB left"
        else:
            return Choice(codec, why, slow)
    return Choice(CHOICES[-1], f"even {why}", slow)
