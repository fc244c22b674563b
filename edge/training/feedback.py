"""Error feedback: what an update leaves out is added to the next one, so that nothing of a delta is lost in the end.

Seide et al. 2014, Karimireddy et al. 2019. Where few values are sent, training begins some of the way to where the
device would be if all it had to say had been heard (Xie et al. 2020 begin all the way there): from the global model
alone it would find the same again each round, until what waits is several times what is meant. Pure; the residual
travels and is kept as a payload of ``RESIDUAL``.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from schemas import compression
from schemas.errors import WireError
from schemas.parameters import Parameters

RESIDUAL: Final = "bfloat16"  # half of float32's bytes and all of its range; what it rounds off is fed back no more
AHEAD: Final[Mapping[str, float]] = MappingProxyType({"topk": 0.2})  # by codec; ``benchmarks/ahead.py`` chose it


class Encoded(NamedTuple):
    """An update's payload, what it leaves out (empty where the codec keeps no account), and why there was no residual.

    What was left out before is in both: ``decode(payload)`` and ``decode(residual)`` add up to it and the delta.
    """

    payload: bytes
    residual: bytes
    trouble: str


def start(shared: Parameters, residual: bytes, ahead: float, private: NDArray[np.bool_] | None = None) -> Parameters:
    """Where training begins whose update is to carry ``residual``: by ``ahead`` of it beyond the model ``shared``.

    ``ahead`` is the codec's of ``AHEAD``, 0 where it has none. Of values (P,) that are ``private`` by now nothing is
    taken, as in ``encode``. Without a residual that is one of this model's, or where numbers would be too large, it is
    ``shared`` itself.
    """
    if not residual or not ahead:
        return shared
    try:
        left = compression.decode(residual, shared.manifest)
    except WireError:
        return shared  # ``encode`` says why
    if private is not None:
        left = _without(left, private)
    with np.errstate(over="ignore"):
        begun = shared.add(left.scale(ahead))
    return begun if begun.is_finite() else shared


def encode(
    codec: str,
    delta: Parameters,
    residual: bytes,
    rng: np.random.Generator,
    private: NDArray[np.bool_] | None = None,
) -> Encoded:
    """The payload of ``delta`` and of what was left out before; the same bytes for the same arguments.

    Of values (P,) that are ``private`` by now nothing is carried that an earlier update may have left out.

    A codec that is unbiased carries what another left out, and leaves nothing. A residual that is damaged, or of
    another model, is left aside. Raises ``WireError`` as ``compression.encode`` does.
    """
    total, trouble = delta, ""
    if residual:
        try:
            with np.errstate(over="ignore"):  # what becomes infinite is refused below
                before = compression.decode(residual, delta.manifest)
                if private is not None:
                    before = _without(before, private)
                total = delta.add(before)
        except WireError as error:
            trouble = error.detail
    payload = compression.encode(codec, total, rng)
    if not compression.TABLE[codec].FEEDBACK:
        return Encoded(payload, b"", trouble)
    left = total.subtract(compression.decode(payload, delta.manifest))
    return Encoded(payload, compression.encode(RESIDUAL, left, rng), trouble)


def _without(left: Parameters, private: NDArray[np.bool_]) -> Parameters:
    return Parameters(left.manifest, np.where(private, np.float32(0), left.flat))
