"""How to connect to an MQTT broker, TLS included, as a value."""

from __future__ import annotations

import math
import ssl
from dataclasses import dataclass, field
from pathlib import Path

from schemas.errors import SettingsError
from schemas.link.address import BrokerAddress
from schemas.link.backoff import Backoff


@dataclass(frozen=True, slots=True)
class MqttSettings:
    """How to connect. ``client_id`` must be unique at the broker, or two clients disconnect each other for ever."""

    address: BrokerAddress
    client_id: str
    ca: Path | None = None  # certificates to trust; the system's unless given
    cert: Path | None = None  # ours, with its chain
    key: Path | None = None  # in ``cert`` unless given
    keepalive_s: int = 30
    session_expiry_s: int = 0  # how long the broker keeps our session (3.1.1: as long as it likes); 0: not at all
    bulk_window: int = 8  # bulk publications in flight
    mqtt5: bool | None = None  # whether to speak MQTT 5 rather than 3.1.1; None: find out
    # Messages we read ahead of our acks, which bounds what waits in memory; four times as many where no ack comes for
    # long, since the answers to our pings stand behind them. Whoever holds all of those for two keepalives loses the
    # connection.
    inbound_window: int = 64
    connect_timeout_s: float = 10.0
    # A program that stood still for longer gives its connection up, and publishes nothing over it any more.
    standstill_s: float = math.inf
    backoff: Backoff = field(default_factory=Backoff)

    def tls_context(self) -> ssl.SSLContext | None:
        """What TLS is to check and to show; None without TLS. Raises ``SettingsError`` for unusable files."""
        if not self.address.tls:
            if self.ca or self.cert or self.key:
                raise SettingsError(f"certificates are given, but {self.address} has no TLS: write mqtts://")
            return None
        if self.key and not self.cert:
            raise SettingsError("a private key is given without its certificate: add cert")
        try:
            context = ssl.create_default_context(cafile=self.ca)
        except OSError as error:  # ssl.SSLError is one
            why = error.strerror or error
            raise SettingsError(f"can't read the certificates to trust from {self.ca}: {why}") from None
        try:
            if self.cert:
                context.load_cert_chain(self.cert, self.key)
        except OSError as error:
            key = f"the key {self.key}" if self.key else "a key in the same file, as no key is given"
            why = error.strerror or error
            raise SettingsError(f"can't use the certificate {self.cert} with {key}: {why}") from None
        return context
