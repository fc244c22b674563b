"""One round's training on one device: ``train(parameters, data, plan, settings, rng) -> (delta, examples, metrics)``.

Deterministic for a given generator state, number of threads and machine. All parameters lie in one vector, and so do
their gradients, so that the optimiser and the proximal term are a few operations whatever the number of layers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from edge.dataset import Dataset
from edge.plan_runtime import Program
from schemas.errors import DataError, PlanError, TrainingError
from schemas.messages import TrainSettings
from schemas.parameters import Parameters
from schemas.plan import Plan


@dataclass(frozen=True, slots=True)
class Event:
    """Where training is: before the first batch, after each batch and each pass over the data, and after the last."""

    kind: Literal["start", "batch", "epoch", "end"]
    epoch: int  # from 0
    step: int  # batches done
    steps: int  # batches this round will have
    loss: float | None = None  # mean over the examples of this batch, or of this epoch; None at the start


Observer = Callable[[Event], None]  # stops the training by raising


class TrainingMetrics(NamedTuple):
    """What a round's training says of itself."""

    loss: float  # mean over the examples of the last epoch, each batch before its step; class-weighted where set
    steps: int  # batches


class Trained(NamedTuple):
    """A round's outcome on one device."""

    delta: Parameters
    examples: int  # different ones trained on
    metrics: TrainingMetrics


def ignore(_event: Event) -> None:
    """The observer that doesn't care."""


def train(
    parameters: Parameters,
    data: Dataset,
    plan: Plan,
    settings: TrainSettings,
    rng: np.random.Generator,
    on_event: Observer = ignore,
) -> Trained:
    """Train from ``parameters`` on ``data`` (``fit`` it to the plan first) and return what was added to them.

    Raises ``DataError`` where there is no example, ``PlanError`` where class weights don't fit the plan, and
    ``TrainingError`` where the loss stops being finite. What ``on_event`` raises ends the training.
    """
    chosen = choose(len(data), settings.max_examples, rng)
    inputs = tuple(torch.from_numpy(array[chosen]) for array in data.inputs)
    labels = torch.from_numpy(data.labels[chosen])
    weights = class_weights(settings, data.labels[chosen], len(plan.classes))
    program = Program(plan, training=True)
    start = torch.from_numpy(parameters.flat.copy())
    model = _Model(parameters)
    optimiser = OPTIMISERS[settings.optimizer](settings, model.flat)
    per_epoch = math.ceil(len(chosen) / settings.batch_size)
    steps = settings.local_steps or settings.epochs * per_epoch
    losses = _MeanLoss()
    on_event(Event("start", 0, 0, steps))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(rng.integers(2**63)))  # of dropout, which takes torch's own generator
        for step, batch in enumerate(batches(len(chosen), settings.batch_size, steps, rng), 1):
            epoch = (step - 1) // per_epoch
            model.gradient.zero_()
            loss, _ = program(model.leaves, tuple(array[batch] for array in inputs), labels[batch], weights)
            loss.backward()  # type: ignore[no-untyped-call]  # torch's typing
            losses.add(_finite(loss, step), len(batch))
            if settings.proximal:  # FedProx (Li et al. 2020): the gradient of mu/2 |w - w_start|^2
                model.gradient.add_(model.flat - start, alpha=settings.proximal)
            optimiser.step(model.flat, model.gradient)
            on_event(Event("batch", epoch, step, steps, losses.newest))
            if step % per_epoch == 0 or step == steps:
                on_event(Event("epoch", epoch, step, steps, losses.close()))
    on_event(Event("end", epoch, steps, steps, losses.closed))
    delta = Parameters(parameters.manifest, (model.flat - start).numpy())
    if not delta.is_finite():
        raise TrainingError("training gave NaN or infinite parameters: lower the learning rate, or check the data")
    return Trained(delta, len(chosen), TrainingMetrics(losses.closed, steps))


def choose(examples: int, most: int | None, rng: np.random.Generator) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Which examples a round uses: all, or ``most`` of them drawn without repetition, in order of recording."""
    if not examples:
        raise DataError("there is no example to train on: record or label some first")
    if most is None or most >= examples:
        return np.arange(examples)
    return np.sort(rng.choice(examples, most, replace=False))


def batches(examples: int, size: int, steps: int, rng: np.random.Generator) -> Iterator[Tensor]:
    """``steps`` batches of indices: shuffled passes over all examples, the last batch of a pass may be smaller."""
    done = 0
    while done < steps:
        order = torch.from_numpy(rng.permutation(examples))
        for start in range(0, examples, size)[: steps - done]:
            yield order[start : start + size]
            done += 1


def class_weights(settings: TrainSettings, labels: np.ndarray[tuple[int], np.dtype[np.int64]], classes: int) -> Tensor:
    """The loss's weight of each class, float32 (classes,): ones, as given, or balanced.

    Balanced is n / (k n_c) for a class with n_c of n examples among the k classes present here, so that each present
    class counts the same and the mean over examples is 1; absent classes get 1.
    """
    if settings.class_weights == "none":
        return torch.ones(classes)
    if settings.class_weights == "balanced":
        counts = np.bincount(labels, minlength=classes)
        present = counts > 0
        weights = np.ones(classes, np.float32)
        weights[present] = len(labels) / (present.sum() * counts[present])
        return torch.from_numpy(weights)
    if len(settings.class_weights) != classes:
        raise PlanError(f"{len(settings.class_weights)} class weights for {classes} classes: give one for each")
    return torch.tensor(settings.class_weights, dtype=torch.float32)


class _Model:
    """Parameters in one vector, with leaves that autograd knows as views of it and of its gradient."""

    def __init__(self, parameters: Parameters) -> None:
        self.flat = torch.from_numpy(parameters.flat.copy())
        self.gradient = torch.zeros_like(self.flat)
        self.leaves = []
        for tensor, where in zip(parameters.manifest.tensors, parameters.manifest.slices(), strict=True):
            leaf = self.flat[where].view(tensor.shape).requires_grad_()
            leaf.grad = self.gradient[where].view(tensor.shape)  # backward adds to it in place
            self.leaves.append(leaf)


class Optimiser(Protocol):
    """Changes parameters by their gradient, both float32 vectors, in place; may change the gradient too."""

    def __init__(self, settings: TrainSettings, parameters: Tensor) -> None: ...

    def step(self, parameters: Tensor, gradient: Tensor) -> None:
        """One step."""


class Sgd:
    """Stochastic gradient descent with momentum and weight decay; the same numbers as ``torch.optim.SGD``."""

    def __init__(self, settings: TrainSettings, parameters: Tensor) -> None:
        self._settings = settings
        self._velocity = torch.zeros_like(parameters)

    def step(self, parameters: Tensor, gradient: Tensor) -> None:
        """One step."""
        if self._settings.weight_decay:
            gradient.add_(parameters, alpha=self._settings.weight_decay)
        if self._settings.momentum:
            gradient = self._velocity.mul_(self._settings.momentum).add_(gradient)
        parameters.add_(gradient, alpha=-self._settings.learning_rate)


class Adam:
    """Adam (Kingma and Ba 2015) with betas 0.9 and 0.999; the same numbers as ``torch.optim.Adam``."""

    BETAS = (0.9, 0.999)
    EPSILON = 1e-8

    def __init__(self, settings: TrainSettings, parameters: Tensor) -> None:
        self._settings = settings
        self._mean = torch.zeros_like(parameters)
        self._square = torch.zeros_like(parameters)
        self._steps = 0

    def step(self, parameters: Tensor, gradient: Tensor) -> None:
        """One step."""
        if self._settings.weight_decay:
            gradient.add_(parameters, alpha=self._settings.weight_decay)
        self._steps += 1
        first, second = self.BETAS
        self._mean.lerp_(gradient, 1 - first)
        self._square.mul_(second).addcmul_(gradient, gradient, value=1 - second)
        scale = (self._square.sqrt() / math.sqrt(1 - second**self._steps)).add_(self.EPSILON)
        rate = self._settings.learning_rate / (1 - first**self._steps)
        parameters.addcdiv_(self._mean, scale, value=-rate)


OPTIMISERS: dict[str, type[Optimiser]] = {"sgd": Sgd, "adam": Adam}


class _MeanLoss:
    """The mean loss over the examples of the epoch that is running."""

    def __init__(self) -> None:
        self.newest = 0.0
        self.closed = 0.0
        self._sum = 0.0
        self._examples = 0

    def add(self, loss: float, examples: int) -> None:
        """Count a batch."""
        self.newest = loss
        self._sum += loss * examples
        self._examples += examples

    def close(self) -> float:
        """End the epoch and give its mean."""
        self.closed = self._sum / self._examples
        self._sum, self._examples = 0.0, 0
        return self.closed


def _finite(loss: Tensor, step: int) -> float:
    value = loss.item()
    if not math.isfinite(value):
        raise TrainingError(f"the loss became {value} at batch {step}: lower the learning rate, or check the data")
    return value
