from __future__ import annotations

import socket
import threading

import pytest

from edge.live.source import SourceLost
from schemas.errors import SettingsError
from tests.link_mosquitto import free_port
from tests.live_reading import gather, opened, values
from tests.waiting import until


def test_lines_come_over_a_socket_until_the_other_side_hangs_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with opened(f"tcp:127.0.0.1:{port}?rate=500&scale=0.5") as source:
            peer, _ = server.accept()
            with peer:
                peer.sendall(b"2\n4\n6")
                assert values(gather(source, 2)) == [1.0, 2.0]
                peer.sendall(b"\n8\n")
                assert values(gather(source, 2)) == [3.0, 4.0]
            with pytest.raises(SourceLost, match=rf"the connection to 127.0.0.1:{port} has ended"):
                until(lambda: source.read(0.1), "the end")


def test_more_than_one_reading_takes_comes_whole() -> None:
    lines = "".join(f"{number}\n" for number in range(60_000)).encode()
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        opened(f"tcp:127.0.0.1:{server.getsockname()[1]}?rate=500") as source,
        server.accept()[0] as peer,
    ):
        sender = threading.Thread(target=peer.sendall, args=(lines,))
        sender.start()
        assert values(gather(source, 60_000)) == list(range(60_000))
        sender.join()


def test_where_nothing_answers_that_is_told() -> None:
    setting = f"tcp:127.0.0.1:{free_port()}?rate=250"
    with pytest.raises(SourceLost, match=r"nothing answers at 127\.0\.0\.1:"), opened(setting):
        pass
    with pytest.raises(SettingsError, match=r"localhost is no HOST:PORT"), opened("tcp:localhost?rate=250"):
        pass
    with pytest.raises(SourceLost, match=r"a\.\.b:80 names no host: write HOST:PORT"), opened("tcp:a..b:80?rate=250"):
        pass
