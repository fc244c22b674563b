"""Values in a plan as its dry run sees them, shapes and whole numbers, and what rules ask of their arguments. Pure."""

from __future__ import annotations

from collections.abc import Sequence


class Shape(tuple[int, ...]):
    """A tensor's shape; a class of its own, so that a list of numbers isn't taken for one."""

    __slots__ = ()


Value = Shape | int  # what a step gives: a tensor or a whole number


def describe(value: Value) -> str:
    """For people: ``32x16x64``."""
    if isinstance(value, Shape):
        return "x".join(map(str, value)) or "one number"
    return f"the whole number {value}"


def tensor(value: object, rank: int | None = None) -> Shape:
    """``value`` as a shape, of ``rank`` dimensions where given. Raises ``TypeError`` or ``ValueError``."""
    if not isinstance(value, Shape):
        raise TypeError(f"it needs a tensor, not {value!r}")
    if rank is not None and len(value) != rank:
        raise ValueError(f"it needs {rank} dimensions, not {describe(value)}")
    return value


def require(whether: object, text: str) -> None:
    """Raises ``ValueError`` with ``text`` unless ``whether``."""
    if not whether:
        raise ValueError(text)


def axis_of(x: Shape, dim: int, extra: int = 0) -> int:
    """``dim`` counted from the front, in a shape with ``extra`` dimensions more. Raises ``ValueError``."""
    rank = len(x) + extra
    require(-rank <= dim < rank, f"there is no dimension {dim} in {describe(x)}")
    return dim % rank


def each_of(value: Sequence[int] | int, count: int) -> list[int]:
    """A setting of a convolution or pooling for each of its ``count`` dimensions. Raises ``ValueError``."""
    items = list(value) if isinstance(value, Sequence) else [value]
    items = items * count if len(items) == 1 else items
    require(len(items) == count and all(isinstance(item, int) for item in items), f"{value!r} for {count} dimensions")
    return items


def require_plain(setting: object) -> None:
    """ATen takes one number that is a tensor for a setting too, and nobody knows its value before it runs.

    Raises ``ValueError``.
    """
    require(not isinstance(setting, Shape), "a setting must be stated, not computed")


def require_dtype(dtype: object, *others: object) -> None:
    """ATen takes a number for a data type too: a wider one than ``plan_cost`` counts, or one that ends the process.

    ``others`` may stand in its place too. Raises ``ValueError``.
    """
    require(dtype in ("float32", "int64", *others), f"{dtype!r} is no data type here: use float32 or int64")
