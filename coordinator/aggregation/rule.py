"""What an aggregation rule is: how deltas fold into one mean, and how that mean makes the next global model.

A rule has two halves. The reduction ``(init, fold, merge, finish)`` turns a round's updates into one delta, in any
order. The server optimiser ``(start, apply)`` turns that delta into the next version, and keeps its state from
round to round in the model's checkpoint. A rule that averages takes the first half from ``mean``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Generic, Protocol, TypeVar

from schemas.messages import StrategySettings
from schemas.parameters import Flat, Manifest, Parameters

BLOCK: Final = 32_768
"""Elements worked on at a time: two float64 scratch blocks of it (512 kB) stay in a core's second-level cache."""

Moments = Mapping[str, Flat]
"""A server optimiser's state: named float32 arrays of shape (manifest.size,); empty for plain averaging."""

S = TypeVar("S")


class Values(Protocol):
    """What can be folded: ``Parameters``, or a payload that is still compressed."""

    @property
    def manifest(self) -> Manifest:
        """The arrays it is of."""

    @property
    def peak(self) -> float:
        """No value is larger in magnitude; NaN where there is no telling."""

    def blocks(self) -> Iterator[Flat]:
        """The values in order, float32, in blocks of any length, each good until the next is asked for."""


class Fold(Protocol[S]):
    """Takes one update into a state; see ``Rule``."""

    def __call__(self, total: S, delta: Values, examples: int, staleness: int | None = None, /) -> S:
        """The state with it."""


def blocks(size: int) -> Iterator[slice]:
    """Slices of at most ``BLOCK`` elements that cover ``size``."""
    return (slice(start, min(start + BLOCK, size)) for start in range(0, size, BLOCK))


@dataclass(frozen=True, slots=True)
class Rule(Generic[S]):
    """An aggregation rule as functions; ``S`` is the reduction's own state.

    ``init(manifest, settings, max_weight)`` starts a round. ``fold(state, delta, examples, staleness)`` takes one
    update and may change ``state`` in place, so only the returned one may be used; it raises ``WireError`` and changes
    nothing where the delta is not finite or out of range. ``staleness`` is in versions, for every update or none.
    ``merge(state, other)`` folds everything ``other`` has folded.
    ``finish(state)`` is the aggregated delta.

    ``start(manifest, settings)`` is the server optimiser's state before the first round, and
    ``apply(moments, model, delta, settings)`` the state after a round and the next model. Both are pure.
    ``scale`` is the learning rate at which a step is about as large as FedAvg's with the rate 1.
    """

    init: Callable[[Manifest, StrategySettings, int], S]
    fold: Fold[S]
    merge: Callable[[S, S], S]
    finish: Callable[[S], Parameters]
    start: Callable[[Manifest, StrategySettings], Moments]
    apply: Callable[[Moments, Parameters, Parameters, StrategySettings], tuple[Moments, Parameters]]
    scale: float = 1.0
