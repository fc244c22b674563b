"""``edge data show``: what would be trained on, in words, for an owner who wonders why a device declines."""

from __future__ import annotations

from collections.abc import Iterator

from edge.sources import RECIPES
from edge.sources.report import DataReport, describe

SHOWN_OWNERS = 30


def show(path: str, recipe: str | None, *, as_json: bool) -> str:
    """The report on ``path``, prepared by ``recipe`` or by the first one that can read it. Raises ``DataError``."""
    report = describe(path, recipe or guess(path))
    return report.model_dump_json(indent=2) if as_json else "\n".join(lines(report))


def guess(path: str) -> str:
    """The first recipe with a reader for what is at ``path``; ``windows``, whose reader explains itself, if none has."""
    readable = (name for name, recipe in RECIPES.items() if any(reader.recognises(path) for reader in recipe.readers))
    return next(readable, "windows")


def lines(report: DataReport) -> Iterator[str]:
    """The report for people."""
    shapes = " and ".join("x".join(map(str, shape)) for shape in report.shapes)
    yield f"{report.path}: {report.kind}, prepared as {report.recipe}"
    yield f"{report.examples} examples of {shapes}"
    yield "classes:  " + ", ".join(f"{name} {count}" for name, count in report.classes.items())
    owners = list(report.owners.items())
    named = ", ".join(f"{name} {count}" for name, count in owners[:SHOWN_OWNERS])
    yield f"owners:   {named}" + (f" and {len(owners) - SHOWN_OWNERS} more" if len(owners) > SHOWN_OWNERS else "")
    yield "held out: " + (", ".join(report.held_out) or "the newest fifth of everybody's examples")
    for reason, count in report.rejected.items():
        yield f"left out: {count} {reason}"
    for note in report.notes:
        yield f"note:     {note}"
