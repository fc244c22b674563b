"""How unusual each beat is to a model of the plan ``ecg-masked``: what it can't fill in. Needs torch."""

from __future__ import annotations

from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from edge.beats.beat_stream import Described
from edge.beats.masked_beats import MASKS, masked, scores
from edge.training.plan_runtime import Program
from schemas.parameters import Parameters
from schemas.plan import Plan

BATCH: Final = 256  # beats at a time


def score_beats(parameters: Parameters, plan: Plan, beats: Described) -> NDArray[np.float64]:
    """The score (n,) of one person's beats, as ``masked_beats.scores`` has it."""
    return scores(errors_of(parameters, plan, beats))


def errors_of(parameters: Parameters, plan: Plan, beats: Described) -> NDArray[np.float64]:
    """The model's mean squared error (n, masks) of each beat under each mask."""
    program = Program(plan, training=False)
    arrays = [torch.from_numpy(array.copy()) for array in parameters.arrays().values()]
    weights = torch.ones(len(plan.classes))
    errors = np.empty((len(beats.peaks), len(MASKS)))
    with torch.inference_mode():
        for start in range(0, len(errors), BATCH):
            waves, usual = (whole[start : start + BATCH] for whole in (beats.waves, beats.usual))
            labels = torch.zeros(len(waves), dtype=torch.int64)
            for mask in range(len(MASKS)):
                given = masked(waves, usual, np.full(len(waves), mask))
                inputs = tuple(torch.from_numpy(np.ascontiguousarray(array)) for array in given)
                errors[start : start + BATCH, mask] = program(arrays, inputs, labels, weights)[1][:, 0].numpy()
    return errors
