"""How a source is set: ``KIND:PLACE?OPTION=VALUE&OPTION=VALUE``. Each kind reads its own options from here."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from edge.live.source import Clock, Lead, LiveSource
from schemas.counted import counted
from schemas.errors import SettingsError

if TYPE_CHECKING:  # it brings ssl along, 4 MB of a child that records from a serial port
    from schemas.link.mqtt_settings import MqttSettings

FASTEST: Final = 10_000.0  # Hz; no ECG is sampled faster, and no file grows faster than a card takes
MOST_LEADS: Final = 32


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What sources are given beside their setting."""

    clock: Clock
    mqtt: Callable[[str], MqttSettings] | None = None  # how a client of this name connects to the device's own broker


# Raises ``SourceLost`` where the source isn't there, and ``SettingsError`` where it can't be what was set.
Opener = Callable[[], LiveSource]


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of source: how its setting is written, what it is, and how it is opened.

    ``read`` reads the setting alone, so that a mistake is told where nothing is plugged in: it raises
    ``SettingsError``, looks at no device, and gives what opens the source.
    """

    form: str
    what: str
    example: str
    read: Callable[[Options, Surroundings], Opener]


class Options:
    """What follows a source's name in its setting. Each mistake is a ``SettingsError`` that quotes the form."""

    def __init__(self, text: str, form: str) -> None:
        """``text`` is the whole setting, ``form`` how it is to be written."""
        _, _, rest = text.partition(":")
        self.place, _, query = rest.partition("?")
        self._form = form
        self._given: dict[str, str] = {}
        self._known: list[str] = []
        for item in query.split("&") if query else ():
            name, equals, value = item.partition("=")
            if not (name and equals):
                raise self.wrong(f"{item!r} is no option: write name=value")
            self._given[name] = value
        if not self.place:
            raise self.wrong("it doesn't say where")

    def text(self, name: str, default: str = "") -> str:
        """An option's text."""
        self._known.append(name)
        return self._given.get(name, default)

    def number(self, name: str, default: float | None = None, *, least: float, most: float) -> float:
        """A number between ``least`` and ``most``, both included; one without a default must be given."""
        given = self.text(name)
        if not given:
            if default is None:
                raise self.wrong(f"add {name}=")
            return default
        try:
            value = float(given)
        except ValueError:
            value = math.nan
        if not least <= value <= most:
            raise self.wrong(f"{name}={given} isn't between {least:g} and {most:g}")
        return value

    def rate(self, default: float | None = None) -> float:
        """Samples a second."""
        return self.number("rate", default, least=1.0, most=FASTEST)

    def scale(self, step: float = 1.0) -> Scale:
        """What a value of the source's means: (value - zero) * scale mV; ``step`` unless given."""
        zero = self.number("zero", 0.0, least=-1e9, most=1e9)
        return Scale(zero, self.number("scale", step, least=-1e6, most=1e6))

    def leads(self, count: int | None = None) -> tuple[Lead, ...]:
        """The leads' names, as many as ``count`` where that is known; ``ecg`` for a single one without a name."""
        given = [name.strip() for name in self.text("leads").split(",") if name.strip()]
        wanted = count if count is not None else max(1, len(given))
        names = given or ([f"ecg{number}" for number in range(1, wanted + 1)] if wanted > 1 else ["ecg"])
        if len(names) != wanted or len(set(names)) != wanted or wanted > MOST_LEADS:
            raise self.wrong(
                f"leads= is to name {counted(wanted, 'lead')}, each by a name of its own (at most {MOST_LEADS})"
            )
        return tuple(Lead(name) for name in names)

    def done(self) -> None:
        """Raise where there is an option that nobody asked for."""
        for name in self._given:
            if name not in self._known:
                raise self.wrong(f"{name!r} is no option of it; these are: {', '.join(dict.fromkeys(self._known))}")

    def wrong(self, why: str) -> SettingsError:
        """The error that says so."""
        return SettingsError(f"this source can't be used: {why}. It is written {self._form}")


@dataclass(frozen=True, slots=True)
class Scale:
    """From a source's own unit to mV."""

    zero: float  # the value of 0 mV
    step: float  # mV a unit

    def mv(self, values: Sequence[float]) -> list[float]:
        """Values in mV."""
        zero, step = self.zero, self.step
        return [(value - zero) * step for value in values]
