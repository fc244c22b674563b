"""One connection to an MQTT broker, by paho-mqtt, which nothing but this and ``mqtt_client`` imports.

We drive paho by its documented calls for foreign event loops, because its own loop reconnects without jitter, fails
past 1024 file descriptors, and lets a large publication delay all others. Every connection gets a fresh paho client,
so that nothing outlives a connection but what the mailbox holds.
"""

from __future__ import annotations

import logging
import math
import selectors
import socket
import ssl
import time
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any, Final

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from schemas.errors import BrokerRefused, BrokerUnreachable, LinkError, PayloadTooLarge
from schemas.link.backoff import UNSUPPORTED_VERSION, Verdict, judge
from schemas.link.buffered import BufferedSocket
from schemas.link.link import Connected, Inbound, Qos, Refused, Sent, Sink, Will
from schemas.link.mailbox import HEADER, Ack, Mailbox, Order, Subscribe, Unsubscribe
from schemas.link.mqtt_client import LARGEST, Client
from schemas.link.mqtt_settings import MqttSettings
from schemas.link.outbound import Publication
from schemas.link.publish_packet import Published
from schemas.link.standstill import Standstill

_log = logging.getLogger(__name__)

_TOPIC: Final = 256  # bytes of a topic that the limit we report leaves room for
_FILTERS_A_PACKET: Final = 64
_UNSENT: Final = 128 * 1024  # bytes the kernel may hold unsent, which an urgent message waits behind
_IN_FLIGHT: Final = 60_000  # packet ids are 16 bits, and subscriptions need some
_STALLED_WINDOWS: Final = 4  # inbound windows that are read ahead of a caller who has stopped to acknowledge
_TICK_S: Final = 5.0  # how often keepalive and time limits are looked at
GOODBYE_S: Final = 0.5  # for the last packet to leave
_SOON_S: Final = 60.0  # after a greeting: a line that breaks then may have been taken over by another client
_HURRY_S: Final = 0.05  # and how often while closing


class Connection:
    """One connection from its first packet to its last, on the link's own thread."""

    def __init__(
        self,
        settings: MqttSettings,
        tls: ssl.SSLContext | None,
        will: Will | None,
        mailbox: Mailbox,
        sink: Sink,
        *,
        mqtt5: bool,
    ) -> None:
        self.mqtt5 = mqtt5
        self.accepted = False
        self._accepted_at = -math.inf  # monotonic
        self.refusal: int | None = None  # the reason code of CONNACK
        self._settings = settings
        self._mailbox = mailbox
        self._sink = sink
        self._farewell: int | None = None  # the reason code of the broker's DISCONNECT
        self._tokens: dict[int, int] = {}  # by packet id
        self._unacknowledged = 0  # messages at QoS 1 that our caller still works on
        self._tick_s = min(_TICK_S, settings.keepalive_s / 4, settings.standstill_s / 2)
        self._standstill = Standstill(settings.standstill_s)
        self._full_since = math.inf  # monotonic: since when as much waits as we read ahead
        self._reached = False
        self._leaving = False  # we have said goodbye
        self._broken = False  # the socket takes no more
        self._deadline = math.inf  # monotonic; the connection ends then
        # By packet id, until answered: the filters, and the token of the order that ends with this packet.
        self._subscriptions: dict[int, tuple[tuple[str, ...], int | None]] = {}
        self._client = self._make_client(tls, will)
        self._address = str(settings.address)

    @property
    def may_be_too_new(self) -> bool:
        """Whether the broker may have turned us away for speaking MQTT 5."""
        unwelcome = self.refusal is None or self.refusal == UNSUPPORTED_VERSION
        return self.mqtt5 and self._reached and not self.accepted and unwelcome

    def _make_client(self, tls: ssl.SSLContext | None, will: Will | None) -> Client:
        settings = self._settings
        client = Client(
            CallbackAPIVersion.VERSION2,
            settings.client_id,
            clean_session=None if self.mqtt5 else not settings.session_expiry_s,
            protocol=MQTTProtocolVersion.MQTTv5 if self.mqtt5 else MQTTProtocolVersion.MQTTv311,
            reconnect_on_failure=False,
            manual_ack=True,
        )
        client.connect_timeout = settings.connect_timeout_s
        client.max_inflight_messages = 0  # no limit of its own: the mailbox has one
        if settings.address.username:
            client.username_pw_set(settings.address.username, settings.address.password)
        if tls:
            client.tls_set_context(tls)
        if will:
            client.will_set(will.topic, will.payload, qos=1, retain=True)
        client.on_socket_register_write = _nothing  # or paho would write to the socket within ``publish``
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_message = self._on_message
        client.hear = self._hear
        client.on_publish = self._on_publish
        client.on_subscribe = self._on_subscribe
        return client

    def serve(self, patience_s: float) -> Verdict:
        """Connect and serve until the connection ends; why it did. ``patience_s`` bounds the wait for CONNACK."""
        settings, client = self._settings, self._client
        greeting: dict[str, Any] = {}
        if self.mqtt5:
            properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]  # paho's own gap
            properties.SessionExpiryInterval = settings.session_expiry_s
            properties.MaximumPacketSize = LARGEST
            properties.ReceiveMaximum = settings.inbound_window
            greeting = {"clean_start": not settings.session_expiry_s, "properties": properties}
        try:
            client.connect(settings.address.host, settings.address.port, settings.keepalive_s, **greeting)
        except OSError as error:
            return judge(error, self._address)
        self._reached = True
        sock = client.socket()
        assert isinstance(sock, BufferedSocket)
        try:
            _prefer_urgent(sock.socket)
            self._deadline = time.monotonic() + patience_s
            self._loop(sock)
        except Exception as error:  # noqa: BLE001  - a mistake in a sink, or of paho's, must not end the link for good
            _log.exception("the connection to %s ends by a mistake in this program", self._address)
            return Verdict(LinkError(f"a mistake of our own ended {self._address}: {error!r}; report it"), fatal=False)
        finally:
            sock.close()
        return self._judge_end()

    def _judge_end(self) -> Verdict:
        if self.refusal is not None:
            return judge(self.refusal, self._address)
        if self._farewell is not None:  # the next greeting's answer tells whether it is for good
            return replace(judge(self._farewell, self._address), fatal=False)
        if self._standstill.lasted_s and self.accepted:
            return Verdict(self._standstill.error, fatal=False)
        if self.accepted:
            # mosquitto 2.0.11 takes a name's connection away without a word, whatever MQTT 5 asks for.
            soon = time.monotonic() - self._accepted_at < _SOON_S
            hint = (
                "; if it does again and again, another client has our name: give every device its own" if soon else ""
            )
            return Verdict(BrokerUnreachable(f"the connection to {self._address} broke{hint}"), fatal=False)
        # Under TLS 1.3 a broker that misses our certificate says so after the handshake, if at all.
        wants = "another certificate of us than it gets (cert and key)" if self._settings.address.tls else "TLS"
        text = (
            f"{self._address} takes connections and doesn't answer MQTT: check the port, and whether it wants {wants}"
        )
        return Verdict(BrokerUnreachable(text), fatal=False)

    def _loop(self, sock: BufferedSocket) -> None:
        """Move bytes until paho has closed its socket, the broker refused us, or the deadline has passed."""
        client, mailbox = self._client, self._mailbox
        tick_s = self._tick_s
        looked = time.monotonic()
        with selectors.DefaultSelector() as selector:
            selector.register(mailbox.wake, selectors.EVENT_READ)
            selector.register(sock, selectors.EVENT_READ)
            while (now := time.monotonic()) < self._deadline and self.refusal is None:
                if self._standstill.over() and self.accepted:
                    if client.want_write() or sock.writing:
                        sock.drop()  # words from before: the last will has to do
                    else:
                        self._leaving = True
                        client.disconnect()
                        self._write(sock)
                    return
                self._send(sock)
                if self._broken or client.socket() is None or (mailbox.done and not self.accepted):
                    return
                full = self._watch(selector, sock)
                limit_s = _HURRY_S if mailbox.closing.is_set() else tick_s
                behind = sock.readable and not full  # more than was read of it the last time
                readable = behind
                for key, ready in selector.select(0.0 if behind else max(0.0, min(limit_s, self._deadline - now))):
                    if key.fileobj is mailbox.wake:
                        mailbox.answer()
                    else:
                        readable = readable or bool(ready & selectors.EVENT_READ)
                if readable:
                    self._read(sock)
                if time.monotonic() - looked >= limit_s:
                    looked = time.monotonic()
                    client.loop_misc()
                if client.socket() is None:
                    return

    def _watch(self, selector: selectors.BaseSelector, sock: BufferedSocket) -> bool:
        """Have the selector tell what we want of the socket; whether too much waits for its acknowledgement to read.

        MQTT 5's receive maximum should see to that, but mosquitto 2.0.11 sends up to all of it at each ack in order.
        Where our caller takes long to acknowledge anything, some more is read: else no answer to a ping would be heard.
        """
        window, now = self._settings.inbound_window, time.monotonic()
        if self._unacknowledged < window:
            self._full_since = math.inf
        else:
            self._full_since = min(self._full_since, now)
        stalled = now - self._full_since >= self._tick_s
        full = self._unacknowledged >= (window * _STALLED_WINDOWS if stalled else window)
        writing = self._client.want_write() or sock.writing
        events = (0 if full else selectors.EVENT_READ) | (selectors.EVENT_WRITE if writing else 0)
        known = selector.get_map().get(sock)
        if events != (known.events if known else 0):
            if known:
                selector.unregister(sock)
            if events:
                selector.register(sock, events)
        return full

    def _send(self, sock: BufferedSocket) -> None:
        """Do what callers ordered, and write as much as may and can be written."""
        client, mailbox = self._client, self._mailbox
        if self.accepted and not self._leaving:
            for order in mailbox.orders():
                self._obey(order)
            while not mailbox.done and (taken := mailbox.take(bulk=False)):
                self._publish(*taken)
            if mailbox.done:
                client.disconnect()
                self._leaving, self._deadline = True, time.monotonic() + GOODBYE_S
        self._write(sock)
        # Bulk goes to paho one at a time, each when the one before has left: paho's own queue knows no order.
        while self.accepted and not (self._leaving or self._broken or client.want_write() or sock.writing):
            if (taken := mailbox.take(bulk=True)) is None:
                return
            self._publish(*taken)
            self._write(sock)

    def _write(self, sock: BufferedSocket) -> None:
        if self._client.want_write():
            self._client.loop_write()
        if self.accepted and not self._leaving and self._standstill.over():
            sock.drop()  # it is from before
            self._broken = True
        elif self._client.socket() is not None:
            try:
                sock.flush()
            except OSError:
                self._broken = True

    def _obey(self, order: Order) -> None:
        match order:
            case Ack(connection, mid):
                if connection is self:
                    self._unacknowledged -= 1
                    self._client.ack(mid, 1)
            case Subscribe(filters, token):
                self._subscribe(filters, token)
            case Unsubscribe(filters):
                self._client.unsubscribe(list(filters))

    def _subscribe(self, filters: Mapping[str, Qos], token: int | None = None) -> None:
        wanted: list[tuple[str, int]] = list(filters.items())
        for start in range(0, len(wanted), _FILTERS_A_PACKET):
            some = wanted[start : start + _FILTERS_A_PACKET]
            if self.mqtt5:
                _, mid = self._client.subscribe([(pattern, SubscribeOptions(qos=qos)) for pattern, qos in some])
            else:
                _, mid = self._client.subscribe(some)
            if mid is not None:
                last = start + _FILTERS_A_PACKET >= len(wanted)
                self._subscriptions[mid] = tuple(pattern for pattern, _ in some), token if last else None

    def _publish(self, publication: Publication, error: LinkError | None) -> None:
        if error is None:
            sent = self._client.publish(
                publication.topic, publication.payload, qos=publication.qos, retain=publication.retain
            )
            if publication.qos:
                self._tokens[sent.mid] = publication.token
        else:
            for token in publication.tokens:
                self._sink(Refused(token, error))

    def _read(self, sock: BufferedSocket) -> None:
        """Read what has come, up to as many messages as may wait for their acknowledgement."""
        self._client.loop_read()
        for _ in range(self._settings.inbound_window):
            full = self._unacknowledged >= self._settings.inbound_window
            if self._client.socket() is None or not sock.readable or full:
                return
            self._client.loop_read()

    # What paho calls, on this same thread.

    def _on_connect(
        self,
        _client: paho.Client,
        _data: object,
        flags: paho.ConnectFlags,
        reason: ReasonCode,
        extras: Properties | None,
    ) -> None:
        if reason.is_failure:
            self.refusal = reason.value
            return
        self.accepted, self._deadline = True, math.inf
        self._accepted_at = time.monotonic()
        largest = getattr(extras, "MaximumPacketSize", None)
        in_flight = min(getattr(extras, "ReceiveMaximum", _IN_FLIGHT), _IN_FLIGHT)
        filters, forgotten, number = self._mailbox.connected(largest=largest, in_flight=in_flight)
        if forgotten:
            self._client.unsubscribe(list(forgotten))
        self._subscribe(filters)
        limit = None if largest is None else max(0, largest - HEADER - _TOPIC)
        self._sink(Connected(flags.session_present, limit, number))

    def _on_disconnect(
        self, _client: paho.Client, _data: object, flags: paho.DisconnectFlags, reason: ReasonCode, _: Properties | None
    ) -> None:
        if flags.is_disconnect_packet_from_server:
            self._farewell = reason.value

    def _on_message(self, _client: paho.Client, _data: object, message: paho.MQTTMessage) -> None:
        try:
            topic = message.topic
        except UnicodeDecodeError:  # no topic of ours, and never will be
            if message.qos:
                self._client.ack(message.mid, message.qos)
            return
        self._hear(Published(topic, bytes(message.payload), message.qos, message.retain, message.dup, message.mid))

    def _hear(self, message: Published) -> None:
        ack = partial(self._mailbox.ack, self, message.mid) if message.qos else _nothing
        self._unacknowledged += message.qos > 0
        qos: Qos = 1 if message.qos else 0
        self._sink(Inbound(message.topic, message.payload, message.retain, message.dup, ack, qos))

    def _on_publish(
        self, _client: paho.Client, _data: object, mid: int, reason: ReasonCode, _extras: Properties | None
    ) -> None:
        publication = self._mailbox.settle(self._tokens.pop(mid, 0))  # tokens begin at 1
        if publication is None:
            return
        too_large = mid == self._client.thrown_away
        refusal = _refusal(publication.topic, reason, too_large=too_large) if reason.is_failure else None
        for one in publication.tokens:
            self._sink(Refused(one, refusal) if refusal else Sent(one))

    def _on_subscribe(
        self, _client: paho.Client, _data: object, mid: int, reasons: list[ReasonCode], _extras: Properties | None
    ) -> None:
        filters, token = self._subscriptions.pop(mid, ((), None))
        for pattern, reason in zip(filters, reasons, strict=False):
            if reason.is_failure:
                self._sink(Refused(None, _refusal(pattern, reason)))
        if token is not None:
            self._sink(Sent(token))


def _refusal(topic: str, reason: ReasonCode, *, too_large: bool = False) -> LinkError:
    if too_large:
        return PayloadTooLarge(f"the broker threw the payload for {topic} away: lower part_size, or raise its limit")
    return BrokerRefused(f"the broker refuses {topic} ({reason}): check its acl, and as whom we connect")


def _nothing(*_: object) -> None:
    """All there is to do to acknowledge QoS 0, and when paho wants to write."""


def _prefer_urgent(sock: socket.socket) -> None:
    """Keep little unsent data in the kernel, where nothing can overtake it, and send small packets at once."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if hasattr(socket, "TCP_NOTSENT_LOWAT"):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _UNSENT)
