"""Many devices' trainings at once in one process: the same batches, seeds and steps as one by one, to rounding.

Each step takes the devices whose next batches are of one size, stacks their parameters and examples, and runs the plan
on all of them (``stacked_operations``); what comes before and after the gradient is ``training.Training``, as ever. A
device that is done, cancelled or wrong in its numbers makes room for the next, and leaves the others as they are.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edge.training.dropout import Layout
from edge.training.loop import Trained, Training, descend, differentiable, mask_views
from edge.training.plan_runtime import Program
from edge.training.stacked_operations import OPERATIONS
from schemas.errors import PlanError, TrainingError
from schemas.parameters import Manifest
from schemas.plan import Plan
from schemas.plan_cost import cost

MAX_WIDTH: Final = 256  # devices in one step
MEMORY: Final = {"cpu": 256 * 2**20, "cuda": 2 * 2**30}  # bytes of one step, by ``plan_cost``
PATIENCE: Final = 8  # steps a device sits out at most because others have more company

log = logging.getLogger(__name__)
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
        errors = [None] * len(group) if ready else stack.step([lane.training for lane in group])
        for lane, error in zip(group, errors, strict=True):
            if (done := error or _ended(lane.training)) is not None:
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


def _ended(training: Training) -> Trained | Exception | None:
    """What a training gave that has no batch left."""
    if training.batch is not None:
        return None
    try:
        return training.result()
    except Exception as error:  # noqa: BLE001 - one device's; it is passed on to whoever knows the device
        return error


class Stack:
    """Steps of several devices at once, on ``accelerator``; of one after the other where torch can't do it.

    Its trainings share plan and settings, ``batch`` among them, and may change all values.
    """

    def __init__(self, plan: Plan, batch: int, accelerator: str) -> None:
        """Raises ``TrainingError`` where there is no such accelerator, and ``PlanError`` as ``Layout`` does."""
        if accelerator == "cuda":
            if not torch.cuda.is_available():
                raise TrainingError("PyTorch finds no CUDA here any more: leave --accelerator cuda out")
            torch.backends.cudnn.allow_tf32 = False  # ten bits of a product are too few to train the same
        self._plan = plan
        self._place = torch.device(accelerator)
        self.layout = Layout(plan, batch)
        self._program = Program(plan, training=True)
        self._stacked = Program(plan, training=True, table=OPERATIONS)
        self._manifest = plan.manifest()
        self._rows: _Rows | None = None  # of the newest step
        self._alone = False

    def step(self, trainings: Sequence[Training]) -> list[Exception | None]:
        """Take each device's next batch, all of one size; what ended a training."""
        if len(trainings) > 1 and not self._alone:
            try:
                return self._together(trainings)
            except (RuntimeError, PlanError) as error:
                reason = str(error).partition("\n")[0]
                log.warning("plan %s is trained on one device after the other: %s", self._plan.name, reason)
                self._alone = True
        return [self._one(training) for training in trainings]

    def _together(self, trainings: Sequence[Training]) -> list[Exception | None]:
        """Raises ``RuntimeError`` or ``PlanError`` where torch can't; then no training has got on."""
        if self._rows is None or self._rows.trainings != trainings:
            self._rows = _Rows(trainings, self._manifest)
        rows = self._rows
        inputs, labels = zip(*(training.examples() for training in trainings), strict=True)
        masks = mask_views(self.layout, self._stack([training.masks() for training in trainings]), len(labels[0]))
        columns = [self._stack(column) for column in zip(*inputs, strict=True)]
        losses, _ = self._stacked(rows.leaves, columns, self._stack(labels), rows.weights, masks)
        gradients = torch.autograd.grad(losses.sum(), rows.leaves, materialize_grads=True)  # zeros for what isn't used
        for place, gradient in zip(rows.places, gradients, strict=True):
            place.copy_(gradient)
        steps = [training.step + 1 for training in trainings]
        descend(trainings[0].settings, rows.flat, rows.gradient, rows.memory, steps, rows.anchor)
        moved = zip(trainings, losses.tolist(), strict=True)
        return [_caught(training.advance, loss) for training, loss in moved]

    def _one(self, training: Training) -> Exception | None:
        gradient = torch.zeros_like(training.flat)
        leaves = differentiable(training.flat, gradient, self._manifest)
        inputs, labels = training.examples()
        try:
            loss, _ = self._program(
                leaves,
                [*map(self._placed, inputs)],
                self._placed(labels),
                training.weights,
                mask_views(self.layout, self._placed(training.masks()), len(labels)),
            )
            loss.backward()  # type: ignore[no-untyped-call]  # torch's typing
        except (RuntimeError, PlanError) as error:
            return error
        return _caught(training.descend, gradient, loss.item())

    def _stack(self, arrays: Sequence[NDArray[Any]]) -> Tensor:
        """Arrays of one shape as the rows of a tensor."""
        return self._placed(np.concatenate(arrays).reshape(len(arrays), *arrays[0].shape))

    def _placed(self, array: NDArray[Any]) -> Tensor:
        return torch.from_numpy(array).to(self._place)


class _Rows:
    """Some trainings' parameters and what goes with them, a row each: the trainings' own lie in these from now on.

    As long as the same ones take their steps together nothing of it is moved.
    """

    def __init__(self, trainings: Sequence[Training], manifest: Manifest) -> None:
        self.trainings = trainings
        self.flat = torch.stack([training.flat for training in trainings])
        self.memory = [torch.stack(column) for column in zip(*(training.memory for training in trainings), strict=True)]
        self.weights = torch.stack([training.weights for training in trainings])
        proximal = trainings[0].settings.proximal
        self.anchor = torch.stack([training.anchor for training in trainings]) if proximal else self.flat
        self.gradient = torch.empty_like(self.flat)
        self.places, self.leaves = (
            [
                whole[:, where].view(len(trainings), *tensor.shape)
                for tensor, where in zip(manifest.tensors, manifest.slices(), strict=True)
            ]
            for whole in (self.gradient, self.flat)
        )
        for leaf in self.leaves:
            leaf.requires_grad_()
        for number, training in enumerate(trainings):
            training.lie_in(self.flat[number], [vector[number] for vector in self.memory])


def _caught(advance: Callable[..., None], *arguments: Any) -> Exception | None:
    """What the step of one device raises, for whoever knows the device; it isn't the others' business."""
    try:
        advance(*arguments)
    except Exception as error:  # noqa: BLE001 - likewise
        return error
    return None
