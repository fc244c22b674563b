"""paho's client with a way of its own to read: in large pieces, most messages shortly, and none past a bound."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Final

import paho.mqtt.client as paho
from paho.mqtt.enums import MQTTErrorCode, MQTTProtocolVersion

from schemas.link import publish_packet
from schemas.link.buffered import AHEAD, BufferedSocket
from schemas.link.publish_packet import Published

LARGEST: Final = 17 * 2**20  # bytes of a packet that we let MQTT 5 brokers send: the largest part, enveloped
_KEPT: Final = 512 * 1024  # of one that is larger all the same: more than any JSON has, less than all of a part
_QOS: Final = 0x06  # of a PUBLISH's first byte
_QOS_2: Final = 0x04


class Client(paho.Client):
    """paho's, over a socket that is read and written in large pieces, with a short way for most messages."""

    hear: Callable[[Published], None]

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

    def _create_socket(self) -> BufferedSocket:
        sock = super()._create_socket()
        assert isinstance(sock, socket.socket)  # not a websocket's wrapper
        return BufferedSocket(sock)
