"""What stands in a row of the journal: messages as JSON, and plain values."""

from __future__ import annotations

from typing import TypeVar

from pydantic import ValidationError

from coordinator.database import Value
from schemas.errors import StateError
from schemas.messages import Message

M = TypeVar("M", bound=Message)


def message(kind: type[M], value: Value) -> M:
    """A message from its JSON in a row. Raises ``StateError`` where that is not what was written."""
    try:
        return kind.model_validate_json(text(value))
    except ValidationError:
        raise StateError(
            f"the journal holds a {kind.__name__} that can't be read: start a new run with --fresh, which sets the "
            "directory aside with its models, or choose another --state directory"
        ) from None


# The schema's STRICT tables make these types certain; the type checker can't read SQL.


def text(value: Value) -> str:
    """Of a TEXT column."""
    assert isinstance(value, str)
    return value


def raw(value: Value) -> bytes:
    """Of a BLOB column."""
    assert isinstance(value, bytes)
    return value


def integer(value: Value) -> int:
    """Of an INTEGER column."""
    assert isinstance(value, int)
    return value


def optional(value: Value) -> str | None:
    """Of a TEXT column that may be NULL."""
    return None if value is None else text(value)
