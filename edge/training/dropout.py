"""Which values dropout keeps: a pure function of a training's seed, the step, and the value's place in the plan.

Nothing goes from step to step, so that a training goes on from any step, alone or in a stack, on a CPU or on a GPU,
with the masks it would have had. The bits are numpy's Philox (Salmon et al. 2011), which counts: 16 of them decide on
a value, so that a probability holds to 2^-17; what is kept is divided by the probability that is really used.
"""

from __future__ import annotations

import itertools
import math
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from schemas.errors import PlanError
from schemas.plan import Operation, Plan
from schemas.plan_shapes import infer
from schemas.plan_values import Shape

_DECISIONS: Final = 16  # values decided by one count of Philox, which gives four words of 64 bits
_LEVELS: Final = 2**16
_AT_ONCE: Final = 2**15  # values of several steps' masks that are drawn in one go, at most, unless one step has more


class Share(NamedTuple):
    """One dropout step's part of a batch's mask."""

    out: str  # the value that the step gives
    start: int
    stop: int
    probability: float  # that a value is dropped


class Layout:
    """Where the masks of a plan's dropout steps lie in one row (``length``,), for a batch of ``batch`` examples.

    A smaller batch takes the first values of each share.
    """

    def __init__(self, plan: Plan, batch: int) -> None:
        """Raises ``PlanError`` where a dropout doesn't say its probability, or says one that is none."""
        self._plan = plan
        self._dropouts = [operation for operation in plan.operations if operation.op == "dropout"]
        self._shapes: dict[int, tuple[Shape, ...]] = {}
        ends = list(itertools.accumulate(map(math.prod, self.shapes(batch)), initial=0))
        self.shares = tuple(
            Share(operation.out, start, stop, _probability(operation))
            for operation, start, stop in zip(self._dropouts, ends, ends[1:], strict=False)
        )
        self.length = ends[-1]

    def shapes(self, batch: int) -> tuple[Shape, ...]:
        """Of each dropout's mask, for a batch of this size."""
        if batch not in self._shapes:
            values = infer(self._plan, batch) if self._dropouts else {}
            self._shapes[batch] = tuple(Shape(values[operation.out]) for operation in self._dropouts)  # type: ignore[arg-type]  # no whole number
        return self._shapes[batch]


class Masks:
    """One training's masks, by step."""

    def __init__(self, seed: int, layout: Layout, steps: int, batch: int) -> None:
        """For ``steps`` steps of ``batch`` examples at most; ``seed`` is in 0 ... 2^64 - 1."""
        self._seed = seed
        self._layout = layout
        self._counts = math.ceil(layout.length / _DECISIONS)  # of Philox, for a row
        self._rows = max(1, min(steps, _AT_ONCE // max(1, layout.length)))
        self._bits: tuple[int, np.random.Philox] | None = None  # which step it would go on with
        self._first = 0  # the step that the first of those drawn is for
        self._drawn: list[NDArray[np.float32]] = []
        self._one = np.zeros((1, layout.length if layout.length > _AT_ONCE else 0), np.float32)
        self._used = [
            share._replace(stop=min(share.stop, share.start + math.prod(shape)))
            for share, shape in zip(layout.shares, layout.shapes(batch), strict=True)
        ]

    def row(self, step: int) -> NDArray[np.float32]:
        """What the values of step ``step``, from 0, are multiplied by: (length,), as ``Layout`` says.

        Good until the next step's is asked for. What no batch here takes of a share may be zeros.
        """
        if not 0 <= step - self._first < len(self._drawn):
            self._first = step - step % self._rows
            self._drawn = [*self._draw(self._first)]
        return self._drawn[step - self._first]

    def _draw(self, step: int) -> NDArray[np.float32]:
        return self._draw_used(step) if self._layout.length > _AT_ONCE else self._draw_whole(step)

    def _draw_whole(self, step: int) -> NDArray[np.float32]:
        """The masks of several steps."""
        if self._bits is None or self._bits[0] != step:
            self._bits = step, np.random.Philox(key=self._seed, counter=step * self._counts)
        bits = self._bits[1]
        self._bits = step + self._rows, bits
        words = bits.random_raw(self._rows * self._counts * 4).view(np.uint16).reshape(self._rows, -1)
        masks = np.empty((self._rows, self._layout.length), np.float32)
        for _, start, stop, probability in self._layout.shares:
            _decide(words[:, start:stop], probability, masks[:, start:stop])
        return masks

    def _draw_used(self, step: int) -> NDArray[np.float32]:
        """The same values for one step, but only those of each share that a batch takes, of few examples perhaps."""
        masks = self._one
        for _, start, stop, probability in self._used:
            first, last = start // _DECISIONS, math.ceil(stop / _DECISIONS)
            bits = np.random.Philox(key=self._seed, counter=step * self._counts + first)
            words = bits.random_raw((last - first) * 4).view(np.uint16)[start - first * _DECISIONS :]
            _decide(words[: stop - start], probability, masks[0, start:stop])
        return masks


def of_inputs_alone(plan: Plan) -> Plan:
    """The same plan whose dropouts drop nothing of what parameters have had a part in.

    What is dropped of the inputs remains: an example that lacks a value is still one. The rest is a regulariser.
    """
    hidden = {parameter.name for parameter in plan.parameters}
    operations = []
    for operation in plan.operations:
        if hidden.isdisjoint(operation.references()):
            operations.append(operation)
            continue
        hidden.add(operation.out)
        kept = {"args": (operation.args[0], 0.0, *operation.args[2:])} if operation.op == "dropout" else {}
        operations.append(operation.model_copy(update=kept))
    return plan.model_copy(update={"operations": tuple(operations)})


def _decide(words: NDArray[np.uint16], probability: float, masks: NDArray[np.float32]) -> None:
    """What ``words`` say of as many values, to ``masks``."""
    kept = round((1 - probability) * _LEVELS)
    np.multiply(words < kept, np.float32(_LEVELS / kept if kept else 0), out=masks)


def _probability(operation: Operation) -> float:
    given = operation.args[1] if len(operation.args) > 1 else None
    if not isinstance(given, int | float) or not 0 <= given <= 1:
        raise PlanError(f"the plan's dropout {operation.out!r} doesn't say with which probability from 0 to 1")
    return float(given)
