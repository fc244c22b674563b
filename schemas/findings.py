"""The messages in which a device tells of its own ECG. No round, no model and no coordinator depends on them."""

from __future__ import annotations

from typing import Annotated

from pydantic import FailFast, Field

from schemas.messages import LARGEST, Count, Message, Name, RoundNumber, Seconds, Text, Word

MAX_FOUND = 16  # classes, and alerts, of one window


class Alert(Message):
    """A rule of the device's owner that a window of findings meets. ``edge.findings.alerts`` has the rules."""

    rule: Word
    value: Annotated[float, Field(ge=0, le=LARGEST)]
    limit: Annotated[float, Field(ge=0, le=LARGEST)]


class Findings(Message):
    """What a device's model has counted in a window of its own ECG, where its owner lets it tell.

    Counts alone: no sample, and no time but the window's own.
    """

    device: Name
    began: Text  # the window, by the device's wall clock, ISO 8601, for people; no decision rests on it
    ended: Text
    signal_s: Seconds  # of it, with samples
    quality: Annotated[float, Field(ge=0, le=1)]  # share of those seconds that are good
    beats: Annotated[dict[Word, Count], Field(max_length=MAX_FOUND)]  # by class
    rate: Annotated[float, Field(ge=0, le=10_000)] | None = None  # beats a minute
    alerts: Annotated[tuple[Alert, ...], Field(max_length=MAX_FOUND), FailFast()] = ()
    run: Name  # whose model it was
    model_version: RoundNumber
    personal: bool = False  # whether it was its owner's own, made of that version
    software: Text = ""
