"""How the next version becomes one that devices get by a small step, and what that loses is made up for. Pure.

P is the published model and e what it owes to the rule (the residual), float32, both in the checkpoint; e is 0 at the
start. A round's mean delta D, of devices that trained from P, makes

    M  = rule(P + e, D)               where the rule alone would be
    s  = steps.encode(codec, M - P)   what goes to devices that have P
    P' = P + decoded s                THE next model: its digest, snapshot, evaluation and export
    e' = M - P'                       made up for by the steps to come (error feedback: Seide et al. 2014;
                                      on the downlink: Tang et al. 2019, "DoubleSqueeze")

Every line is float32, element by element, so that P' and e' can be computed again bit for bit. Without a codec P' is M,
and there is no e. Under ``int4`` a value is off by half a step at most, that is by 0.8 of what changes are on the way.
"""

from __future__ import annotations

from dataclasses import dataclass

from schemas import steps
from schemas.parameters import Flat, Parameters


@dataclass(frozen=True, slots=True, eq=False)
class Published:
    """A version as it goes out. ``residual`` is None, and ``step`` empty, where it goes out whole."""

    parameters: Parameters
    residual: Flat | None = None  # float32 of shape (manifest.size,)
    step: bytes = b""


def intended(parameters: Parameters, residual: Flat | None) -> Parameters:
    """The published model with what it owes."""
    return parameters if residual is None else Parameters(parameters.manifest, parameters.flat + residual)


def publish(codec: str, before: Parameters, target: Parameters) -> Published:
    """The version after ``before`` where the rule leads to ``target``.

    Raises ``WireError`` where the step is beyond the codec's range.
    """
    if codec == steps.NONE:
        return Published(target)
    step = steps.encode(codec, before, target)
    following = steps.apply(before, step)
    return Published(following, target.subtract(following).flat, step)
