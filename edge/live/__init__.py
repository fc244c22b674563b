"""Signals as they are taken: a sensor, a wire, a network, or a recording played again. One file for each kind.

A sibling of ``edge.sources``, which reads what is recorded. A kind's file is imported when it is used: what it needs
(Bluetooth, MQTT, WFDB) is not in the memory of who records by another.
"""

from __future__ import annotations

from importlib import import_module
from typing import Final

from edge.live.setting import Kind, Opener, Options, Surroundings
from edge.live.source import LiveSource
from schemas.errors import SettingsError

KINDS: Final = ("iio", "serial", "tcp", "mqtt", "polar", "replay")  # each the name of its file


def kind(name: str) -> Kind:
    """One of ``KINDS``."""
    found: Kind = import_module(f"{__name__}.{name}").KIND
    return found


def kinds() -> str:
    """Every kind, for people: how it is written, what it is, and an example."""
    return "\n".join(f"  {each.form}\n      {each.what}\n      such as {each.example}" for each in map(kind, KINDS))


def read(text: str, surroundings: Surroundings) -> Opener:
    """What opens the source that the setting names. Raises ``SettingsError`` where that can never work."""
    name = text.partition(":")[0]
    if name not in KINDS:
        raise SettingsError(f"there is no source {name!r}; these are:\n{kinds()}")
    used = kind(name)
    return used.read(Options(text, used.form), surroundings)


def open_source(text: str, surroundings: Surroundings) -> LiveSource:
    """Open what the setting names. Raises ``SettingsError`` where it is wrong, ``SourceLost`` where it isn't there."""
    return read(text, surroundings)()


def description(text: str) -> str:
    """The setting without its options, among which may be a password."""
    return text.partition("?")[0]
