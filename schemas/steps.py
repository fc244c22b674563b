"""The step from one version of the global model to the next, compressed; both halves, so that both ends hold one model.

A step is ``compression``'s payload of target - model, float32, rounded to the nearest. What it gives is not the target
but model + decoded step, added once in float32: whoever has the model has the next one from it, bit for bit. So only
codecs serve whose decoding is the same on every machine: those that copy bits, or multiply once.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from schemas import compression
from schemas.compression import bfloat16, float16, int4, int8
from schemas.errors import Reject, WireError
from schemas.parameters import Flat, Parameters

NONE: Final = "none"  # no steps: every version is fetched whole
_CODECS: Final[dict[str, compression.Codec]] = {
    "bfloat16": bfloat16,
    "float16": float16,
    "int8": int8,
    "int4": int4.STEPS,
}
CODECS: Final = tuple(_CODECS)
"""What a step can be compressed with. float32 is left out: it saves a tenth, and the sum is rounded all the same."""


class _Halves(np.random.Generator):
    """Draws a half each time, so that floor(y + u) is y to the nearest: half the error of chance, and more zeros.

    Chance keeps a codec unbiased. Here whoever makes steps adds what one loses to the next instead.
    """

    def random(self, *_: Any, out: Flat, **__: Any) -> Flat:  # type: ignore[override]
        """Halves, in ``out``."""
        out.fill(0.5)
        return out


def encode(codec: str, model: Parameters, target: Parameters) -> bytes:
    """The step from ``model`` towards ``target``, of one manifest.

    Raises ``WireError`` where a difference is not finite or beyond the codec's range.
    """
    return encode_with(_CODECS[codec], model, target)


def encode_with(codec: compression.Codec, model: Parameters, target: Parameters) -> bytes:
    """As ``encode`` does, by any codec whose decoding is the same on every machine."""
    with np.errstate(over="ignore"):  # it is refused as what it becomes
        change = target.subtract(model)
    return compression.encode_with(codec, change, _Halves(np.random.PCG64(0)))


def apply(model: Parameters, step: bytes) -> Parameters:
    """What ``step`` makes of ``model``: finite. Raises ``WireError`` for what is no step of this manifest."""
    flat, at = np.empty_like(model.flat), 0
    for block in compression.read(step, model.manifest).blocks():
        where = slice(at, at + block.size)
        with np.errstate(over="ignore"):
            np.add(model.flat[where], block, out=flat[where])
        at += block.size
    following = Parameters(model.manifest, flat)
    if not following.is_finite():
        raise WireError(Reject.NOT_FINITE, "a step leads to values that are infinite")
    return following
