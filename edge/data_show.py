"""``edge data show``: what would be trained on, in words, for an owner who wonders why a device declines."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from edge.record.recordings_show import recorded
from edge.sources import RECIPES, held_out_owners, open_source, read, reading, windows
from edge.sources.source import Reader, left_out
from schemas.counted import counted
from schemas.errors import DataError

SHOWN_OWNERS = 30
UNLABELLED = "ecg-masked"  # the recipe of recordings that nobody has annotated


class DataReport(BaseModel):
    """The recordings at a path as a recipe sees them. Numbers are examples unless their name says otherwise."""

    model_config = ConfigDict(frozen=True)

    path: str
    recipe: str
    kind: str  # what was found
    examples: int
    shapes: tuple[tuple[int, ...], ...]  # of one example, for each input
    classes: dict[str, int]
    owners: dict[str, int]
    held_out: tuple[str, ...]  # owners whom `held_out = "auto"` keeps from training; none: everybody's newest fifth
    rejected: dict[str, int]  # reason -> pieces
    notes: tuple[str, ...]


def show(path: str, recipe: str | None, *, as_json: bool) -> str:
    """The report on ``path``, prepared by ``recipe`` or by the first one that can read it. Raises ``DataError``.

    What was noted while it was recorded comes first, and is told where there is nothing to train on, too. ECGs without
    annotations are shown as the plan ``ecg-masked`` has them, which needs none.
    """
    of_recording = () if as_json else recorded(path)
    try:
        report = described(path, recipe)
    except DataError as error:
        if not of_recording:
            raise
        return "\n".join((*of_recording, f"nothing to train on yet: {error}"))
    return report.model_dump_json(indent=2) if as_json else "\n".join((*of_recording, *lines(report)))


def described(path: str, recipe: str | None) -> DataReport:
    """What ``recipe`` makes of ``path``, or one that can make something of it. Raises ``DataError``."""
    if recipe:
        return describe(path, recipe)
    found = guess(path)
    try:
        return describe(path, found)
    except DataError as error:
        if _read_by(path, found) is windows.READER:
            return _fitting(path)
        if not any(reader.recognises(path) for reader in RECIPES[UNLABELLED].readers):
            raise
        try:
            report = describe(path, UNLABELLED)
        except DataError:
            raise error from None
        why = f"nothing here can be trained on with labels ({error}): this is what plan {UNLABELLED} would train on"
        return report.model_copy(update={"notes": (*report.notes, why)})


def describe(path: str, recipe: str) -> DataReport:
    """Read everything at ``path`` and count it. Raises ``DataError``, or ``SettingsError`` for an unknown recipe."""
    source = open_source(path, recipe)
    reading = read(source, source.owners, RECIPES[recipe].form)
    return DataReport(
        path=path,
        recipe=recipe,
        kind=source.kind,
        examples=len(reading.dataset),
        shapes=reading.dataset.shapes,
        classes=reading.dataset.class_counts(),
        owners=reading.dataset.owner_counts(),
        held_out=held_out_owners(source),
        rejected={**source.skipped, **reading.rejected},
        notes=source.notes,
    )


def _read_by(path: str, recipe: str) -> Reader | None:
    return next((reader for reader in RECIPES[recipe].readers if reader.recognises(path)), None)


def _fitting(path: str) -> DataReport:
    """What the first recipe whose form they have makes of windows cut elsewhere, which every recipe may be given."""
    *others, last = (name for name in RECIPES if _read_by(path, name) is windows.READER)  # the last takes any form
    for name in others:
        with suppress(DataError):
            return describe(path, name)
    return describe(path, last)


def guess(path: str) -> str:
    """The first recipe with a reader for what is at ``path``. Raises ``DataError`` where none has."""
    wanted = "; ".join(dict.fromkeys(reader.what for recipe in RECIPES.values() for reader in recipe.readers))
    with reading(path):
        for name in RECIPES:
            if _read_by(path, name) is not None:
                return name
        place = Path(path)
        if not place.exists():
            raise DataError(f"there is nothing at {path}: give the folder or file of the recordings ({wanted})")
        if place.is_dir() and not any(place.iterdir()):
            raise DataError(f"the folder {path} is empty: put recordings there ({wanted})")
    raise DataError(f"{path} holds no recordings that can be read; these can: {wanted}")


def lines(report: DataReport) -> Iterator[str]:
    """The report for people."""
    shapes = " and ".join("x".join(map(str, shape)) for shape in report.shapes)
    yield f"{report.path}: {report.kind}, prepared as {report.recipe}"
    yield f"{counted(report.examples, 'example')} of {shapes}"
    yield "classes:  " + ", ".join(f"{name} {count}" for name, count in report.classes.items())
    owners = list(report.owners.items())
    named = ", ".join(f"{name} {count}" for name, count in owners[:SHOWN_OWNERS])
    yield f"owners:   {named}" + (f" and {len(owners) - SHOWN_OWNERS} more" if len(owners) > SHOWN_OWNERS else "")
    if report.held_out:
        people = ", ".join(report.held_out)
        yield f"held out: {people} by virtual devices; `edge run` trains on them too unless `held_out` names them"
    else:
        yield "held out: the newest fifth of everybody's examples"
    for reason, count in report.rejected.items():
        yield f"left out: {left_out(reason, count)}"
    for note in report.notes:
        yield f"note:     {note}"
