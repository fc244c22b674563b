"""One round's training on one device: ``train(parameters, data, plan, settings, rng) -> (delta, examples, metrics)``.

It can be left after any batch with a checkpoint, and gone on with from there to the same bits. Deterministic for a
given generator state, number of threads and machine. All parameters lie in one vector, and so do their gradients, so
that the optimiser and the proximal term are a few operations whatever the number of layers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Final, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edge.dataset import Dataset, FloatArray, IndexArray, LabelArray
from edge.training.batches import Batch, batches, choose, class_weights
from edge.training.checkpoint import Checkpoint, Vector
from edge.training.dropout import Layout, Masks
from edge.training.optimisers import OPTIMISERS
from edge.training.plan_runtime import Program
from schemas.errors import Reject, TrainingError, WireError
from schemas.messages import TrainSettings
from schemas.parameters import Manifest, Parameters
from schemas.plan import Plan


class Event(NamedTuple):
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
    Raises ``DataError`` where there is no example, ``PlanError`` where class weights don't fit the plan or a dropout
    has no probability, ``TrainingError`` where the loss stops being finite, and ``WireError`` where ``resume`` doesn't
    fit. What ``on_event`` raises ends the training.
    """
    program, layout = Program(plan, training=True), Layout(plan, settings.batch_size)
    training = Training(parameters, data, plan, settings, rng, layout, on_event, resume, tether=tether)
    gradient = torch.zeros_like(training.flat)
    leaves = differentiable(training.flat, gradient, parameters.manifest)
    while training.batch is not None:
        gradient.zero_()
        inputs, labels = training.examples()
        masks = mask_views(layout, torch.from_numpy(training.masks()), len(labels))
        loss, _ = program(leaves, [*map(torch.from_numpy, inputs)], torch.from_numpy(labels), training.weights, masks)
        loss.backward()  # type: ignore[no-untyped-call]  # torch's typing
        training.descend(gradient, loss.item())
    return training.result()


class Training:
    """One device's training between two batches: what the next one is of, and all that the ones to come depend on.

    ``train`` and ``edge.training.stacked_training`` take it from batch to batch; everything but the gradient itself is
    here.
    """

    def __init__(
        self,
        parameters: Parameters,
        data: Dataset,
        plan: Plan,
        settings: TrainSettings,
        rng: np.random.Generator,
        layout: Layout,
        on_event: Observer = ignore,
        resume: Checkpoint | None = None,
        *,
        accelerator: str = "cpu",
        tether: Tether = LOOSE,
    ) -> None:
        """As ``train`` has it; ``layout`` is the plan's at the settings' batch size."""
        chosen = choose(len(data), settings.max_examples, rng)
        place = torch.device(accelerator)
        self._passes = _Passes(data, chosen)
        weights = class_weights(settings, data.labels[chosen], len(plan.classes))
        self.weights = torch.from_numpy(weights).to(place)
        seed = int(rng.integers(2**63))
        self.settings = settings
        self._manifest = parameters.manifest
        self._start = torch.from_numpy(parameters.flat.copy()).to(place)
        anchor = tether.anchor if settings.proximal else None  # else nobody looks at it, and it takes a model's memory
        self.anchor = self._start if anchor is None else torch.from_numpy(anchor.flat.copy()).to(place)
        self._held = None if tether.free is None else torch.from_numpy(~tether.free).to(place)
        self._examples = len(chosen)
        self._on_event = on_event
        per_epoch = math.ceil(len(chosen) / settings.batch_size)
        self._steps = settings.local_steps or settings.epochs * per_epoch
        self._masks = Masks(seed, layout, self._steps, min(settings.batch_size, len(chosen)))
        self._run = _Progress(self._start, settings, per_epoch, rng)
        if resume is not None:
            self._run.resume(resume, self._steps)
        on_event(Event("start", 0, self._run.step, self._steps))
        self._batches = batches(len(chosen), settings.batch_size, self._steps, rng, self._run.step)
        self.batch = next(self._batches, None)  # None when training is done

    @property
    def flat(self) -> Tensor:
        """The parameters as they are now, float32 (P,)."""
        return self._run.flat

    @property
    def memory(self) -> list[Tensor]:
        """What the optimiser remembers, (P,) each."""
        return self._run.memory

    @property
    def step(self) -> int:
        """Batches done."""
        return self._run.step

    def examples(self) -> tuple[tuple[FloatArray, ...], LabelArray]:
        """The next batch's inputs, (b, *shape) each, and its labels (b,). Valid until the pass is over."""
        assert self.batch is not None
        return self._passes.take(self.batch)

    def masks(self) -> FloatArray:
        """What dropout multiplies by in the next batch, one row as the layout says."""
        return self._masks.row(self._run.step)

    def descend(self, gradient: Tensor, loss: float) -> None:
        """The next batch is done and gave ``gradient`` (P,), which is written to, and its mean ``loss``.

        Raises ``TrainingError`` where the loss isn't finite, and what the observer raises.
        """
        run, settings = self._run, self.settings
        descend(settings, run.flat, gradient, run.memory, [run.step + 1], self.anchor)
        if self._held is not None:
            run.flat[self._held] = self._start[self._held]  # momentum and weight decay would move them too
        self.advance(loss)

    def lie_in(self, flat: Tensor, memory: list[Tensor]) -> None:
        """Have parameters and optimiser from now on in these, (P,) each, which hold what ``flat`` and ``memory`` do."""
        self._run.flat, self._run.memory = flat, memory

    def advance(self, loss: float) -> None:
        """The next batch is done, had the mean ``loss``, and has moved ``flat`` and ``memory``.

        Raises as ``descend`` does.
        """
        run, steps = self._run, self._steps
        assert self.batch is not None
        if not math.isfinite(loss):
            raise TrainingError(
                f"the loss became {loss} at batch {run.step + 1}: lower the learning rate, or check the data"
            )
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


def descend(
    settings: TrainSettings,
    flat: Tensor,
    gradient: Tensor,
    memory: Sequence[Tensor],
    steps: Sequence[int],
    anchor: Tensor,
) -> None:
    """One step of one device's parameters (P,), or of a row (n, P) for each of several, in place.

    ``gradient`` is written to; ``memory`` is the optimiser's, ``steps`` are those of each row with this one; all but
    them are of the shape of ``flat``.
    """
    if settings.proximal:  # FedProx (Li et al. 2020): the gradient of mu/2 |w - w_anchor|^2
        gradient.add_(flat - anchor, alpha=settings.proximal)
    if settings.weight_decay:
        gradient.add_(flat, alpha=settings.weight_decay)
    OPTIMISERS[settings.optimizer].step(settings, flat, gradient, memory, steps)


def mask_views(layout: Layout, rows: Tensor, batch: int) -> list[Tensor]:
    """The mask of each dropout for ``batch`` examples, out of rows (..., M) that ``layout`` laid out."""
    return [
        rows[..., share.start : share.start + math.prod(shape)].view((*rows.shape[:-1], *shape))
        for share, shape in zip(layout.shares, layout.shapes(batch), strict=True)
    ]


def differentiable(flat: Tensor, gradient: Tensor, manifest: Manifest) -> list[Tensor]:
    """The parameters in ``flat`` (P,) as autograd's leaves, views of it in the manifest's order.

    A backward pass adds to ``gradient``, of the same shape as ``flat``, in place.
    """
    leaves = []
    for tensor, where in zip(manifest.tensors, manifest.slices(), strict=True):
        leaf = flat[where].view(tensor.shape).requires_grad_()
        leaf.grad = gradient[where].view(tensor.shape)
        leaves.append(leaf)
    return leaves


class _Passes:
    """The chosen examples in the order of the running pass, so that a batch is a slice of them."""

    def __init__(self, data: Dataset, chosen: IndexArray) -> None:
        self._from: tuple[NDArray[Any], ...] = (*data.inputs, data.labels)
        self._chosen = chosen
        self._order: IndexArray | None = None
        self._shuffled = [np.empty((len(chosen), *array.shape[1:]), array.dtype) for array in self._from]

    def take(self, batch: Batch) -> tuple[tuple[FloatArray, ...], LabelArray]:
        """The batch's inputs and labels."""
        if batch.order is not self._order:
            self._order, where = batch.order, self._chosen[batch.order]
            for array, shuffled in zip(self._from, self._shuffled, strict=True):
                np.take(array, where, axis=0, out=shuffled, mode="clip")  # with "raise" it would be copied twice
        *inputs, labels = [array[batch.start : batch.stop] for array in self._shuffled]
        return tuple(inputs), labels


class _Progress:
    """How far a training is: everything that the batches to come depend on, and the mean loss of the newest epoch."""

    def __init__(
        self,
        start: Tensor,
        settings: TrainSettings,
        per_epoch: int,
        shuffle: np.random.Generator,
    ) -> None:
        self.flat = start.clone()
        self.memory = [torch.zeros_like(start) for _ in range(OPTIMISERS[settings.optimizer].vectors(settings))]
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
            parameters=_copied(self.flat),
            optimiser=tuple(map(_copied, self.memory)),
            loss_sum=self._sum,
            loss_examples=self._examples,
            loss_closed=self.loss,
            shuffle=self._shuffle,
        )

    def resume(self, checkpoint: Checkpoint, steps: int) -> None:
        """Be where the checkpoint is. Raises ``WireError`` where it doesn't fit this training."""
        vectors = self.flat, *self.memory
        kept = checkpoint.parameters, *checkpoint.optimiser
        if not 0 < checkpoint.step <= steps or [one.shape for one in vectors] != [one.shape for one in kept]:
            raise WireError(Reject.WRONG_SHAPE, "the checkpoint has another number of steps or parameters")
        try:
            self._rng.bit_generator.state = checkpoint.shuffle
        except (ValueError, TypeError) as error:
            raise WireError(Reject.MALFORMED, f"the checkpoint's generator is none: {error}") from None
        with torch.no_grad():
            for vector, values in zip(vectors, kept, strict=True):
                vector.copy_(torch.from_numpy(values))
        self.step, self.epoch, self.loss = (
            checkpoint.step,
            (checkpoint.step - 1) // self._per_epoch,
            checkpoint.loss_closed,
        )
        self._sum, self._examples = checkpoint.loss_sum, checkpoint.loss_examples
        self._shuffle = checkpoint.shuffle


def _copied(vector: Tensor) -> Vector:
    return vector.cpu().numpy().copy()
