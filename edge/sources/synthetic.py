"""Synthetic ECGs by the word ``synthetic-ecg``: a fleet of any size without a recording, and said to be that."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from edge.beats import synthetic_ecg
from edge.dataset import concatenate
from edge.dataspec import SYNTHETIC
from edge.sources.ecg_beats import label_beats
from edge.sources.ecg_unlabelled import MAKE, NOTES, Lead, none_of
from edge.sources.source import Form, Reader, Reading, Source
from schemas.counted import counted
from schemas.errors import DataError

WORD = SYNTHETIC
PEOPLE = 40  # unless told
MOST = 10_000
SECONDS, RATE = 600.0, 250.0  # of one person's recording
NOTE = "these people are synthetic: what a model makes of them says nothing about patients"


def _open(path: str, form: Form) -> Source:
    make = MAKE.get(form.recipe)
    owners = tuple(f"synthetic-{number:04d}" for number in range(_people(path)))

    def read(chosen: Sequence[str]) -> Reading:
        rejected: Counter[str] = Counter()
        parts = []
        for owner in chosen:
            made = _record(owner)
            lead = Lead(owner, made.signal.astype(np.float64), made.rate)
            if make is None:
                parts.append(label_beats(owner, lead.signal, lead.rate, made.peaks, made.symbols, rejected))
            else:
                parts.append(make(lead, len(chosen), rejected))
        return Reading(concatenate(parts) if parts else none_of(form), rejected)

    return Source(
        counted(len(owners), "synthetic person", "synthetic people"),
        owners,
        read,
        notes=(NOTE, *NOTES.get(form.recipe, ())),
    )


def _people(path: str) -> int:
    number = path.partition(":")[2]
    if not number and path == WORD:
        return PEOPLE
    if number.isascii() and number.isdigit() and 1 <= int(number) <= MOST:
        return int(number)
    raise DataError(f"{path!r} names no synthetic people: use {WORD}, or {WORD}:N for N of them, at most {MOST}")


def _record(owner: str) -> synthetic_ecg.Recording:
    number = int(owner.rpartition("-")[2])
    return synthetic_ecg.record(synthetic_ecg.person(number), SECONDS, RATE, number)


READER = Reader(
    f"the word `{WORD}` for {PEOPLE} synthetic people, `{WORD}:N` for N",
    lambda path: path.partition(":")[0] == WORD,
    _open,
)
