"""A model of the owner's own, made on the device from the global one, and kept only where it is better. Pure.

The owner's labelled examples are parted by time: the older ones train, the newest decide. Beats of one minute resemble
each other, so that a random part would flatter whatever has learned its neighbours by heart. What comes out is the
better of both models on those newest examples, so it is never worse there than the global one.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edge import ec57
from edge.dataset import Dataset
from edge.evaluation import BATCH, evaluate
from edge.personal_settings import VALIDATION, PersonalSettings, Verdict
from edge.training import Observer, Tether, ignore, train
from schemas.errors import DataError, PlanError
from schemas.messages import Counts, TrainSettings
from schemas.parameters import Manifest, Parameters
from schemas.plan import Plan

FEWEST: Final = 5  # examples that may decide


class Personal(NamedTuple):
    """The better of the two models, and why it is."""

    model: Parameters
    verdict: Verdict


def personalise(
    shared: Parameters,
    own: Parameters | None,
    data: Dataset,
    plan: Plan,
    run: TrainSettings,
    how: PersonalSettings,
    rng: np.random.Generator,
    *,
    on_event: Observer = ignore,
    batch: int = BATCH,
) -> Personal:
    """Fit the global model ``shared`` to the owner of ``data`` (``plan_fit.fit`` it first; in order of recording).

    ``own`` is the personal model so far: ``ditto`` goes on from it, ``local-layers`` takes its layers; None begins with
    ``shared``. ``batch`` examples are evaluated at a time. Raises ``DataError`` where there are too few examples,
    ``PlanError`` where no parameter has such a name, ``TrainingError`` where numbers go wrong, and what ``on_event``
    raises.
    """
    older, newest = data.split(VALIDATION)
    if len(newest) < FEWEST:
        raise DataError(
            f"{len(data)} labelled examples are too few for a personal model: "
            f"it takes {FEWEST / VALIDATION:.0f}, of which the newest {FEWEST} decide"
        )
    free = local(shared.manifest, how.layers) if how.method == "local-layers" else None
    start = _start(shared, own, how, free)
    done = train(start, older, plan, how.training(run), rng, on_event, tether=Tether(shared, free))
    model = start.add(done.delta)
    mine, global_ = (_judged(one, newest, plan, batch) for one in (model, shared))
    verdict = Verdict(
        examples=len(older),
        validation=len(newest),
        personal_loss=mine[0],
        global_loss=global_[0],
        personal_f1=mine[1],
        global_f1=global_[1],
    )
    return Personal(model if verdict.personal else shared, verdict)


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


def _start(
    shared: Parameters, own: Parameters | None, how: PersonalSettings, free: NDArray[np.bool_] | None
) -> Parameters:
    if own is None or how.method == "fine-tune" or own.manifest != shared.manifest:
        return shared
    return own if free is None else beside(shared, own, free)


def _judged(model: Parameters, data: Dataset, plan: Plan, batch: int) -> tuple[float, float | None]:
    """The mean loss, and the macro-F1 over the classes that are there, where the plan tells classes apart."""
    counts: Counts = evaluate(model, data, plan, batch)
    loss = counts.loss_sum / counts.examples
    if plan.learns == "reconstruction":
        return loss, None
    return loss, float(ec57.macro_f1(range(len(plan.classes)))(np.array(counts.confusion, np.float64)))
