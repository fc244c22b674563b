"""Synthetic ECGs by the word ``synthetic-ecg``: a fleet of any size without a recording, and said to be that."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from edge import synthetic_ecg
from edge.dataset import Dataset, concatenate
from edge.sources.ecg_beats import label_beats, no_beats
from edge.sources.source import Form, Reader, Reading, Source
from schemas.errors import DataError

WORD = "synthetic-ecg"
PEOPLE = 40  # unless told
MOST = 10_000
SECONDS, RATE = 600.0, 250.0  # of one person's recording
NOTE = "these people are synthetic: what a model makes of them says nothing about patients"


def _open(path: str, _form: Form) -> Source:
    owners = tuple(f"synthetic-{number:04d}" for number in range(_people(path)))

    def read(chosen: Sequence[str]) -> Reading:
        rejected: Counter[str] = Counter()
        parts = [_beats(owner, rejected) for owner in chosen]
        return Reading(concatenate(parts) if parts else no_beats(), rejected)

    return Source(f"{len(owners)} synthetic people", owners, read, notes=(NOTE,))


def _people(path: str) -> int:
    number = path.partition(":")[2]
    if not number and path == WORD:
        return PEOPLE
    if number.isascii() and number.isdigit() and 1 <= int(number) <= MOST:
        return int(number)
    raise DataError(f"{path!r} names no synthetic people: use {WORD}, or {WORD}:N for N of them, at most {MOST}")


def _beats(owner: str, rejected: Counter[str]) -> Dataset:
    number = int(owner.rpartition("-")[2])
    made = synthetic_ecg.record(synthetic_ecg.person(number), SECONDS, RATE, number)
    return label_beats(owner, made.signal.astype(np.float64), made.rate, made.peaks, made.symbols, rejected)


READER = Reader(
    f"the word `{WORD}` for {PEOPLE} synthetic people, `{WORD}:N` for N",
    lambda path: path.partition(":")[0] == WORD,
    _open,
)
