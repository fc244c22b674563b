"""One round's training on one device: ``train(parameters, data, plan, settings, rng) -> (delta, examples, metrics)``.

It can be left after any batch with a checkpoint, and gone on with from there to the same bits. Deterministic for a
given generator state, number of threads and machine. All parameters lie in one vector, and so do their gradients, so
that the optimiser and the proximal term are a few operations whatever the number of layers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from edge.checkpoint import Checkpoint, Vector
from edge.dataset import Dataset
from edge.plan_runtime import Program
from schemas.errors import DataError, PlanError, Reject, TrainingError, WireError
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
    capture: Callable[[], Checkpoint] | None = None  # after a batch: where the training is, copied when called


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
    resume: Checkpoint | None = None,
) -> Trained:
    """Train from ``parameters`` on ``data`` (``fit`` it to the plan first) and return what was added to them.

    With ``resume``, a checkpoint of this very training, it goes on from there; ``rng`` is what it was at the start.
    Raises ``DataError`` where there is no example, ``PlanError`` where class weights don't fit the plan,
    ``TrainingError`` where the loss stops being finite, and ``WireError`` where ``resume`` doesn't fit. What
    ``on_event`` raises ends the training.
    """
    chosen = choose(len(data), settings.max_examples, rng)
    inputs = tuple(torch.from_numpy(array[chosen]) for array in data.inputs)
    labels = torch.from_numpy(data.labels[chosen])
    weights = class_weights(settings, data.labels[chosen], len(plan.classes))
    program = Program(plan, training=True)
    start = torch.from_numpy(parameters.flat.copy())
    steps = settings.local_steps or settings.epochs * math.ceil(len(chosen) / settings.batch_size)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(rng.integers(2**63)))  # of dropout, which takes torch's own generator
        run = _Progress(parameters, settings, math.ceil(len(chosen) / settings.batch_size), rng)
        if resume is not None:
            run.resume(resume, steps)
        model, optimiser = run.model, run.optimiser
        on_event(Event("start", 0, run.step, steps))
        for batch in batches(len(chosen), settings.batch_size, steps, rng, run.step):
            model.gradient.zero_()
            loss, _ = program(model.leaves, tuple(array[batch] for array in inputs), labels[batch], weights)
            loss.backward()  # type: ignore[no-untyped-call]  # torch's typing
            value = _finite(loss, run.step + 1)
            if settings.proximal:  # FedProx (Li et al. 2020): the gradient of mu/2 |w - w_start|^2
                model.gradient.add_(model.flat - start, alpha=settings.proximal)
            optimiser.step(model.flat, model.gradient)
            epoch, closed = run.advance(value, len(batch), steps)
            on_event(Event("batch", epoch, run.step, steps, value, run.capture))
            if closed:
                on_event(Event("epoch", epoch, run.step, steps, run.loss))
    on_event(Event("end", run.epoch, steps, steps, run.loss))
    delta = Parameters(parameters.manifest, (model.flat - start).numpy())
    if not delta.is_finite():
        raise TrainingError("training gave NaN or infinite parameters: lower the learning rate, or check the data")
    return Trained(delta, len(chosen), TrainingMetrics(run.loss, steps))


def choose(examples: int, most: int | None, rng: np.random.Generator) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Which examples a round uses: all, or ``most`` of them drawn without repetition, in order of recording."""
    if not examples:
        raise DataError("there is no example to train on: record or label some first")
    if most is None or most >= examples:
        return np.arange(examples)
    return np.sort(rng.choice(examples, most, replace=False))


def batches(examples: int, size: int, steps: int, rng: np.random.Generator, done: int = 0) -> Iterator[Tensor]:
    """``steps`` batches of indices: shuffled passes over all examples, the last batch of a pass may be smaller.

    ``done`` of them came before; ``rng`` is then as it was before the pass that the next one belongs to.
    """
    skip = done % math.ceil(examples / size) * size
    while done < steps:
        order = torch.from_numpy(rng.permutation(examples))
        for start in range(skip, examples, size)[: steps - done]:
            yield order[start : start + size]
            done += 1
        skip = 0


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

    def vectors(self) -> tuple[Tensor, ...]:
        """What it remembers from step to step, each as long as the parameters; written to where training goes on."""

    def resume(self, steps: int) -> None:
        """Go on after ``steps`` steps, whose ``vectors`` are there again."""


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

    def vectors(self) -> tuple[Tensor, ...]:
        """The velocity, where there is momentum."""
        return (self._velocity,) if self._settings.momentum else ()

    def resume(self, steps: int) -> None:
        """No step depends on how many there were."""


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

    def vectors(self) -> tuple[Tensor, ...]:
        """The first two moments."""
        return self._mean, self._square

    def resume(self, steps: int) -> None:
        """The bias correction depends on how many there were."""
        self._steps = steps


OPTIMISERS: dict[str, type[Optimiser]] = {"sgd": Sgd, "adam": Adam}


class _Progress:
    """How far a training is: everything that the batches to come depend on, and the mean loss of the newest epoch."""

    def __init__(
        self, parameters: Parameters, settings: TrainSettings, per_epoch: int, shuffle: np.random.Generator
    ) -> None:
        self.model = _Model(parameters)
        self.optimiser = OPTIMISERS[settings.optimizer](settings, self.model.flat)
        self.step = 0
        self.epoch = 0  # of the newest batch
        self.loss = 0.0  # mean over the examples of the newest whole epoch
        self._per_epoch = per_epoch
        self._rng = shuffle
        self._shuffle = shuffle.bit_generator.state  # before the pass that the next batch is of
        self._sum = 0.0
        self._examples = 0

    def advance(self, loss: float, examples: int, steps: int) -> tuple[int, bool]:
        """A batch is done; the epoch it was of, and whether that is over."""
        self.epoch = self.step // self._per_epoch
        self.step += 1
        self._sum += loss * examples
        self._examples += examples
        whole = self.step % self._per_epoch == 0
        if whole:
            self._shuffle = self._rng.bit_generator.state
        if whole or self.step == steps:
            self.loss = self._sum / self._examples
            self._sum, self._examples = 0.0, 0
            return self.epoch, True
        return self.epoch, False

    def capture(self) -> Checkpoint:
        """All of it, copied."""
        return Checkpoint(
            step=self.step,
            parameters=_copied(self.model.flat),
            optimiser=tuple(map(_copied, self.optimiser.vectors())),
            loss_sum=self._sum,
            loss_examples=self._examples,
            loss_closed=self.loss,
            shuffle=self._shuffle,
            dropout=torch.random.get_rng_state().numpy().tobytes(),
        )

    def resume(self, checkpoint: Checkpoint, steps: int) -> None:
        """Be where the checkpoint is. Raises ``WireError`` where it doesn't fit this training."""
        vectors = self.model.flat, *self.optimiser.vectors()
        kept = checkpoint.parameters, *checkpoint.optimiser
        if not 0 < checkpoint.step <= steps or [one.shape for one in vectors] != [one.shape for one in kept]:
            raise WireError(Reject.WRONG_SHAPE, "the checkpoint has another number of steps or parameters")
        try:
            self._rng.bit_generator.state = checkpoint.shuffle
            torch.random.set_rng_state(torch.frombuffer(bytearray(checkpoint.dropout), dtype=torch.uint8))
        except (RuntimeError, ValueError, TypeError) as error:
            raise WireError(Reject.MALFORMED, f"the checkpoint's generators are none: {error}") from None
        with torch.no_grad():
            for vector, values in zip(vectors, kept, strict=True):
                vector.copy_(torch.from_numpy(values))
        self.optimiser.resume(checkpoint.step)
        self.step, self.epoch, self.loss = (
            checkpoint.step,
            (checkpoint.step - 1) // self._per_epoch,
            checkpoint.loss_closed,
        )
        self._sum, self._examples = checkpoint.loss_sum, checkpoint.loss_examples
        self._shuffle = checkpoint.shuffle


def _copied(vector: Tensor) -> Vector:
    return vector.numpy().copy()


def _finite(loss: Tensor, step: int) -> float:
    value = loss.item()
    if not math.isfinite(value):
        raise TrainingError(f"the loss became {value} at batch {step}: lower the learning rate, or check the data")
    return value
