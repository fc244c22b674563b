"""Where a broker is, as a user writes it: ``mqtt[s]://[user[:password]@]host[:port]``."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, field, replace
from typing import Final, Self
from urllib.parse import SplitResult, unquote, urlsplit

from schemas.errors import SettingsError

_PORTS: Final = {"mqtt": 1883, "mqtts": 8883}
_FORM: Final = "write mqtt://host, or mqtts://user:password@host:8883 with TLS and a login"
_LABEL: Final = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?", re.ASCII)


@dataclass(frozen=True, slots=True)
class BrokerAddress:
    """A broker's address and the login it carries; ``str`` leaves the login out, so that it can be logged."""

    host: str
    port: int
    tls: bool = False
    username: str | None = None
    password: str | None = field(default=None, repr=False)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read an address; IPv6 stands in brackets, special characters of a login are percent-encoded.

        Raises ``SettingsError`` that says what to write instead.
        """
        if not text:
            raise SettingsError(f"no broker is given: {_FORM}")
        shown = re.sub(r"//.*@", "//***@", text)  # a password must not end up in a log
        try:
            url = urlsplit(text)
            port = url.port
        except ValueError as error:
            raise SettingsError(f"broker {shown!r}: {str(error).lower()}; {_FORM}") from None
        if url.scheme not in _PORTS or "//" not in text:
            raise SettingsError(f"broker {shown!r} must begin with mqtt:// or mqtts://; {_FORM}")
        if url.path not in {"", "/"} or url.query or url.fragment:
            raise SettingsError(f"broker {shown!r} must end after the port (in a login, write / as %2F); {_FORM}")
        if not _is_host(url.hostname or ""):
            raise SettingsError(f"broker {shown!r} names no host we could look up; {_FORM}")
        if port == 0:
            raise SettingsError(f"broker {shown!r}: port 0 can't be connected to; {_FORM}")
        username, password = _login(url, shown)
        return cls(url.hostname or "", port or _PORTS[url.scheme], url.scheme == "mqtts", username, password)

    def with_login(self, username: str, password: str) -> Self:
        """This address with the login filled in where it carries none; an empty string stands for none.

        Raises ``SettingsError`` for a password without a user name: MQTT 3.1.1 can't send that.
        """
        filled = replace(self, username=self.username or username or None, password=self.password or password or None)
        if filled.password and not filled.username:
            raise SettingsError("a password is given for the broker but no user name: add username")
        return filled

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"mqtt{'s' if self.tls else ''}://{host}:{self.port}"


def _login(url: SplitResult, shown: str) -> tuple[str | None, str | None]:
    username = unquote(url.username) if url.username else None
    password = unquote(url.password) if url.password else None
    if password and not username:
        raise SettingsError(f"broker {shown!r} has a password but no user name; {_FORM}")
    return username, password


def _is_host(host: str) -> bool:
    """Whether a name or a literal address is one that can be looked up; a resolver's own errors are less clear."""
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        labels = host.removesuffix(".").split(".")
        return len(host) <= 253 and all(_LABEL.fullmatch(label) for label in labels)  # noqa: PLR2004 - RFC 1035
    return True
