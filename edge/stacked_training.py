"""Many devices' trainings at once in one process: the same batches, seeds and steps as one by one, to rounding.

Each step takes the devices whose next batches are of one size, stacks their parameters and examples, and runs the plan
under ``torch.func.vmap``; what comes before and after the gradient is ``training.Training``, as ever. A device that is
done, cancelled or wrong in its numbers makes room for the next, and leaves the others as they are.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from edge import wide
from edge.plan_runtime import TABLE, Program
from edge.training import Trained, Training, differentiable
from schemas.errors import TrainingError
from schemas.plan import Plan
from schemas.plan_cost import cost
from schemas.plan_rules import Shape
from schemas.plan_shapes import infer

MAX_WIDTH: Final = 256  # devices in one step
MEMORY: Final = {"cpu": 256 * 2**20, "cuda": 2 * 2**30}  # bytes of one step, by ``plan_cost``
PATIENCE: Final = 8  # steps a device sits out at most because others have more company

_Arguments = tuple[Sequence[Tensor], Tensor, Tensor, Sequence[Tensor]]  # inputs, labels, class weights, masks

log = logging.getLogger(__name__)
Gradient = tuple[Tensor, float] | RuntimeError  # (P,) and the batch's loss, or why there is none
OnDone = Callable[[Training, Trained | Exception], None]


def width(plan: Plan, batch: int, accelerator: str) -> int:
    """How many devices to take a step with at once: as many as memory allows."""
    return max(1, min(MAX_WIDTH, MEMORY[accelerator] // cost(plan, batch).memory))


def train_stacked(
    trainings: Iterator[Training],
    stack: Stack,
    most: int,
    on_done: OnDone,
    before_step: Callable[[], None] = lambda: None,
) -> None:
    """Train all of ``trainings``, ``most`` at a time, each begun when there is room for it.

    ``on_done`` hears of each once: what it gave, or what it raised, its observer's exceptions included.
    """
    lanes: list[_Lane] = []
    while True:
        while len(lanes) < most and (training := next(trainings, None)) is not None:
            lanes.append(_Lane(training))
        if not lanes:
            return
        before_step()
        ready = [lane for lane in lanes if lane.training.batch is None]  # gone on with from a checkpoint at the end
        group = ready or _company(lanes)
        gradients = [None] * len(group) if ready else stack.gradients([lane.training for lane in group])
        for lane, gradient in zip(group, gradients, strict=True):
            if (done := _advanced(lane.training, gradient)) is not None:
                lanes.remove(lane)
                on_done(lane.training, done)


@dataclass(eq=False, slots=True)
class _Lane:
    training: Training
    sat_out: int = 0  # steps since its last one


def _company(lanes: list[_Lane]) -> list[_Lane]:
    """The devices for the next step: the largest number with one size of batch, unless others have waited too long."""
    groups: dict[int, list[_Lane]] = {}
    for lane in lanes:
        assert lane.training.batch is not None
        groups.setdefault(len(lane.training.batch), []).append(lane)
        lane.sat_out += 1
    chosen = max(groups.values(), key=lambda group: (max(lane.sat_out for lane in group) > PATIENCE, len(group)))
    for lane in chosen:
        lane.sat_out = 0
    return chosen


def _advanced(training: Training, gradient: Gradient | None) -> Trained | Exception | None:
    """Take the step; how the training ended, where it did."""
    if isinstance(gradient, RuntimeError):
        return gradient
    try:
        if gradient is not None:
            training.descend(*gradient)
        return training.result() if training.batch is None else None
    except Exception as error:  # noqa: BLE001 - one device's; it is passed on to whoever knows the device
        return error


class Stack:
    """Gradients of several devices at once, on ``accelerator``; of one after the other where torch can't do it."""

    def __init__(self, plan: Plan, accelerator: str) -> None:
        """Raises ``TrainingError`` where there is no such accelerator."""
        if accelerator == "cuda":
            if not torch.cuda.is_available():
                raise TrainingError("PyTorch finds no CUDA here any more: leave --accelerator cuda out")
            torch.backends.cudnn.allow_tf32 = False  # ten bits of a product are too few to train the same
        self._plan = plan
        self._place = torch.device(accelerator)
        self._program = Program(plan, training=True, outside_dropout=True, table=TABLE | wide.OPERATIONS)
        self._manifest = plan.manifest()
        self._alone = False
        self._shapes = functools.lru_cache(maxsize=64)(functools.partial(infer, plan))

    def gradients(self, trainings: Sequence[Training]) -> list[Gradient]:
        """Of each device's next batch, all of one size."""
        flat = torch.stack([training.flat for training in trainings])
        batches = [training.examples() for training in trainings]
        masks = [self._masks(training, len(labels)) for training, (_, labels) in zip(trainings, batches, strict=True)]
        weights = [training.weights for training in trainings]
        rows = [(*batch, weight, drawn) for batch, weight, drawn in zip(batches, weights, masks, strict=True)]
        if len(rows) > 1 and not self._alone:
            try:
                return self._together(flat, rows)
            except RuntimeError as error:
                reason = str(error).partition("\n")[0]
                log.warning("plan %s is trained on one device after the other: %s", self._plan.name, reason)
                self._alone = True
        return [self._one(flat[row], arguments) for row, arguments in enumerate(rows)]

    def _together(self, flat: Tensor, rows: Sequence[_Arguments]) -> list[Gradient]:
        leaves = [
            flat[:, where].view(len(rows), *tensor.shape).requires_grad_()
            for tensor, where in zip(self._manifest.tensors, self._manifest.slices(), strict=True)
        ]
        inputs, labels, weights, masks = zip(*rows, strict=True)
        losses, _ = torch.func.vmap(self._program)(
            leaves, _stacked(inputs), torch.stack(labels), torch.stack(weights), _stacked(masks)
        )
        gradients = torch.autograd.grad(losses.sum(), leaves)
        gradient = torch.cat([each.flatten(1) for each in gradients], 1)
        return list(zip(gradient, losses.tolist(), strict=True))

    def _one(self, flat: Tensor, arguments: _Arguments) -> Gradient:
        gradient = torch.zeros_like(flat)
        try:
            loss, _ = self._program(differentiable(flat, gradient, self._manifest), *arguments)
            loss.backward()  # type: ignore[no-untyped-call]  # torch's typing
        except RuntimeError as error:
            return error
        return gradient, loss.item()

    def _masks(self, training: Training, batch: int) -> Sequence[Tensor]:
        """Drawn on the CPU, as one by one, so that they are the same."""
        masks = []
        for dropout in self._program.dropouts:
            shape = self._shapes(batch)[dropout.out]
            assert isinstance(shape, Shape)
            masks.append(dropout.draw(shape, training.dropout).to(self._place))
        return masks


def _stacked(rows: Sequence[Sequence[Tensor]]) -> list[Tensor]:
    return [torch.stack(column) for column in zip(*rows, strict=True)]
