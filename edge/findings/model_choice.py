"""Which model a command is to use: one in a file, or the one that a device uses for its owner. Needs no framework."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from pydantic import ValidationError

from edge import files, model_file
from edge.core.personal_settings import Origin
from edge.model_file import Own
from edge.store import PERSONAL
from schemas.errors import SettingsError, StateError
from schemas.parameters import Parameters
from schemas.plan_file import PlanFile


def parameters_of(file: PlanFile, model: Path | None) -> Parameters:
    """What is in a model's file, or the plan's initial parameters. Raises ``StateError`` or ``PlanError``."""
    if model is None:
        return file.initial(0)
    try:
        raw = model.read_bytes()
    except OSError as error:
        raise StateError(f"can't read the model {model}: {error.strerror}") from None
    return model_file.from_bytes(raw, file.plan, str(model))


class Chosen(NamedTuple):
    """A model, with its owner's labelled examples where it is the owner's own; and what it is called."""

    own: Own
    name: str


def choose(file: PlanFile, model: Path | None, state: Path | None) -> Chosen:
    """The model in a file, or the one that the device of a state directory uses: its owner's own where that is better.

    Raises ``SettingsError`` where both are given, ``StateError`` or ``PlanError``.
    """
    if state is None:
        return Chosen(Own(parameters_of(file, model)), model.name if model else "the plan's initial parameters")
    if model is not None:
        raise SettingsError("--model and --personal both say which model: leave one out")
    path = state / PERSONAL
    try:
        record = files.read(path)
        origin = None if record is None else Origin.model_validate(record.header)
    except (ValidationError, files.Damaged):
        raise StateError(f"{path} is damaged: start `edge run` anew, which makes another") from None
    if record is None or origin is None:
        raise StateError(f"{state} holds no model of its owner's own: let `edge run --personal ditto` make one there")
    made = f"version {origin.version} of run {origin.run}"
    own = f"its owner's own, by {origin.how.method} from {made}"
    name = own if origin.verdict.personal else f"the global one, {made}, since {own} is no better"
    return Chosen(model_file.own_from_bytes(record.payload, file.plan, str(path)), f"{name} ({origin.verdict.words()})")
