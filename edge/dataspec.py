"""Which recordings are a device's own, in words that travel to the trainer child. Imports no numpy: the agent uses it.

A real device owns everything under its path (``devices=1, index=0``). Devices of a virtual fleet share one path and
each owns a partition of it; the one with index -1 owns what is held out and only evaluates.
"""

from __future__ import annotations

from typing import Annotated, Any, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    field_validator,
    model_validator,
)

from schemas.errors import SettingsError

EVALUATOR = -1  # the index of the device that owns the held-out people and trains on nothing
SYNTHETIC = "synthetic-ecg"  # the word for ECGs of made-up people
PEOPLE = "people:"  # what a rule begins with that names those who are held out
MAX_DEVICES = 10_000
MAX_SHARDS = 1000  # per device
MAX_ALPHA = 1e6  # of Dirichlet: far above, the pieces are even anyway

Path = Annotated[str, StringConstraints(min_length=1, max_length=4096)]


def parse_partition(text: str) -> tuple[str, float]:
    """Split a partition rule into its name and its number (0 where it takes none); ValueError says what is allowed."""
    name, colon, number = text.partition(":")
    if name in {"auto", "owner", "even"} and not colon:
        return name, 0.0
    try:
        value = float(number)
    except ValueError:
        value = -1.0
    if name == "dirichlet" and 0 < value <= MAX_ALPHA:
        return name, value
    if name == "shards" and 1 <= value <= MAX_SHARDS and value.is_integer():
        return name, value
    raise ValueError(
        f"partition {text!r} is not known: use 'auto', 'owner', 'even', 'dirichlet:ALPHA' with ALPHA > 0 "
        f"(such as 'dirichlet:0.5'), or 'shards:K' with K shards per device from 1 to {MAX_SHARDS}"
    )


def parse_held_out(text: str) -> float | None:
    """The fraction a device holds out of its own examples; None where whole people are held out, 0 for nothing."""
    if text == "auto" or parse_people(text):
        return None
    if text == "none":
        return 0.0
    try:
        fraction = float(text)
    except ValueError:
        fraction = -1.0
    if 0 < fraction < 1:
        return fraction
    raise ValueError(
        f"held_out {text!r} is not known: use 'auto', 'none', or a fraction between 0 and 1 such as '0.2', or people "
        f"by their names such as '{PEOPLE}anna,ben'"
    )


def parse_people(text: str) -> tuple[str, ...]:
    """The people whom a rule names; none where it names none."""
    if not text.startswith(PEOPLE):
        return ()
    return tuple(dict.fromkeys(name.strip() for name in text.removeprefix(PEOPLE).split(",") if name.strip()))


class DataSpec(BaseModel):
    """A device's own part of the recordings at ``path``; valid by construction.

    ``partition`` "auto" is by owner where there are owners enough, else evenly. ``held_out`` "auto" is the recipe's
    own rule (whole people, never seen in training), ``people:NAME,...`` names them; a fraction holds out the newest
    examples of this very device.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: Path  # a folder, a file, or the word of a bundled source: `watch`, `sklearn-digits`, `synthetic-ecg`
    partition: str = "auto"
    devices: Annotated[int, Field(ge=1, le=MAX_DEVICES)] = 1
    index: Annotated[int, Field(ge=EVALUATOR)] = 0
    seed: Annotated[int, Field(ge=0, le=2**53)] = 0
    held_out: str = "auto"

    @classmethod
    def of(cls, **about: Any) -> Self:
        """What an owner's settings say. Raises ``SettingsError`` where they make no part of recordings."""
        try:
            return cls.model_validate(about)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "devices"
            raise SettingsError(f"{where}: {first['msg'].removeprefix('Value error, ')}") from None

    @field_validator("partition")
    @classmethod
    def _known_partition(cls, value: str) -> str:
        parse_partition(value)
        return value

    @field_validator("held_out")
    @classmethod
    def _known_held_out(cls, value: str) -> str:
        parse_held_out(value)
        return value

    @property
    def synthetic(self) -> bool:
        """Whether the examples are of made-up people, so that no figure they give says anything about patients."""
        return self.path.partition(":")[0] == SYNTHETIC

    @model_validator(mode="after")
    def _index_within_devices(self) -> Self:
        if self.index >= self.devices:
            raise ValueError(
                f"device index {self.index} is outside 0..{self.devices - 1}: "
                f"count devices from 0, or use {EVALUATOR} for the evaluator"
            )
        return self
