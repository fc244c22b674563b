"""The link over MQTT: which connection comes after which, and what outlives them.

One thread a link owns the socket and paho's state; every verb leaves its wish in a mailbox and wakes that thread.
MQTT 5 is tried first. A broker that refuses it, or hangs up on it, is asked again at once in 3.1.1.
"""

from __future__ import annotations

import random
import threading
import time
from typing import Final

from schemas.link.backoff import UNSUPPORTED_VERSION, Draw, Verdict
from schemas.link.link import Disconnected, Qos, Sink, Will
from schemas.link.mailbox import Mailbox
from schemas.link.mqtt_connection import GOODBYE_S, Connection
from schemas.link.mqtt_settings import MqttSettings

__all__ = ["MqttLink", "MqttSettings"]

_SILENCE_S: Final = 3.0  # after which a broker that doesn't answer MQTT 5 is asked in 3.1.1


class MqttLink:
    """A ``Link`` to an MQTT broker. Any verb may be called from any thread, ``close`` not from the sink."""

    def __init__(
        self,
        settings: MqttSettings,
        sink: Sink,
        will: Will | None = None,
        *,
        draw: Draw | None = None,
        gated: bool = False,
    ) -> None:
        """``draw`` is where the jitter between attempts comes from; ``gated``: see ``Link``.

        Raises ``SettingsError`` for unusable certificates.
        """
        self._settings = settings
        self._sink = sink
        self._will = will
        self._draw = draw or random.Random()  # noqa: S311 - jitter, not a secret
        self._tls = settings.tls_context()
        self._mqtt5 = settings.mqtt5  # what the broker speaks, once we know
        self._mailbox = Mailbox(settings.bulk_window, gated=gated)
        self._thread = threading.Thread(target=self._run, name=f"mqtt-{settings.client_id}", daemon=True)

    def open(self) -> None:
        """Start connecting; ``Connected`` or ``Disconnected`` follows."""
        self._thread.start()

    def publish(self, topic: str, payload: bytes, *, qos: Qos = 1, retain: bool = False, bulk: bool = False) -> int:
        """Queue a publication; see ``Link``."""
        return self._mailbox.publish(topic, payload, qos=qos, retain=retain, bulk=bulk)

    def subscribe(self, *filters: str, qos: Qos = 1) -> int:
        """Subscribe; see ``Link``."""
        return self._mailbox.subscribe(filters, qos)

    def release(self, connection: int) -> None:
        """Let publications through; see ``Link``."""
        self._mailbox.release(connection)

    def unsubscribe(self, *filters: str) -> None:
        """Forget subscriptions; see ``Link``."""
        self._mailbox.unsubscribe(filters)

    def close(self, farewell: Will | None = None, timeout_s: float = 5.0) -> None:
        """Say goodbye, flush, disconnect, stop; see ``Link``."""
        if farewell is not None:
            self.publish(farewell.topic, farewell.payload, retain=True)
        self._mailbox.close(timeout_s)
        if self._thread.ident is None:
            self._mailbox.end()
        else:
            # Past its limit the thread may still be in a look-up or a handshake; those end by themselves.
            self._thread.join(timeout_s + 2 * GOODBYE_S)

    def _run(self) -> None:
        mailbox, backoff = self._mailbox, self._settings.backoff
        failures = 0
        while not mailbox.done:
            began = time.monotonic()
            verdict = self._attempt()
            again = mailbox.disconnected()
            if mailbox.closing.is_set():
                break
            failures = 1 if time.monotonic() - began >= backoff.settled_s else failures + 1
            wait_s = None if verdict.fatal else backoff.wait_s(failures, self._draw)
            self._sink(Disconnected(verdict.error, fatal=verdict.fatal, retry_in_s=wait_s, again=again))
            mailbox.closing.wait(wait_s)
        self._sink(Disconnected())
        mailbox.end()

    def _attempt(self) -> Verdict:
        """Connect, and serve the connection until it ends."""
        patience_s = self._settings.connect_timeout_s
        if self._mqtt5 is None:
            patience_s = min(patience_s, _SILENCE_S)
        connection = self._connection(mqtt5=self._mqtt5 is not False)
        verdict = connection.serve(patience_s)
        if self._mqtt5 is None and connection.may_be_too_new and not self._mailbox.closing.is_set():
            connection = self._connection(mqtt5=False)
            verdict = connection.serve(self._settings.connect_timeout_s)
        if connection.accepted:
            self._mqtt5 = connection.mqtt5
        elif connection.refusal == UNSUPPORTED_VERSION:
            self._mqtt5 = self._settings.mqtt5
        return verdict

    def _connection(self, *, mqtt5: bool) -> Connection:
        return Connection(self._settings, self._tls, self._will, self._mailbox, self._sink, mqtt5=mqtt5)
