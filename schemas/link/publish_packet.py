"""The PUBLISH packet as nearly all are, read in a few steps. Pure.

paho makes a table of all of MQTT 5's properties for each message, though none has any: that is half of what a message
costs it. A packet that has some, or is odd in any other way, is left to it. (MQTT 5.0, 3.3; MQTT 3.1.1, 3.3.)
"""

from __future__ import annotations

from typing import Final, NamedTuple

_RETAIN: Final = 0x01
_QOS: Final = 0x06
_DUP: Final = 0x08


class Published(NamedTuple):
    """What a broker sent; ``mid`` is 0 at QoS 0."""

    topic: str
    payload: bytes
    qos: int
    retain: bool
    dup: bool
    mid: int


def read(command: int, packet: bytes | bytearray, *, mqtt5: bool) -> Published | None:
    """A packet's first byte and what follows its length; None for QoS 2, properties, and what is not whole."""
    qos = (command & _QOS) >> 1
    start = 2 + int.from_bytes(packet[:2], "big")
    at = start + 2 * (qos > 0) + mqtt5
    if qos > 1 or start == 2 or len(packet) < at or (mqtt5 and packet[at - 1]):  # noqa: PLR2004 - an alias for a topic
        return None
    try:
        topic = packet[2:start].decode()
    except UnicodeDecodeError:
        return None
    mid = int.from_bytes(packet[start : start + 2], "big") if qos else 0
    return Published(topic, bytes(packet[at:]), qos, bool(command & _RETAIN), bool(command & _DUP), mid)
