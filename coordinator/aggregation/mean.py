"""The exact weighted mean: bit-equal in any order and grouping, in O(model) memory.

Floating-point sums depend on their order; integer sums don't. Each product ``value * weight`` has at most
24 + 20 significant bits, so float64 holds it exactly. It is cut, without rounding anything away, into signed limbs of
48 bits at fixed places, and each limb is added to an int64 array of its own: a long accumulator (Kulisch 1971) that
is laid out so that NumPy folds whole blocks.

* **Discounts are whole numbers** too, so that a mean of stale updates is as exact: 24 + 28 bits at most.
* **Exact.** The limbs reach down to 2**-172, below the last bit of the smallest float32 (2**-149), so the sum has no
  rounding at all for any finite values up to ``MAX_VALUE``. What has been folded, not how, decides every limb.
* **Rounded once, at the end.** ``finish`` adds the limbs, divides and converts: within 0.5 + 2**-24 float32 ulp of the
  true mean, which is the correctly rounded one except where that lies as good as half-way between two float32.
  Equal models average to exactly themselves (but a zero is +0.0).
* **Can't overflow.** Below the top limb each update adds less than 2**47 in magnitude and there are at most
  ``MAX_FOLDS`` = 2**15; the top limb takes ``MAX_VALUE * MAX_TOTAL * 2**-20`` = 2**54. Both bounds are checked.

A limb exists once a value needs it. Two do for deltas whose values times weights lie below 2**19 and whose last bits
lie above 2**-76, which is 16 bytes a parameter; five, 40 bytes, are the most that any bytes from outside can cause.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from coordinator.aggregation.rule import BLOCK, Values, blocks
from schemas.errors import FederationError, Reject, WireError
from schemas.messages import StrategySettings
from schemas.parameters import Flat, Manifest, Parameters

MAX_VALUE: Final = 2.0**40  # no trained weight or delta comes near; larger ones are a diverged or lying device's
MAX_WEIGHT: Final = 2**20  # of one update; RunSettings.max_weight allows no more
MAX_TOTAL: Final = 2**34  # weight of one round: more than messages.MAX_DEVICES times MAX_WEIGHT
MAX_FOLDS: Final = 2**15  # updates of one round

WHOLE: Final = 2**8  # what a fresh update's weight is multiplied by where weights are discounted

LIMB_BITS: Final = 48
PLACES: Final = (-20, 28, 76, 124, 172)  # a limb at place p counts units of 2**-p; LIMB_BITS apart

# Adding 1.5 * 2**(52 - p) to a float64 rounds it to a multiple of 2**-p and leaves that multiple in the low bits of
# its representation: rounding and conversion to int64 in one vectorised addition (Knuth's and Dekker's trick).
_MAGIC: Final = tuple(1.5 * 2.0 ** (52 - place) for place in PLACES)
_MAGIC_BITS: Final = tuple(int(np.float64(magic).view(np.int64)) for magic in _MAGIC)

Limb = NDArray[np.int64]
Block = NDArray[np.float64]


@dataclass(slots=True, eq=False)
class WeightedSum:
    """What a round has folded so far: ``limbs`` (int64, shape (manifest.size,), highest first) and the weight."""

    manifest: Manifest
    equal_weights: bool
    max_weight: int
    weight: int = 0
    folds: int = 0
    limbs: list[Limb | None] = field(default_factory=lambda: [None] * len(PLACES))
    scratch: tuple[Block, Block] = field(default_factory=lambda: (np.empty(BLOCK), np.empty(BLOCK)), repr=False)

    def limb(self, index: int) -> Limb:
        """Limb ``index``, made on first use; zero pages cost no memory until something is added to them."""
        limb = self.limbs[index]
        if limb is None:
            limb = self.limbs[index] = np.zeros(self.manifest.size, np.int64)
        return limb


def init(manifest: Manifest, settings: StrategySettings, max_weight: int) -> WeightedSum:
    """An empty sum; updates weigh their examples, at most ``max_weight`` (1 to 2**20), or all the same."""
    if not 1 <= max_weight <= MAX_WEIGHT:
        raise WireError(Reject.OUT_OF_RANGE, f"a weight bound of {max_weight}; it can be 1 to {MAX_WEIGHT}")
    return WeightedSum(manifest, settings.weighting == "equal", max_weight)


def fold(total: WeightedSum, delta: Values, examples: int, staleness: int | None = None) -> WeightedSum:
    """Add one update, in place. Raises ``WireError`` and changes nothing where it can't be averaged.

    One that is ``staleness`` versions behind counts as 1/sqrt(1 + staleness) of itself (FedBuff, Nguyen et al. 2022) in
    a mean over whole weights, so that a round of stale updates is a smaller step. It is given for all updates or none.
    """
    if delta.manifest != total.manifest:
        raise WireError(Reject.WRONG_SHAPE, "an update's tensors don't match the model's")
    if examples < 1:
        raise WireError(Reject.OUT_OF_RANGE, f"an update from {examples} examples")
    weight = 1 if total.equal_weights else min(examples, total.max_weight)
    whole, discounted = (weight, weight) if staleness is None else (weight * WHOLE, weight * discount(staleness))
    _check_room(total, whole, 1)
    if not delta.peak <= MAX_VALUE:
        if math.isfinite(delta.peak):
            raise WireError(Reject.OUT_OF_RANGE, f"a value of magnitude {delta.peak:.3g}; at most {MAX_VALUE:.3g}")
        raise WireError(Reject.NOT_FINITE, "an update holds NaN or infinity")
    at = 0
    for values in delta.blocks():
        for where in blocks(values.size):
            _fold_block(total, values[where], at + where.start, discounted)
        at += values.size
    total.weight += whole
    total.folds += 1
    return total


def discount(staleness: int) -> int:
    """What an update so many versions behind counts for, of ``WHOLE``."""
    return round(WHOLE / math.sqrt(1 + staleness))


def merge(total: WeightedSum, other: WeightedSum) -> WeightedSum:
    """Add all that ``other`` has folded, in place: the same bits as folding its updates one by one."""
    if other.manifest != total.manifest:
        raise WireError(Reject.WRONG_SHAPE, "two sums of different models")
    _check_room(total, other.weight, other.folds)
    for index, limb in enumerate(other.limbs):
        if limb is not None:
            np.add(total.limb(index), limb, out=total.limb(index))
    total.weight += other.weight
    total.folds += other.folds
    return total


def finish(total: WeightedSum) -> Parameters:
    """The mean, float32, rounded once. Raises ``FederationError`` where nothing was folded."""
    if not total.weight:
        raise FederationError("there is no update to average: a round needs a quorum of at least one device")
    mean = np.empty(total.manifest.size, np.float32)
    for where in blocks(total.manifest.size):
        mean[where] = _value(total.limbs, where) / total.weight
    return Parameters(total.manifest, mean)


def _check_room(total: WeightedSum, weight: int, folds: int) -> None:
    if total.weight + weight > MAX_TOTAL or total.folds + folds > MAX_FOLDS:
        raise WireError(
            Reject.OUT_OF_RANGE,
            f"{total.folds + folds} updates of weight {total.weight + weight} in one round; "
            f"at most {MAX_FOLDS} updates and {MAX_TOTAL} fit: lower max_weight or the number of devices",
        )


def _fold_block(total: WeightedSum, values: Flat, at: int, weight: int) -> None:
    """Add ``weight`` times ``values`` (at most ``BLOCK``) to the sum's elements from ``at`` on."""
    reach = max(float(values.max()), -float(values.min())) * weight
    where = slice(at, at + values.size)
    rest, rounded = (scratch[: values.size] for scratch in total.scratch)
    bits = rounded.view(np.int64)
    np.multiply(values, float(weight), out=rest, dtype=np.float64)
    for index, place in enumerate(PLACES):
        if reach < 2.0 ** (-place - 1):
            continue  # every value rounds to nothing here
        limb = total.limb(index)[where]
        np.add(rest, _MAGIC[index], out=rounded)
        np.add(limb, bits, out=limb)  # may wrap round 2**64, and the next line wraps it back
        np.subtract(limb, _MAGIC_BITS[index], out=limb)
        np.subtract(rounded, _MAGIC[index], out=rounded)
        np.subtract(rest, rounded, out=rest)
        if not rest.any():
            return


def _value(limbs: list[Limb | None], where: slice) -> Block:
    """One block of the sum as float64, to a few units of its last place.

    Carries first, from the lowest limb up: after them each limb but the highest is within half a unit of the next
    one, so that adding them can't cancel and every conversion but the highest limb's is exact.
    """
    lowest = next((index for index in reversed(range(len(PLACES))) if limbs[index] is not None), 0)
    count = where.stop - where.start
    value, carry = np.zeros(count), np.zeros(count, np.int64)
    for limb, place in zip(reversed(limbs[: lowest + 1]), reversed(PLACES[: lowest + 1]), strict=True):
        if limb is not None:
            carry += limb[where]
        if place == PLACES[0]:
            value += carry * 2.0**-place
            break
        digit = carry
        carry = (digit + (1 << (LIMB_BITS - 1))) >> LIMB_BITS
        digit -= carry << LIMB_BITS
        value += digit * 2.0**-place
    return value
