"""What an agent and its trainer child say to each other comes whole, and a hang-up is noticed."""

import threading
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from socket import AF_UNIX, socket, socketpair

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.trainer.frames import Frames

MOST = 2**25


@pytest.fixture
def ends() -> Iterator[tuple[Frames, Frames]]:
    one, other = (Frames(end) for end in socketpair())
    with one, other:
        yield one, other


a_frame = st.one_of(
    st.binary(max_size=100),
    st.sampled_from([16_384, 16_385, 65_528, 65_529, 65_536, 70_000]).map(lambda size: (b"0123456789" * size)[:size]),
)


@settings(deadline=None, max_examples=30)
@given(st.lists(st.lists(a_frame, max_size=4), max_size=4))
def test_frames_come_as_they_were_sent_together_or_not(sent: list[list[bytes]]) -> None:
    frames = [frame for together in sent for frame in together]
    one, other = (Frames(end) for end in socketpair())

    def send() -> None:
        for together in sent:
            one.send(*together)
        one.close()

    sending = threading.Thread(target=send)
    with one, other:
        sending.start()
        for frame in frames:
            assert other.waits(10)
            assert other.receive(MOST) == frame
        with pytest.raises(EOFError):
            other.receive(MOST)
    sending.join()


def test_what_was_received_ahead_is_waiting(ends: tuple[Frames, Frames]) -> None:
    ends[0].send(b"first", b"second")
    assert ends[1].receive(MOST) == b"first"
    assert ends[1].waits()
    assert ends[1].receive(MOST) == b"second"
    assert not ends[1].waits()


def test_a_hang_up_within_a_frame_is_a_fault() -> None:
    raw, end = socketpair()
    with Frames(end) as frames:
        raw.sendall((5).to_bytes(8, "big") + b"whole" + (5).to_bytes(8, "big") + b"par")
        raw.close()
        assert frames.receive(MOST) == b"whole"
        with pytest.raises(OSError, match="2 bytes before the end"):
            frames.receive(MOST)


def test_a_model_comes_in_one_copy(ends: tuple[Frames, Frames]) -> None:
    frame = bytes(range(256)) * 65_536  # 16 MB
    sending = threading.Thread(target=ends[0].send, args=(frame,))
    tracemalloc.start()
    sending.start()
    received = ends[1].receive(MOST)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    sending.join()
    assert received == frame
    assert peak < 1.5 * len(frame)


def test_a_frame_longer_than_allowed_is_refused_before_it_is_received(ends: tuple[Frames, Frames]) -> None:
    ends[0].send(b"1234567")
    with pytest.raises(OSError, match="a frame of 7 bytes; at most 6"):
        ends[1].receive(6)


def test_a_promise_of_many_bytes_allocates_none_of_them() -> None:
    raw, end = socketpair()
    raw.sendall((2**33).to_bytes(8, "big") + b"few")
    raw.close()
    tracemalloc.start()
    with Frames(end) as frames, pytest.raises(OSError, match="hung up"):
        frames.receive(2**34)
    assert tracemalloc.get_traced_memory()[1] < 2**22
    tracemalloc.stop()


def test_a_hang_up_between_frames_is_the_end(ends: tuple[Frames, Frames]) -> None:
    ends[0].send(b"last")
    ends[0].close()
    assert ends[1].receive(MOST) == b"last"
    assert ends[1].waits()  # the end is something to be received too
    with pytest.raises(EOFError):
        ends[1].receive(MOST)


def test_nobody_can_be_told_anything_after_a_hang_up(ends: tuple[Frames, Frames]) -> None:
    ends[1].close()
    with pytest.raises(ConnectionError):
        ends[0].send(b"anything")


def test_waiting_ends_with_a_frame_and_with_its_time(ends: tuple[Frames, Frames]) -> None:
    assert not ends[1].waits(0.01)
    ends[0].send(b"")
    assert ends[1].waits(10)
    assert ends[1].receive(MOST) == b""


def test_it_connects_where_somebody_listens_and_only_there(tmp_path: Path) -> None:
    address = str(tmp_path / "here")
    with pytest.raises(OSError, match="No such file"):
        Frames.connect(address)
    with socket(AF_UNIX) as server:
        server.bind(address)
        server.listen(1)
        with Frames.connect(address) as child, Frames(server.accept()[0]) as agent:
            child.send(b"hello")
            assert agent.receive(MOST) == b"hello"
