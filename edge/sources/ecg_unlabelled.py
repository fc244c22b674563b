"""The examples of recipes ``ecg-weak`` and ``ecg-masked``: beats of a lead that nobody has annotated.

The device's own detector finds them, in the same way as while a lead is recorded; annotations, where there are any,
aren't looked at.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edge.dataset import Dataset, FloatArray
from edge.sources import ecg_beats
from edge.sources.source import Form
from schemas.errors import DataError

if TYPE_CHECKING:
    from edge.beats.beat_stream import Described

MOST_MASKED = 20_000  # masked beats that a device trains on: 30 MB, and a day's recording has 100,000
FEWEST = 32  # of one record, however many there are
WEAK = Form("ecg-weak", ecg_beats.FORM.shapes, ecg_beats.CLASSES)
MASKED = Form("ecg-masked", ((128,), (128,), (128,)), ("beat",))  # the window, the usual beat, the mask


@dataclass(frozen=True, slots=True)
class Lead:
    """One record's lead: ``signal`` (samples,) in mV, NaN in its gaps, at ``rate`` Hz, of one ``owner``."""

    owner: str
    signal: NDArray[np.float64]
    rate: float


# Of a lead and the number of records that are read with it; what is left out is counted in the last argument.
Make = Callable[[Lead, int, Counter[str]], Dataset]


def weak(lead: Lead, _records: int, rejected: Counter[str]) -> Dataset:
    """A lead's beats, labelled by rule; those the rule isn't sure of are left out. Raises ``DataError``."""
    from edge.beats.weak_labels import CLASSES, SURE, Rule  # noqa: PLC0415  - with SciPy, which only a device with an ECG pays

    beats = _beats(lead)
    labels, confidence = Rule().label(beats.rhythm, beats.shape)
    sure = confidence >= SURE
    if unsure := int((~sure).sum()):
        rejected["beats that the rule isn't sure of"] += unsure
    places = np.array([ecg_beats.CLASSES.index(name) for name in CLASSES], np.int64)
    return _dataset(WEAK, (beats.rhythm[sure], beats.shape[sure]), places[labels[sure]], lead.owner)


def masked(lead: Lead, records: int, rejected: Counter[str]) -> Dataset:
    """A lead's beats, each with a part hidden; evenly thinned where there are too many. Raises ``DataError``."""
    from edge.beats import masked_beats  # noqa: PLC0415  - likewise

    beats = _beats(lead)
    most = max(FEWEST, MOST_MASKED // records)
    kept = np.unique(np.linspace(0, len(beats.peaks) - 1, min(most, len(beats.peaks))).astype(np.int64))
    if spare := len(beats.peaks) - len(kept):
        rejected[f"beats more than the {MOST_MASKED} that one device learns to fill in"] += spare
    inputs = masked_beats.masked(beats.waves[kept], beats.usual[kept], masked_beats.taken_in_turn(len(kept)))
    return _dataset(MASKED, inputs, np.zeros(len(kept), np.int64), lead.owner)


def none_of(form: Form) -> Dataset:
    """A dataset without examples."""
    shapes = form.shapes or ()
    return _dataset(form, tuple(np.empty((0, *shape), np.float32) for shape in shapes), np.empty(0, np.int64), "")


NOTES = {
    WEAK.recipe: ("labels are a rule's: so figures on held-out people say how like the rule a model is, and no more",)
}
MAKE: dict[str, Make] = {WEAK.recipe: weak, MASKED.recipe: masked}


def _beats(lead: Lead) -> Described:
    from edge.beats.beat_stream import beats_of  # noqa: PLC0415  - likewise

    beats = beats_of(lead.signal, lead.rate)
    if not len(beats.peaks):
        raise DataError("has no beat that can be found: check the electrodes, and that the lead is an ECG")
    return beats


def _dataset(form: Form, inputs: tuple[FloatArray, ...], labels: NDArray[np.int64], owner: str) -> Dataset:
    return Dataset(inputs, labels, np.full(len(labels), owner), form.classes or ())
