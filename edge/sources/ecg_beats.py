"""The examples of recipe ``ecg-beats``: labelled beats of one person's lead, wherever the lead comes from."""

from __future__ import annotations

from collections import Counter

import numpy as np
from numpy.typing import NDArray

from edge.dataset import Dataset
from edge.sources.source import Form
from schemas.errors import DataError

CLASSES = ("N", "S", "V", "F", "Q")  # AAMI EC57
ALIKE = ("N", "S")  # whose QRS complexes come about alike: what tells them apart is the rhythm
FORM = Form("ecg-beats", ((12,), (19,)), CLASSES)  # as ``edge.beats.beat_features`` has them


def label_beats(
    owner: str,
    signal: NDArray[np.float64],
    rate: float,
    peaks: NDArray[np.int64],
    symbols: NDArray[np.str_],
    rejected: Counter[str],
) -> Dataset:
    """The beats at ``peaks`` (b,) of a lead (n,) in mV at ``rate`` Hz, labelled by their annotation ``symbols`` (b,).

    A beat whose symbol is empty is a neighbour to the others, and no example. Those that can't be used are counted in
    ``rejected``. Raises ``DataError``.
    """
    from edge.beats import ecg  # noqa: PLC0415  - for SciPy, half a second that only a device with an ECG pays

    try:
        described = ecg.relate_beats(signal, rate, peaks)
    except (ValueError, ArithmeticError, MemoryError, np.linalg.LinAlgError) as error:  # SciPy's, on absurd rates
        raise DataError(f"can't be filtered ({error}): check its rate of {rate:g} Hz and its length") from error
    kept = symbols[described.kept]
    labelled = kept != ""
    names = [ecg.AAMI_OF_SYMBOL[symbol] for symbol in kept[labelled]]
    if unlabelled := int((~labelled).sum()):
        rejected["beats that nobody has labelled"] += unlabelled
    if lost := int((~described.kept).sum()):
        rejected["beats too near an end of their record"] += lost
    labels = np.array([CLASSES.index(name) for name in names], dtype=np.int64)
    examples = described.rhythm[labelled], described.shape[labelled]
    return Dataset(examples, labels, np.full(len(labels), owner), CLASSES, described.looks[labelled], ALIKE)
