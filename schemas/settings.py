"""How both ends read their settings: flags over environment over TOML file over defaults, one precedence.

Also the settings both ends must share to find each other: broker, federation, topic root, credentials. Environment
names are ``FEDBEAT_`` and the setting's name in capitals; ``__`` goes one table deeper (``FEDBEAT_TRAIN__EPOCHS``).
"""

from __future__ import annotations

import difflib
import logging
import os
import re
import tomllib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)
from pydantic_settings import SettingsError as UnreadableSetting

from schemas.errors import SettingsError
from schemas.link.address import BrokerAddress
from schemas.link.mqtt_settings import MqttSettings
from schemas.messages import Name

NAME_IN_WORDS = "3 to 63 lower-case letters, digits and hyphens, beginning with a letter or digit"
PREFIX = "FEDBEAT_"
NEAR = 0.85  # of difflib's ratio: one letter wrong, missing or doubled, or two in a long name
_log = logging.getLogger(__name__)
_PASSWORD = re.compile(r"(://[^:/@]*:)[^@]*@")  # in a broker's address


class LinkSettings(BaseSettings):
    """Where the federation is, and how to be let in."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, env_nested_delimiter="__", extra="forbid", frozen=True)

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
        if self.username:
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


S = TypeVar("S", bound=BaseSettings)


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
    _check_readable(config)
    sources: dict[str, dict[str, Any]] = {}

    class Sourced(settings):  # type: ignore[misc, valid-type]  # a class that knows this call's file
        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,
            dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - the signature is the library's
            file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - the signature is the library's
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            toml = TomlConfigSettingsSource(settings_cls, config) if config else None
            ordered = [("flag", init_settings), ("environment", env_settings), (f"{config}", toml)]
            present = [(name, source) for name, source in ordered if source is not None]
            sources.update({name: source() for name, source in present})
            return tuple(source for _, source in present)

    for name, near in _misspelt(settings.model_fields):
        _log.warning("%s in the environment is no setting of this command: did you mean %s?", name, near)
    try:
        read = Sourced(**flags)
    except ValidationError as error:
        raise SettingsError(_explain(error, settings.model_fields, sources)) from None
    except UnreadableSetting as error:  # a table in the environment that is no JSON
        raise SettingsError(f"{error}: give a table's settings one by one, as FEDBEAT_TRAIN__EPOCHS") from None
    plain = settings.model_construct(**{name: getattr(read, name) for name in settings.model_fields})
    return plain, tuple(_origins(plain, sources))  # type: ignore[return-value]  # mypy widens S in model_construct


def _check_readable(config: Path | None) -> None:
    if config is None:
        return
    try:
        tomllib.loads(config.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"can't read the settings file {config}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:  # of its syntax, its text, its numbers, its depth
        raise SettingsError(f"{config} is not valid TOML: {error}") from None


def _misspelt(known: Collection[str]) -> Iterator[tuple[str, str]]:
    """Variables that are nearly one of ours, and which; others may be of another command with the same environment."""
    for name in sorted(os.environ):
        if name.upper().startswith(PREFIX):
            setting, *entries = name.upper().removeprefix(PREFIX).lower().split("__")
            near = [] if setting in known else difflib.get_close_matches(setting, known, 1, NEAR)
            if near:
                yield name, "__".join((PREFIX + near[0].upper(), *(entry.upper() for entry in entries)))


def _explain(error: ValidationError, known: Collection[str], sources: Mapping[str, dict[str, Any]]) -> str:
    lines = []
    for item in error.errors():
        name = ".".join(str(step) for step in item["loc"])
        source = _source(item["loc"], sources)
        if item["type"] == "extra_forbidden":
            near = difflib.get_close_matches(name, known, 1)
            meant = f"did you mean {near[0]!r}?" if near else "--show-config lists all"
            lines.append(f"unknown setting {name!r} (from {source}); {meant}")
        elif item["type"] == "string_pattern_mismatch":
            lines.append(f"{name} (from {source}): {item['input']!r} can't stand in a topic, use {NAME_IN_WORDS}")
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


def _origins(settings: BaseSettings, sources: Mapping[str, dict[str, Any]]) -> Iterator[Origin]:
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
