"""A model of the owner's own, made on the device from the global one, and kept only where it is better. Pure.

It is cross-fitted: the owner's labelled examples are dealt into folds, and for each fold the global model is fitted to
the others. The fold is what judges that fit (Stone 1974), so that every example decides, each by a model that hasn't
seen it. The fits start alike and stay near each other, so that the mean of their weights is one model as good as all of
them together (Wortsman et al. 2022): better than one fit to all examples (``benchmarks/ecg_personal_ways.py``). A fit
is the mean over its second half, in place of where its last batch happened to lead (Polyak and Juditsky 1992). Means
and pull regularise already, so that nothing of hidden layers is dropped meanwhile; of inputs it is.

Where examples have looks, a fit decides together with the labelled examples that it has seen (``neighbours``), and the
model that is used with all of them.

A fold is a stretch of time of each class: beats of one minute resemble each other, so that a random part would flatter
whatever has learned its neighbours by heart. The judgement is of the fits, each of which has seen less than their mean
has, so that it errs in favour of the global model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edge.core.personal_settings import FEWEST, FOLDS, PersonalSettings, Verdict
from edge.dataset import Dataset
from edge.training import ec57
from edge.training.dropout import of_inputs_alone
from edge.training.evaluation import BATCH, evaluate
from edge.training.loop import Event, Tether, train
from edge.training.neighbours import Neighbours
from schemas.counted import counted
from schemas.errors import DataError, PlanError
from schemas.messages import Counts, TrainSettings
from schemas.parameters import Manifest, Parameters
from schemas.plan import Plan


class Personal(NamedTuple):
    """The better of the two models, and why it is."""

    model: Parameters
    neighbours: Neighbours | None  # that decide with it; none with the global one, or where they would say nothing
    verdict: Verdict


def personalise(
    shared: Parameters,
    data: Dataset,
    plan: Plan,
    run: TrainSettings,
    how: PersonalSettings,
    rng: np.random.Generator,
    *,
    on_batch: Callable[[], None] = lambda: None,
    batch: int = BATCH,
) -> Personal:
    """Fit the global model ``shared`` to the owner of ``data`` (``plan_fit.fit`` it first; in order of recording).

    ``batch`` examples are evaluated at a time; ``on_batch`` stops it by raising, which leaves nothing behind. Beside
    the global model and the fit that is running it holds two sums of (P,), however many folds there are. Raises
    ``DataError`` where there are too few examples, ``PlanError`` where no parameter has such a name, and
    ``TrainingError`` where numbers go wrong.
    """
    if len(data) < FEWEST:
        few = counted(len(data), "labelled example is", "labelled examples are")
        raise DataError(f"{few} too few for a personal model: it takes {FEWEST}")
    tether = Tether(shared, local(shared.manifest, how.layers) if how.method == "local-layers" else None)
    fold_of = deal(data.labels)
    total, judged = Parameters.zeros(shared.manifest), []
    fitted = of_inputs_alone(plan)
    for delta, seen, unseen in cross_fits(shared, data, fold_of, fitted, how.training(run), rng, tether, on_batch):
        judged.append(evaluate(shared.add(delta), unseen, plan, batch, on_batch, Neighbours.of(seen)))
        total = total.add(delta)
    mine = _score(judged, plan)
    global_ = _score([evaluate(shared, data, plan, batch, on_batch)], plan)
    verdict = Verdict(
        examples=len(data),
        personal_loss=mine[0],
        global_loss=global_[0],
        personal_f1=mine[1],
        global_f1=global_[1],
    )
    if not verdict.personal:
        return Personal(shared, None, verdict)
    return Personal(shared.add(total.scale(1 / len(judged))), Neighbours.of(data), verdict)


def cross_fits(
    shared: Parameters,
    data: Dataset,
    fold_of: NDArray[np.int64],
    plan: Plan,
    settings: TrainSettings,
    rng: np.random.Generator,
    tether: Tether,
    on_batch: Callable[[], None] = lambda: None,
) -> Iterator[tuple[Parameters, Dataset, Dataset]]:
    """For each fold of ``fold_of`` (n,) what training on all others adds to ``shared``, those, and the fold's examples.

    Raises what ``personalise`` does.
    """
    folds = np.unique(fold_of)
    for fold, drawn in zip(folds, rng.spawn(len(folds)), strict=True):
        seen, unseen = (data.take(np.flatnonzero(chosen)) for chosen in (fold_of != fold, fold_of == fold))
        yield settled(shared, seen, plan, settings, drawn, tether, on_batch), seen, unseen


def settled(
    shared: Parameters,
    data: Dataset,
    plan: Plan,
    settings: TrainSettings,
    rng: np.random.Generator,
    tether: Tether,
    on_batch: Callable[[], None] = lambda: None,
) -> Parameters:
    """What training on ``data`` adds to ``shared``: the mean over the batches of its second half.

    Raises what ``personalise`` does.
    """
    total, batches = np.zeros(shared.manifest.size), 0

    def observe(event: Event) -> None:
        nonlocal total, batches
        on_batch()
        if event.capture is not None and 2 * event.step > event.steps:
            total += event.capture().parameters
            batches += 1

    train(shared, data, plan, settings, rng, observe, tether=tether)
    return Parameters(shared.manifest, (total / batches - shared.flat).astype(np.float32))


def deal(labels: NDArray[np.int64], folds: int = FOLDS) -> NDArray[np.int64]:
    """Which fold (n,) each example is of, by its class (n,) and its place in time; as many folds as examples at most.

    Each class is cut into ``folds`` stretches of time, of equal length but for one example; of a class with fewer
    examples each is in a fold of its own, on from where the last class ended, so that no fold has all rare ones.
    """
    fold_of = np.zeros(len(labels), np.int64)
    dealt = 0
    for label in np.unique(labels):
        own = np.flatnonzero(labels == label)
        fold_of[own] = (np.arange(len(own)) * folds // max(len(own), folds) + dealt) % folds
        dealt += len(own)
    return fold_of


def local(manifest: Manifest, prefixes: Iterable[str]) -> NDArray[np.bool_]:
    """Which values (P,) belong to parameters whose names begin with one of ``prefixes``.

    ``layers.7`` is the layer of that name and no ``layers.70``. Raises ``PlanError`` where a prefix fits none.
    """
    chosen = np.zeros(manifest.size, np.bool_)
    for prefix in prefixes:
        fitting = [
            where
            for tensor, where in zip(manifest.tensors, manifest.slices(), strict=True)
            if f"{tensor.name}.".startswith(f"{prefix.rstrip('.')}.")
        ]
        if not fitting:
            names = ", ".join(tensor.name for tensor in manifest.tensors)
            raise PlanError(f"the plan has no layer {prefix!r} to be the device's own: choose among {names:.300}")
        for where in fitting:
            chosen[where] = True
    return chosen


def beside(shared: Parameters, own: Parameters, mine: NDArray[np.bool_]) -> Parameters:
    """The global model with those of its values (P,) that are ``mine`` taken from ``own``."""
    return Parameters(shared.manifest, np.where(mine, own.flat, shared.flat))


def _score(judged: Sequence[Counts], plan: Plan) -> tuple[float, float | None]:
    """The mean loss, and the macro-F1 over the classes that are there, where the plan tells classes apart."""
    loss = sum(counts.loss_sum for counts in judged) / sum(counts.examples for counts in judged)
    if plan.learns == "reconstruction":
        return loss, None
    confusion = np.array([counts.confusion for counts in judged], np.float64).sum(axis=0)
    return loss, float(ec57.macro_f1(range(len(plan.classes)))(confusion))
