"""Labelled examples with their owners, as plain arrays. Pure numpy: nothing here knows files, frameworks or brokers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from numpy.typing import NDArray

from schemas.errors import DataError

FloatArray = NDArray[np.float32]
LabelArray = NDArray[np.int64]
OwnerArray = NDArray[np.str_]
IndexArray = NDArray[np.int64]


@dataclass(frozen=True, eq=False, slots=True)
class Dataset:
    """n examples: valid by construction, in each owner's order of recording. Nobody changes the arrays.

    ``inputs``: one float32 array (n, *shape) for each input of the plan, finite. ``labels``: int64 (n,), each an index
    into ``classes``. ``owners``: str (n,), the person or patient an example belongs to. ``classes``: distinct names.
    ``looks``: float32 (n, d), finite, what examples are compared by with others of their owner, or None where nothing
    is; ``alike``: classes that look the same. Raises ``DataError`` on anything else.
    """

    inputs: tuple[FloatArray, ...]
    labels: LabelArray
    owners: OwnerArray
    classes: tuple[str, ...]
    looks: FloatArray | None = None
    alike: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.inputs:
            raise DataError("a dataset needs at least one input array")
        if not self.classes or len(set(self.classes)) != len(self.classes):
            raise DataError(f"class names must be there and distinct, not {self.classes}")
        examples = len(self.labels)
        if self.labels.shape != (examples,) or self.labels.dtype != np.int64:
            raise DataError(f"labels must be int64 of shape (n,), not {self.labels.dtype} {self.labels.shape}")
        if self.owners.shape != (examples,) or self.owners.dtype.kind != "U":
            raise DataError(f"owners must be strings of shape ({examples},), not {self.owners.shape}")
        for position, array in enumerate(self.inputs):
            if array.dtype != np.float32 or array.ndim < 2 or len(array) != examples:  # noqa: PLR2004  - (n, *shape)
                raise DataError(
                    f"input {position} must be float32 of shape ({examples}, ...), not {array.dtype} {array.shape}"
                )
            if not np.isfinite(array).all():
                raise DataError(f"input {position} holds NaN or infinity: leave those windows out")
        if self.looks is not None and not _are_looks(self.looks, examples):
            raise DataError(f"looks must be finite float32 of shape ({examples}, d)")
        if examples and not 0 <= self.labels.min() <= self.labels.max() < len(self.classes):
            raise DataError(f"labels must lie in 0..{len(self.classes) - 1}, one for each of {self.classes}")

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """The shape of one example of each input, without the batch."""
        return tuple(array.shape[1:] for array in self.inputs)

    def class_counts(self) -> dict[str, int]:
        """Examples per class, absent classes included."""
        counts = np.bincount(self.labels, minlength=len(self.classes))
        return dict(zip(self.classes, map(int, counts), strict=True))

    def owner_counts(self) -> dict[str, int]:
        """Examples per owner, by name."""
        names, counts = np.unique(self.owners, return_counts=True)
        return dict(zip(map(str, names), map(int, counts), strict=True))

    def take(self, indices: IndexArray) -> Self:
        """The examples at ``indices``, in that order."""
        return replace(
            self,
            inputs=tuple(array[indices] for array in self.inputs),
            labels=self.labels[indices],
            owners=self.owners[indices],
            looks=None if self.looks is None else self.looks[indices],
        )

    def split(self, fraction: float) -> tuple[Self, Self]:
        """The older and the newest examples; of each owner the last ``fraction`` (rounded down) are the newest."""
        if not 0 <= fraction < 1:
            raise DataError(f"a fraction to hold out must lie in [0, 1), not {fraction}")
        if not fraction:
            return self, self.take(np.empty(0, dtype=np.int64))
        newest = np.zeros(len(self), dtype=bool)
        for owner in np.unique(self.owners):
            own = np.flatnonzero(self.owners == owner)
            newest[own[len(own) - int(len(own) * fraction + 1e-9) :]] = True  # 0.2 of 10 is 2, not 1.999...
        return self.take(np.flatnonzero(~newest)), self.take(np.flatnonzero(newest))

    def with_classes(self, classes: Sequence[str]) -> Self:
        """The same examples labelled by another list of class names (a plan's), matched by name.

        Raises ``DataError`` where an example's class isn't in ``classes``.
        """
        names = tuple(classes)
        if names == self.classes:
            return self
        present = np.unique(self.labels)
        unknown = sorted({self.classes[label] for label in present} - set(names))
        if unknown:
            raise DataError(
                f"examples are labelled {', '.join(unknown)}, which is not among {', '.join(names)}: "
                "relabel them, or use a plan with these classes"
            )
        table = np.array([names.index(name) if name in names else -1 for name in self.classes], dtype=np.int64)
        return replace(self, labels=table[self.labels], classes=names)


def empty_like(dataset: Dataset) -> Dataset:
    """No examples of the same kind."""
    return dataset.take(np.empty(0, dtype=np.int64))


def concatenate(datasets: Iterable[Dataset]) -> Dataset:
    """All examples of datasets of the same kind, in order; ``DataError`` where kinds differ or none is given.

    They have looks where all parts have.
    """
    parts = tuple(datasets)
    if not parts:
        raise DataError("there is no dataset to concatenate")
    kinds = {(part.shapes, part.classes, part.alike) for part in parts}
    if len(kinds) > 1:
        raise DataError(f"datasets of different kinds can't be joined: {sorted(map(str, kinds))}")
    return Dataset(
        tuple(np.concatenate(arrays) for arrays in zip(*(part.inputs for part in parts), strict=True)),
        np.concatenate([part.labels for part in parts]),
        np.concatenate([part.owners for part in parts]),
        parts[0].classes,
        _joined([part.looks for part in parts]),
        parts[0].alike,
    )


def _are_looks(looks: FloatArray, examples: int) -> bool:
    shaped = looks.dtype == np.float32 and looks.ndim == 2 and len(looks) == examples  # noqa: PLR2004
    return shaped and bool(np.isfinite(looks).all())


def _joined(looks: Sequence[FloatArray | None]) -> FloatArray | None:
    there = [each for each in looks if each is not None]
    if len(there) < len(looks):
        return None
    if len({each.shape[1] for each in there}) > 1:
        raise DataError("datasets whose examples are compared by other looks can't be joined")
    return np.concatenate(there)
