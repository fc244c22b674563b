"""What an owner's labelled examples say of another one that looks like some of them. Pure NumPy.

The model reads features that carry over from person to person; how somebody's own beats of a kind look does not, and is
what their labels know best. So a second opinion is added to a personal model's: each kind of example speaks as its
nearest labelled ones are near, by the inverse of their squared distance (Dudani 1976, with the nearest of each class).
That a classifier of everybody and one of the person's own decide together is due to Hu, Palreddy and Tompkins (1997).

Classes that look alike (``Dataset.alike``) have one voice: a premature beat of the atria and a usual one are conducted
alike, so that nothing here tells them apart. A class that nobody has labelled is as likely as those that were are on
average.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from edge.dataset import Dataset, FloatArray
from schemas.errors import DataError

NEAREST: Final = 2  # of each kind, whose mean squared distance counts
MOST: Final = 100  # examples of a kind that are kept, spread evenly over its owner's: thirty do as well on DS1
FLOOR: Final = 1e-4  # added to squared distances, so that an example is never quite sure of its equal
CHUNK: Final = 1024  # examples compared at a time


@dataclass(frozen=True, eq=False, slots=True)
class Neighbours:
    """Labelled examples of one owner.

    ``looks``: float32 (m, d), finite. ``kinds``: int64 (m,), of which kind each is. ``kind_of``: int64 (C,), the kind
    that each class of the plan is of. Kinds are places among the plan's classes. Raises ``DataError`` on anything else.
    """

    looks: FloatArray
    kinds: NDArray[np.int64]
    kind_of: NDArray[np.int64]

    def __post_init__(self) -> None:
        shaped = self.looks.ndim == 2 and self.kind_of.ndim == 1 and self.kinds.shape == self.looks.shape[:1]  # noqa: PLR2004
        typed = self.looks.dtype == np.float32 and self.kinds.dtype == self.kind_of.dtype == np.int64
        if not (shaped and typed and self.looks.size and np.isfinite(self.looks).all()):
            raise DataError("labelled examples must be finite float32 (m, d), each of a kind")
        both = np.concatenate([self.kinds, self.kind_of])
        if not (both.min() >= 0 and both.max() < len(self.kind_of)):
            raise DataError(f"kinds must lie in 0..{len(self.kind_of) - 1}, one for each class of the plan")

    @classmethod
    def of(cls, data: Dataset) -> Self | None:
        """Those of an owner's labelled examples, in order of recording; None where they say nothing.

        That is where nothing is known of their looks, and where all are of one kind.
        """
        if data.looks is None:
            return None
        alike = [place for place, name in enumerate(data.classes) if name in data.alike]
        kind_of = np.arange(len(data.classes), dtype=np.int64)
        kind_of[alike] = alike[:1]
        kinds = kind_of[data.labels]
        if len(np.unique(kinds)) < 2:  # noqa: PLR2004
            return None
        kept = np.concatenate([_some(np.flatnonzero(kinds == kind)) for kind in np.unique(kinds)])
        return cls(data.looks[kept], kinds[kept], kind_of)

    def evidence(self, looks: FloatArray) -> FloatArray:
        """What is to be added to the logits of examples with these ``looks`` (n, d): float32 (n, C).

        Raises ``DataError`` where these aren't of the labelled ones' form.
        """
        if looks.shape[1:] != self.looks.shape[1:]:
            raise DataError("the labelled examples were described by another version: `edge run` describes them anew")
        parts = [self._evidence(looks[start : start + CHUNK]) for start in range(0, len(looks), CHUNK)]
        return np.concatenate([np.empty((0, len(self.kind_of)), np.float32), *parts])

    def _evidence(self, looks: FloatArray) -> FloatArray:
        present = np.unique(self.kinds)
        near = np.stack([_distance(looks, self.looks[self.kinds == kind]) for kind in present], axis=1)
        voices = -np.log(near + FLOOR)
        of_kind = np.zeros((len(looks), len(self.kind_of)))
        of_kind[:, present] = voices - voices.mean(axis=1, keepdims=True)
        return of_kind[:, self.kind_of].astype(np.float32)


def _some(places: NDArray[np.int64]) -> NDArray[np.int64]:
    return places[np.linspace(0, len(places) - 1, min(len(places), MOST)).round().astype(np.int64)]


def _distance(looks: FloatArray, labelled: FloatArray) -> NDArray[np.float64]:
    """The mean squared difference (n,) from the ``NEAREST`` of ``labelled`` (m, d), a mean over these too."""
    one, other = looks.astype(np.float64), labelled.astype(np.float64)
    squares = (one * one).sum(axis=1)[:, None] + (other * other).sum(axis=1) - 2 * one @ other.T
    count = min(NEAREST, len(labelled))
    nearest = np.partition(squares, count - 1, axis=1)[:, :count]
    return np.asarray(np.maximum(nearest, 0).mean(axis=1) / looks.shape[1])
