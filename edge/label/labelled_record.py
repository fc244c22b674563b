"""A record as whoever labels its beats sees it: its lead, each beat beside the usual one, and what is suggested."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from edge.beats.beat_features import BEFORE, QRS
from edge.beats.beat_stream import stream_of
from edge.beats.detectors import Peaks
from edge.beats.dominant_beat import BLOCK, follow
from edge.beats.ecg import AAMI_OF_SYMBOL, RATE, WINDOW, condition, intervals, relate_beats
from edge.findings.classifier import BeatClassifier
from edge.findings.predict import ANNOTATOR
from edge.label.beat_picture import Picture
from edge.record.label_files import annotations_in
from edge.sources.wfdb_records import read_lead
from schemas.errors import DataError

SAME_S: Final = 0.15  # within which two annotations are of one beat (ANSI/AAMI EC57)


class LabelledRecord:
    """One record's lead. Beats are given by the samples of their R peaks, in order."""

    def __init__(self, path: Path) -> None:
        """``path`` is without an ending. Raises ``DataError``."""
        self._path = path
        self._signal, self.rate = read_lead(path)
        if not np.isfinite(self._signal).all():
            raise DataError(f"{path.name} has gaps in its signal: cut it into gapless records")

    @property
    def minutes(self) -> int:
        """How many minutes it has, a last one that isn't whole included."""
        return max(1, math.ceil(len(self._signal) / self.rate / 60))

    def within(self, minutes: Sequence[int], peaks: Sequence[int]) -> tuple[int, ...]:
        """Which of these beats lie in one of these minutes, counted from 0."""
        return tuple(place for place, peak in enumerate(peaks) if int(peak / self.rate // 60) in minutes)

    def peaks(self, find: Peaks | None = None) -> list[int]:
        """The beats that ``find`` finds, or else the device's own detector.

        Raises ``DataError`` where the lead is flat.
        """
        stream = stream_of(self._signal, self.rate, find)
        return [*stream.feed(self._signal).peaks.tolist(), *stream.finish().peaks.tolist()]

    def pictures(self, peaks: Sequence[int]) -> Pictures:
        """Pictures of these beats."""
        return Pictures(self._signal, self.rate, np.asarray(peaks, np.int64))

    def suggestions(self, peaks: Sequence[int], classifier: BeatClassifier | None) -> tuple[str, ...]:
        """What a model takes each beat for, or took it for in RECORD.fb; empty where nothing is known."""
        if classifier is not None:
            samples = np.asarray(peaks, np.int64)
            beats = relate_beats(self._signal, self.rate, samples)
            said = iter(classifier(beats))
            return tuple(next(said) if kept else "" for kept in beats.kept.tolist())
        file = self._path.with_name(f"{self._path.name}.{ANNOTATOR}")
        marks = [one for one in annotations_in(file) if one.symbol] if file.exists() else []
        if not marks:
            return ("",) * len(peaks)
        samples = np.array([one.sample for one in marks])
        nearest = [int(np.abs(samples - peak).argmin()) for peak in peaks]
        return tuple(
            AAMI_OF_SYMBOL.get(marks[place].symbol, "") if abs(marks[place].sample - peak) <= SAME_S * self.rate else ""
            for place, peak in zip(nearest, peaks, strict=True)
        )


class Pictures:
    """Draws each of a lead's beats beside its person's dominant beat."""

    def __init__(self, signal: NDArray[np.float64], rate: float, peaks: NDArray[np.int64]) -> None:
        """``signal`` (n,) in mV at ``rate`` Hz. Raises ``DataError``."""
        self._before = intervals(peaks, rate)
        starts = np.rint(peaks * (RATE / rate)).astype(np.int64) - BEFORE
        self._followed = follow(condition(signal, rate), starts, WINDOW, self._before, QRS)

    def __getitem__(self, place: int) -> Picture:
        """Beat number ``place``."""
        after = self._before[place + 1] if place + 1 < len(self._before) else None
        return Picture(
            self._followed.beats[place],
            self._followed.dominant[place // BLOCK],
            float(self._before[place]),
            None if after is None else float(after),
            float(self._followed.sinus[place]),
        )
