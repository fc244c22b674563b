"""What a reader gives back: recordings found at a path, not yet read, so that a device reads only its own people's."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from edge.dataset import Dataset
from schemas.errors import DataError

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Form:
    """What a recipe's examples look like. None where the recordings decide."""

    recipe: str
    shapes: tuple[Shape, ...] | None  # of each input, without the batch
    classes: tuple[str, ...] | None

    def check(self, dataset: Dataset, where: str) -> None:
        """Raise ``DataError`` where the examples don't have this form."""
        if self.shapes is not None and dataset.shapes != self.shapes:
            raise DataError(
                f"{where}: examples have shape {_shapes(dataset.shapes)}, but recipe {self.recipe!r} needs "
                f"{_shapes(self.shapes)}: cut the windows to that, or use a plan made for theirs"
            )


@dataclass(frozen=True, slots=True)
class Reading:
    """What reading gave: examples, and how many pieces were rejected for which reason."""

    dataset: Dataset
    rejected: Mapping[str, int] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True)
class Source:
    """Recordings at a path. ``read`` takes some of ``owners`` and is only as slow as they are many."""

    kind: str  # what was found, for people to read
    owners: tuple[str, ...]  # in their own order; a partition by owner deals them in it
    read: Callable[[Sequence[str]], Reading]
    tested: tuple[str, ...] = ()  # owners whom the field's agreement on these recordings keeps for testing
    skipped: Mapping[str, int] = field(default_factory=Counter)  # left out unread: reason -> pieces
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Reader:
    """One kind of recordings: what it is called, whether a path holds it, and how to open it."""

    what: str
    recognises: Callable[[str], bool]
    open: Callable[[str, Form], Source]


def _shapes(shapes: tuple[Shape, ...]) -> str:
    return " and ".join("x".join(map(str, shape)) for shape in shapes)


def left_out(reason: str, count: int) -> str:
    """What was left out and why, and how many of it: a reason names them in the plural, and serves for one too."""
    return f"{reason} ({count})"
