"""What would be trained on, for the owner to look at before anything is: `edge data show PATH`."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from edge.sources import RECIPES, held_out_owners, open_source, read


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
