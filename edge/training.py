"""One round's training on one device: ``train(parameters, data, plan, settings, rng) -> (delta, examples, metrics)``.

It can be left after any batch with a checkpoint, and gone on with from there to the same bits. Deterministic for a
given generator state, number of threads and machine. All parameters lie in one vector, and so do their gradients, so
that the optimiser and the proximal term are a few operations whatever the number of layers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from edge.checkpoint import Checkpoint, Vector
from edge.dataset import Dataset
from edge.plan_runtime import Program
from schemas.errors import DataError, PlanError, Reject, TrainingError, WireError
from schemas.messages import TrainSettings
from schemas.parameters import Manifest, Parameters
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


class Tether(NamedTuple):
    """What holds a training back, beside its settings."""

    anchor: Parameters | None = None  # what the proximal term pulls towards; the parameters it starts from unless given
    free: np.ndarray[tuple[int], np.dtype[np.bool_]] | None = None  # (P,): which values it may change; all unless given


LOOSE: Final = Tether()


class Trained(NamedTuple):
    """A round's outcome on one device."""

    delta: Parameters
    examples: int  # different ones trained on
    metrics: TrainingMetrics


def engine() -> str:
    """What makes other bits of the same training on the same machine: torch's version, and how many threads add up."""
    return f"torch {torch.__version__}, {torch.get_num_threads()} threads"


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
    tether: Tether = LOOSE,
) -> Trained:
    """Train from ``parameters`` on ``data`` (``fit`` it to the plan first) and return what was added to them.

    With ``resume``, a checkpoint of this very training, it goes on from there; ``rng`` is what it was at the start.
    Raises ``DataError`` where there is no example, ``PlanError`` where class weights don't fit the plan,
    ``TrainingError`` where the loss stops being finite, and ``WireError`` where ``resume`` doesn't fit. What
    ``on_event`` raises ends the training.
    """
    program = Program(plan, training=True)
    with torch.random.fork_rng(devices=[]):  # dropout takes torch's own generator
        dropout = torch.default_generator
        training = Training(parameters, data, plan, settings, rng, dropout, on_event, resume, tether=tether)
        gradient = torch.zeros_like(training.flat)
        leaves = differentiable(training.flat, gradient, parameters.manifest)
        while training.batch is not None:
            gradient.zero_()
            loss, _ = program(leaves, *training.examples(), training.weights)
            loss.backward()  # type: ignore[no-untyped-call]  # torch's typing
            training.descend(gradient, loss.item())
    return training.result()


class Training:
    """One device's training between two batches: what the next one is of, and all that the ones to come depend on.

    ``train`` and ``edge.stacked_training`` take it from batch to batch; everything but the gradient itself is here.
    """

    def __init__(
        self,
        parameters: Parameters,
        data: Dataset,
        plan: Plan,
        settings: TrainSettings,
        rng: np.random.Generator,
        dropout: torch.Generator,
        on_event: Observer = ignore,
        resume: Checkpoint | None = None,
        *,
        accelerator: str = "cpu",
        tether: Tether = LOOSE,
    ) -> None:
        """As ``train`` has it; ``dropout`` is seeded here, and is a CPU's whatever the ``accelerator`` is."""
        chosen = choose(len(data), settings.max_examples, rng)
        place = torch.device(accelerator)
        self._inputs = tuple(torch.from_numpy(array[chosen]).to(place) for array in data.inputs)
        self._labels = torch.from_numpy(data.labels[chosen]).to(place)
        self.weights = class_weights(settings, data.labels[chosen], len(plan.classes)).to(place)
        self.dropout = dropout.manual_seed(int(rng.integers(2**63)))
        self._manifest = parameters.manifest
        self._settings = settings
        self._start = torch.from_numpy(parameters.flat.copy()).to(place)
        self._anchor = self._start if tether.anchor is None else torch.from_numpy(tether.anchor.flat.copy()).to(place)
        self._held = None if tether.free is None else torch.from_numpy(~tether.free).to(place)
        self._examples = len(chosen)
        self._on_event = on_event
        per_epoch = math.ceil(len(chosen) / settings.batch_size)
        self._steps = settings.local_steps or settings.epochs * per_epoch
        self._run = _Progress(self._start, settings, per_epoch, rng, dropout)
        if resume is not None:
            self._run.resume(resume, self._steps)
        on_event(Event("start", 0, self._run.step, self._steps))
        self._batches = batches(len(chosen), settings.batch_size, self._steps, rng, self._run.step)
        self.batch = next(self._batches, None)  # int64 indices into the examples; None when training is done

    @property
    def flat(self) -> Tensor:
        """The parameters as they are now, float32 (P,)."""
        return self._run.flat

    def examples(self) -> tuple[tuple[Tensor, ...], Tensor]:
        """The next batch's inputs, (b, *shape) each, and its labels (b,)."""
        return tuple(array[self.batch] for array in self._inputs), self._labels[self.batch]

    def descend(self, gradient: Tensor, loss: float) -> None:
        """The next batch is done and gave ``gradient`` (P,), which is written to, and its mean ``loss``.

        Raises ``TrainingError`` where the loss isn't finite, and what the observer raises.
        """
        run, steps = self._run, self._steps
        assert self.batch is not None
        if not math.isfinite(loss):
            raise TrainingError(
                f"the loss became {loss} at batch {run.step + 1}: lower the learning rate, or check the data"
            )
        if self._settings.proximal:  # FedProx (Li et al. 2020): the gradient of mu/2 |w - w_anchor|^2
            gradient.add_(run.flat - self._anchor, alpha=self._settings.proximal)
        run.optimiser.step(run.flat, gradient)
        if self._held is not None:
            run.flat[self._held] = self._start[self._held]  # momentum and weight decay would move them too
        epoch, closed = run.advance(loss, len(self.batch), steps)
        self._on_event(Event("batch", epoch, run.step, steps, loss, run.capture))
        if closed:
            self._on_event(Event("epoch", epoch, run.step, steps, run.loss))
        self.batch = next(self._batches, None)

    def result(self) -> Trained:
        """What training gave, after the last batch. Raises ``TrainingError`` where that isn't finite."""
        run = self._run
        self._on_event(Event("end", run.epoch, self._steps, self._steps, run.loss))
        delta = Parameters(self._manifest, (run.flat - self._start).cpu().numpy())
        if not delta.is_finite():
            raise TrainingError("training gave NaN or infinite parameters: lower the learning rate, or check the data")
        return Trained(delta, self._examples, TrainingMetrics(run.loss, self._steps))


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


def differentiable(flat: Tensor, gradient: Tensor, manifest: Manifest) -> list[Tensor]:
    """The parameters in ``flat`` (..., P) as autograd's leaves, views (..., *shape) of it in the manifest's order.

    A backward pass adds to ``gradient``, of the same shape as ``flat``, in place.
    """
    leaves = []
    for tensor, where in zip(manifest.tensors, manifest.slices(), strict=True):
        shape = *flat.shape[:-1], *tensor.shape
        leaf = flat[..., where].view(shape).requires_grad_()
        leaf.grad = gradient[..., where].view(shape)
        leaves.append(leaf)
    return leaves


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
        self,
        start: Tensor,
        settings: TrainSettings,
        per_epoch: int,
        shuffle: np.random.Generator,
        dropout: torch.Generator,
    ) -> None:
        self.flat = start.clone()
        self.optimiser = OPTIMISERS[settings.optimizer](settings, self.flat)
        self.step = 0
        self.epoch = 0  # of the newest batch
        self.loss = 0.0  # mean over the examples of the newest whole epoch
        self._per_epoch = per_epoch
        self._rng = shuffle
        self._dropout = dropout
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
            parameters=_copied(self.flat),
            optimiser=tuple(map(_copied, self.optimiser.vectors())),
            loss_sum=self._sum,
            loss_examples=self._examples,
            loss_closed=self.loss,
            shuffle=self._shuffle,
            dropout=self._dropout.get_state().numpy().tobytes(),
        )

    def resume(self, checkpoint: Checkpoint, steps: int) -> None:
        """Be where the checkpoint is. Raises ``WireError`` where it doesn't fit this training."""
        vectors = self.flat, *self.optimiser.vectors()
        kept = checkpoint.parameters, *checkpoint.optimiser
        if not 0 < checkpoint.step <= steps or [one.shape for one in vectors] != [one.shape for one in kept]:
            raise WireError(Reject.WRONG_SHAPE, "the checkpoint has another number of steps or parameters")
        try:
            self._rng.bit_generator.state = checkpoint.shuffle
            self._dropout.set_state(torch.frombuffer(bytearray(checkpoint.dropout), dtype=torch.uint8))
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
    return vector.cpu().numpy().copy()
