"""Signals as they are taken: a sensor, a wire, a network, or a recording played again. One file for each kind.

A sibling of ``edge.sources``, which reads what is recorded. Nothing here imports numpy but ``replay``, when it opens a
recording.
"""

from __future__ import annotations

from typing import Final

from edge.live import iio, mqtt, replay, serial, tcp
from edge.live.setting import Kind, Options, Surroundings
from edge.live.source import LiveSource
from schemas.errors import SettingsError

SOURCES: Final[dict[str, Kind]] = {
    "iio": iio.KIND,
    "serial": serial.KIND,
    "tcp": tcp.KIND,
    "mqtt": mqtt.KIND,
    "replay": replay.KIND,
}


def open_source(text: str, surroundings: Surroundings) -> LiveSource:
    """Open what the setting names. Raises ``SettingsError`` where it is wrong, ``SourceLost`` where it isn't there."""
    name = text.partition(":")[0]
    if name not in SOURCES:
        forms = "; ".join(kind.form for kind in SOURCES.values())
        raise SettingsError(f"there is no source {name!r}; these are: {forms}")
    kind = SOURCES[name]
    return kind.open(Options(text, kind.form), surroundings)


def description(text: str) -> str:
    """The setting without its options, among which may be a password."""
    return text.partition("?")[0]
