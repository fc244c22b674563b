"""paho's client with a way of its own to read: in large pieces, most messages shortly, and none past a bound."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Final, Literal

import paho.mqtt.client as paho
from paho.mqtt.enums import MQTTErrorCode, MQTTProtocolVersion

from schemas.link import publish_packet
from schemas.link.buffered import AHEAD, BufferedSocket
from schemas.link.publish_packet import Published

LARGEST: Final = 17 * 2**20  # bytes of a packet that we let MQTT 5 brokers send: the largest part, enveloped
_KEPT: Final = 512 * 1024  # of one that is larger all the same: more than any JSON has, less than all of a part
_QOS: Final = 0x06  # of a PUBLISH's first byte
_QOS_2: Final = 0x04
_REASON: Final = 2  # where it stands in MQTT 5's PUBACK, behind the packet id
_TOO_LARGE: Final = 0x95  # MQTT 5's "packet too large"
_REFUSED: Final = 0x80  # its "unspecified error"


class Client(paho.Client):
    """paho's, over a socket that is read and written in large pieces, with a short way for most messages."""

    hear: Callable[[Published], None]
    thrown_away: int = 0  # packet id of the newest publication that the broker found too large

    def _sock_recv(self, bufsize: int) -> bytes:
        if self._in_packet["remaining_length"] > LARGEST:
            bufsize = min(bufsize, AHEAD)  # so that little is there before the rest of it is dropped
        return super()._sock_recv(bufsize)

    def _packet_read(self) -> MQTTErrorCode:
        """What no broker of MQTT 5 sends, others do: of a packet that is too large the start is kept, to be refused."""
        code = super()._packet_read()
        if self._in_packet["remaining_length"] > LARGEST:
            del self._in_packet["packet"][_KEPT:]
        return code

    def _handle_publish(self) -> MQTTErrorCode:
        packet = self._in_packet
        if packet["command"] & _QOS == _QOS_2:  # we ask for none, and paho would keep each until it is released
            return MQTTErrorCode.MQTT_ERR_PROTOCOL
        message = publish_packet.read(
            packet["command"], packet["packet"], mqtt5=self.protocol == MQTTProtocolVersion.MQTTv5
        )
        if message is None:
            return super()._handle_publish()
        self.hear(message)
        return MQTTErrorCode.MQTT_ERR_SUCCESS

    def _handle_pubackcomp(self, cmd: Literal["PUBACK", "PUBCOMP"]) -> MQTTErrorCode:
        """MQTT 5 has "too large" in no PUBACK, so paho fails at it; mosquitto's message_size_limit says it in one."""
        packet = self._in_packet["packet"]
        if self.protocol == MQTTProtocolVersion.MQTTv5 and packet[_REASON : _REASON + 1] == bytes([_TOO_LARGE]):
            self.thrown_away = int.from_bytes(packet[:_REASON], "big")
            packet[_REASON] = _REFUSED
        return super()._handle_pubackcomp(cmd)

    def _create_socket(self) -> BufferedSocket:
        sock = super()._create_socket()
        assert isinstance(sock, socket.socket)  # not a websocket's wrapper
        return BufferedSocket(sock)
