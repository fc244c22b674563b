"""The short way reads what paho's own reader reads, or leaves the packet to it."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.link.publish_packet import Published, read

TEXT = st.text(st.characters(codec="utf-8"), min_size=1, max_size=40)


def packet(message: Published, *, mqtt5: bool, properties: bytes = b"") -> tuple[int, bytes]:
    """As MQTT 5.0, 3.3, has it."""
    topic = message.topic.encode()
    body = struct.pack(">H", len(topic)) + topic + (struct.pack(">H", message.mid) if message.qos else b"")
    body += bytes([len(properties)]) + properties if mqtt5 else b""
    return 0x30 | message.dup << 3 | message.qos << 1 | message.retain, body + message.payload


PLAIN = st.builds(
    Published,
    TEXT,
    st.binary(max_size=50),
    qos=st.integers(0, 1),
    retain=st.booleans(),
    dup=st.booleans(),
    mid=st.integers(1, 65535),
).map(lambda message: message if message.qos else message._replace(mid=0))


@given(message=PLAIN, mqtt5=st.booleans())
def test_a_plain_message_is_read_as_it_was_written(*, message: Published, mqtt5: bool) -> None:
    command, body = packet(message, mqtt5=mqtt5)
    assert read(command, bytearray(body), mqtt5=mqtt5) == message


ODD = Published("t", b"x", 1, retain=False, dup=False, mid=7)


@pytest.mark.parametrize(
    ("command", "body"),
    [
        packet(ODD, mqtt5=True, properties=b"\x01\x01"),
        packet(ODD._replace(qos=2), mqtt5=True),
        packet(ODD._replace(topic=""), mqtt5=True),
        (0x32, b"\x00\x02\xff\xfe\x00\x07\x00x"),
        (0x32, b"\x00\x09t\x00\x07\x00"),
        (0x32, b"\x00\x01t\x00\x07"),
        (0x32, b"\x00"),
        (0x30, b""),
    ],
)
def test_anything_else_is_left_to_paho(command: int, body: bytes) -> None:
    assert read(command, body, mqtt5=True) is None


@given(command=st.integers(0x30, 0x3F), body=st.binary(max_size=40), mqtt5=st.booleans())
def test_no_bytes_make_it_fail(*, command: int, body: bytes, mqtt5: bool) -> None:
    read(command, body, mqtt5=mqtt5)
