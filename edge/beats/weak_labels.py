"""Labels for beats that nobody has annotated: a rule of three thresholds, and how sure it is of each beat. Pure NumPy.

A cardiologist's first look, in three questions to ``beat_features``: does the complex look unlike the person's own
dominant beat (V), else did the beat come early (S), in a rhythm that isn't fibrillation (else N)? The thresholds were
chosen on the annotations of DS1 (``benchmarks/ecg_patients.py``), and nothing else here was learnt.

Near a threshold the rule is a coin toss. So each question is asked softly, by a logistic curve over the distance from
its threshold, and the confidence is the product of the answers that led to the label. Who trains on such labels leaves
the unsure ones out: a classifier that sees only beats that are surely one or the other draws its own line between them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from edge.beats.beat_features import RHYTHM, SHAPE, UNIT
from edge.dataset import FloatArray, LabelArray

CLASSES: Final = ("N", "S", "V")  # what the rule can say: labels are places in it
SURE: Final = 0.7  # confidence below which a beat is left out
SOFT: Final = (0.3, 0.3, 0.15)  # widths of the logistic curves: of strangeness, of prematurity, of change


@dataclass(frozen=True, slots=True)
class Rule:
    """V if the complex is strange; else S if it came early in a rhythm that isn't fibrillation; else N."""

    strange: float = 1.0  # above the person's usual unlikeness to the dominant beat, as the logarithm ``qrs rel``
    early: float = 0.8  # of the sinus interval
    changing: float = 0.5  # of ``change``

    def answers(self, rhythm: FloatArray, shape: FloatArray) -> tuple[NDArray[np.float64], ...]:
        """How far each beat (n,) is beyond each threshold: strange, early, steady. Positive is a yes.

        ``rhythm`` (n, 12) and ``shape`` (n, 19) as ``beat_features.features`` gives them.
        """
        strange = _raw(shape, SHAPE, "qrs rel") - self.strange
        early = np.log(self.early) / UNIT - _raw(rhythm, RHYTHM, "interval +0")
        steady = self.changing - _raw(rhythm, RHYTHM, "change")
        return strange, early, steady

    def label(self, rhythm: FloatArray, shape: FloatArray) -> tuple[LabelArray, NDArray[np.float64]]:
        """The label of each beat (n,), a place in ``CLASSES``, and how sure the rule is of it (n,), from 0 to 1."""
        answers = self.answers(rhythm, shape)
        strange, early, steady = (answer > 0 for answer in answers)
        labels = np.where(strange, 2, np.where(early & steady, 1, 0)).astype(np.int64)
        is_strange, is_early, is_steady = (
            1 / (1 + np.exp(-answer / soft)) for answer, soft in zip(answers, SOFT, strict=True)
        )
        is_premature = is_early * is_steady
        chances = ((1 - is_strange) * (1 - is_premature), (1 - is_strange) * is_premature, is_strange)
        return labels, np.choose(labels, chances)


def _raw(values: FloatArray, units: dict[str, tuple[float, float]], name: str) -> NDArray[np.float64]:
    """A feature as it was before it was given in its unit."""
    centre, unit = units[name]
    return values[:, list(units).index(name)].astype(np.float64) * unit + centre
