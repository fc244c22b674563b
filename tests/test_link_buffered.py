"""A buffered socket gives and takes the same bytes as the socket behind it, in fewer calls."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.link.buffered import TOGETHER, BufferedSocket


class Counted(socket.socket):
    """A socket that counts its calls."""

    received = 0
    sent = 0

    def recv(self, bufsize: int, flags: int = 0) -> bytes:
        self.received += 1
        return super().recv(bufsize, flags)

    def send(self, data: Any, flags: int = 0) -> int:
        self.sent += 1
        return super().send(data, flags)


@pytest.fixture
def pair() -> Iterator[tuple[Counted, socket.socket]]:
    near, far = socket.socketpair()
    ours = Counted(fileno=near.detach())
    ours.setblocking(False)
    with ours, far:
        yield ours, far


def test_what_came_at_once_is_read_at_once_however_little_is_asked_for(pair: tuple[Counted, socket.socket]) -> None:
    near, far = pair
    sock = BufferedSocket(near)
    far.sendall(b"abcdefgh")
    assert [sock.recv(1), sock.recv(3), sock.readable] == [b"a", b"bcd", True]
    assert [sock.recv(100), sock.readable, near.received] == [b"efgh", False, 1]
    with pytest.raises(BlockingIOError):
        sock.recv(1)


def test_the_end_is_seen_after_all_that_came_before_it(pair: tuple[Counted, socket.socket]) -> None:
    near, far = pair
    sock = BufferedSocket(near)
    far.sendall(b"ab")
    far.close()
    assert [sock.recv(1), sock.recv(1), sock.recv(1)] == [b"a", b"b", b""]


def test_small_packets_leave_together(pair: tuple[Counted, socket.socket]) -> None:
    near, far = pair
    sock = BufferedSocket(near)
    assert [sock.send(b"ab"), sock.send(b"cd"), sock.writing] == [2, 2, True]
    sock.flush()
    assert [far.recv(100), near.sent, sock.writing] == [b"abcd", 1, False]


def test_a_large_packet_goes_at_once_behind_the_small_ones(pair: tuple[Counted, socket.socket]) -> None:
    near, far = pair
    sock = BufferedSocket(near)
    sock.send(b"small")
    assert [sock.send(bytes(TOGETHER)), sock.writing] == [TOGETHER, False]
    assert far.recv(2 * TOGETHER) == b"small" + bytes(TOGETHER)


def test_closing_sends_what_waits(pair: tuple[Counted, socket.socket]) -> None:
    near, far = pair
    sock = BufferedSocket(near)
    sock.send(b"goodbye")
    sock.close()
    assert [far.recv(100), far.recv(100), sock.fileno()] == [b"goodbye", b"", -1]
    sock.close()


def test_a_full_socket_keeps_the_order(pair: tuple[Counted, socket.socket]) -> None:
    near, far = pair
    far.setblocking(False)
    sock = BufferedSocket(near)
    sent, blocked = bytearray(), False
    for number in range(2000):
        packet = bytes([number % 251]) * (1000 if number % 7 else TOGETHER + 1)
        while packet:
            try:
                count = sock.send(packet)
            except BlockingIOError:
                blocked = True
                break
            sent += packet[:count]
            packet = packet[count:]
        if blocked:
            break
    assert blocked
    got = bytearray()
    while len(got) < len(sent):
        sock.flush()
        got += far.recv(1 << 20)
    assert got == sent


@given(st.lists(st.binary(min_size=1, max_size=300), max_size=20), st.lists(st.integers(1, 400), min_size=1))
def test_bytes_come_in_their_order_whatever_is_asked_for(packets: list[bytes], sizes: list[int]) -> None:
    near, far = socket.socketpair()
    with near, far:
        near.setblocking(False)
        sock = BufferedSocket(near)
        for packet in packets:
            far.sendall(packet)
        whole, got, turn = b"".join(packets), b"", 0
        while len(got) < len(whole):
            size = sizes[turn % len(sizes)]
            piece = sock.recv(size)
            assert 0 < len(piece) <= size
            got, turn = got + piece, turn + 1
        assert got == whole
