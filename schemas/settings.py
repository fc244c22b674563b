"""How both ends read their settings: flags over environment over TOML file over defaults, one precedence.

Also the settings both ends must share to find each other: broker, federation, topic root, credentials. Environment
names are ``FEDBEAT_`` and the setting's name in capitals; ``__`` goes one table deeper (``FEDBEAT_TRAIN__EPOCHS``);
a whole table or list is JSON. Read here and not by pydantic-settings, which a waiting device would carry all day: it
brings asyncio, argparse and dotenv along, 3 MB of the 45 that an agent may have.
"""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar, get_origin

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError

from schemas.errors import SettingsError
from schemas.link.address import BrokerAddress
from schemas.link.mqtt_settings import MqttSettings
from schemas.messages import Name

NAME_IN_WORDS = "3 to 63 lower-case letters, digits and hyphens, beginning with a letter or digit"
PREFIX: Final = "FEDBEAT_"
DEEPER: Final = "__"
NEAR: Final = 0.85  # of difflib's ratio: one letter wrong, missing or doubled, or two in a long name
_log = logging.getLogger(__name__)
_PASSWORD = re.compile(r"(://[^:/@]*:)[^@]*@")  # in a broker's address


class LinkSettings(BaseModel):
    """Where the federation is, and how to be let in."""

    # A command reads the settings of one kind, and would carry what validates all of them.
    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)

    broker: str = Field("", description="mqtt[s]://[user[:password]@]host[:port]")
    federation: Name = Field("home", description="name of the federation, one topic level")
    root: str = Field("fl", description="first level of every topic")
    username: str = Field("", description="where the broker's address doesn't carry it")
    password: SecretStr = Field(SecretStr(""), description="better in the environment or a file only the service reads")
    ca: Path | None = Field(None, description="certificates to trust for mqtts; the system's unless given")
    cert: Path | None = Field(None, description="this client's certificate, for mqtts")
    key: Path | None = Field(None, description="and its private key")
    keepalive: Annotated[int, Field(ge=1, le=3600)] = Field(
        30, description="seconds of silence after which a connection is tried; it counts as dead after 2.5 times that"
    )

    def mqtt(self, client_id: str, broker: str | None = None, *, session_expiry_s: int = 0) -> MqttSettings:
        """How ``client_id`` connects, to ``broker`` where given, else to the one of the settings.

        Raises ``SettingsError`` where no broker is known.
        """
        if not (broker or self.broker):
            raise SettingsError("no broker is given: add --broker mqtt://HOST, or broker = in the settings file")
        address = BrokerAddress.parse(broker or self.broker)
        if self.username or address.username:  # either may come with the password of the settings
            address = address.with_login(self.username, self.password.get_secret_value())
        return MqttSettings(
            address,
            client_id,
            ca=self.ca,
            cert=self.cert,
            key=self.key,
            keepalive_s=self.keepalive,
            session_expiry_s=session_expiry_s,
        )


S = TypeVar("S", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Origin:
    """One setting as it came out, and which source said so."""

    name: str
    value: object
    source: str


def load(settings: type[S], flags: Mapping[str, Any], config: Path | None) -> tuple[S, tuple[Origin, ...]]:
    """Read ``settings`` from flags (those given), environment and the TOML file ``config``.

    Returns the validated settings and where each one came from. Raises ``SettingsError`` naming what is wrong.
    """
    for name, near in _misspelt(settings.model_fields):
        _log.warning("%s in the environment is no setting of this command: did you mean %s?", name, near)
    sources: dict[str, dict[str, Any]] = {"flag": dict(flags), "environment": _environment(settings, os.environ)}
    if config is not None:
        sources[f"{config}"] = _file(config)
    merged: dict[str, Any] = {}
    for values in reversed(sources.values()):
        merged = _over(merged, values)
    try:
        read = settings.model_validate(merged)
    except ValidationError as error:
        raise SettingsError(_explain(error, settings.model_fields, sources)) from None
    return read, tuple(_origins(read, sources))


def _file(config: Path) -> dict[str, Any]:
    import tomllib  # noqa: PLC0415 - many a device has no file

    try:
        return tomllib.loads(config.read_text(encoding="utf-8-sig"))  # as some editors mark it
    except OSError as error:
        raise SettingsError(f"can't read the settings file {config}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:  # of its syntax, its text, its numbers, its depth
        raise SettingsError(f"{config} is not valid TOML: {error}") from None


def _misspelt(known: Collection[str]) -> Iterator[tuple[str, str]]:
    """Variables that are nearly one of ours, and which; others may be of another command with the same environment."""
    for name in sorted(os.environ):
        if name.upper().startswith(PREFIX):
            setting, *entries = name.upper().removeprefix(PREFIX).lower().split(DEEPER)
            if setting in known:
                continue
            import difflib  # noqa: PLC0415 - for a mistake alone

            if near := difflib.get_close_matches(setting, known, 1, NEAR):
                yield name, DEEPER.join((PREFIX + near[0].upper(), *(entry.upper() for entry in entries)))


def _environment(settings: type[BaseModel], environment: Mapping[str, str]) -> dict[str, Any]:
    """What the environment says of known settings, whatever the case of its names; other names are not ours."""
    entries = {name.lower(): value for name, value in environment.items()}
    values: dict[str, Any] = {}
    for field, about in settings.model_fields.items():
        name, form = f"{PREFIX}{field}".lower(), get_origin(about.annotation)
        if name in entries:
            values[field] = entries[name] if form not in {dict, tuple} else _json(field, form, entries[name])
        if form is dict:
            inside = (each for each in entries if each.startswith(name + DEEPER))
            for each in inside:
                table: Any = entries[each]
                for step in reversed(each.removeprefix(name + DEEPER).split(DEEPER)):
                    table = {step: table}
                values = _over(values, {field: table})
    return values


def _json(name: str, form: object, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        better = "give a table's settings one by one, as FEDBEAT_TRAIN__EPOCHS" if form is dict else 'write ["a", "b"]'
        raise SettingsError(f'{PREFIX}{name.upper()}: "{name}" as a whole must be JSON; {better}') from None


def _over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """``above`` over ``below``, entry by entry where both are tables."""
    merged = dict(below)
    for name, value in above.items():
        before = merged.get(name)
        merged[name] = _over(before, value) if isinstance(before, Mapping) and isinstance(value, Mapping) else value
    return merged


def _explain(error: ValidationError, known: Collection[str], sources: Mapping[str, dict[str, Any]]) -> str:
    lines = []
    for item in error.errors():
        name = ".".join(str(step) for step in item["loc"])
        source = _source(item["loc"], sources)
        if item["type"] == "extra_forbidden":
            import difflib  # noqa: PLC0415 - for a mistake alone

            near = difflib.get_close_matches(name, known, 1)
            meant = f"did you mean {near[0]!r}?" if near else "--show-config lists all"
            lines.append(f"unknown setting {name!r} (from {source}); {meant}")
        elif item["type"] == "string_pattern_mismatch":
            lines.append(f"{name} (from {source}): {item['input']!r} can't stand in a topic, use {NAME_IN_WORDS}")
        elif item["type"] == "literal_error":
            lines.append(f"{name} = {item['input']!r} (from {source}): choose {item['ctx']['expected']}")
        else:
            given = "" if name == "password" else f" = {item['input']!r}"
            lines.append(f"{name}{given} (from {source}): {item['msg'].lower()}")
    return "; ".join(lines)


def _source(path: tuple[int | str, ...], sources: Mapping[str, dict[str, Any]]) -> str:
    """The first source that has a value at ``path``, or at the part of it that leads into a table."""
    for name, values in sources.items():
        here: Any = values
        for step in path:
            if not isinstance(here, dict) or step not in here:
                break
            here = here[step]
        else:
            return name
    return next((name for name, values in sources.items() if path and path[0] in values), "default")


def _origins(settings: BaseModel, sources: Mapping[str, dict[str, Any]]) -> Iterator[Origin]:
    for name, value in settings:
        if isinstance(value, Mapping) and value:
            yield from (Origin(f"{name}.{key}", v, _source((name, key), sources)) for key, v in value.items())
        else:
            yield Origin(name, value, _source((name,), sources))


def table(origins: tuple[Origin, ...]) -> str:
    """Settings as ``--show-config`` prints them: name, value, source. Passwords stay hidden."""
    width = max(len(origin.name) for origin in origins)
    values = [_PASSWORD.sub(r"\1***@", "" if o.value is None else str(o.value)) for o in origins]
    column = min(40, max(map(len, values)))
    rows = (f"{o.name:{width}}  {value:{column}}  {o.source}" for o, value in zip(origins, values, strict=True))
    return "\n".join(rows)
