"""What a service manager hears, and that nobody else is spoken to; `test_edge_reactor` has a device that speaks."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.link.notify import Notifier


@contextmanager
def listening(address: str) -> Iterator[socket.socket]:
    with closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as listener:
        listener.bind(address)
        listener.setblocking(False)
        yield listener


@pytest.mark.parametrize("abstract", [False, True])
def test_a_socket_in_the_file_system_or_the_abstract_namespace_is_spoken_to(tmp_path: Path, *, abstract: bool) -> None:
    """Seen to fail where ``@`` is taken for a part of the name."""
    name = f"fedbeat-{os.getpid()}" if abstract else str(tmp_path / "notify")
    with listening(f"\0{name}" if abstract else name) as listener:
        given_name = f"@{name}" if abstract else name
        notifier = Notifier.from_environment({"NOTIFY_SOCKET": given_name, "WATCHDOG_USEC": "2500000"})
        assert notifier.watchdog_s == 2.5
        for word in (notifier.ready, notifier.alive, notifier.stopping):
            word()
        assert [listener.recv(99) for _ in range(3)] == [b"READY=1", b"WATCHDOG=1", b"STOPPING=1"]


@given(st.text(max_size=60))
@settings(deadline=None, max_examples=25)
def test_no_status_begins_a_line_of_its_own(text: str) -> None:
    """A device's words come in it, and a second line could say ``STOPPING=1``. Seen to fail with the text as it is."""
    name = f"fedbeat-status-{os.getpid()}"
    with listening(f"\0{name}") as listener:
        Notifier(f"@{name}").status(f"{text}\nSTOPPING=1")
        assert b"\n" not in listener.recv(4096)


@pytest.mark.parametrize(
    ("limit", "others", "watched"),
    [
        ("1000000", None, True),
        ("1000000", 0, True),
        ("1000000", 1, False),  # our parent's watchdog, inherited with its environment
        ("0", None, False),
        ("soon", None, False),
        ("", None, False),
    ],
)
def test_the_watchdog_is_fed_only_where_it_means_this_process(limit: str, others: int | None, *, watched: bool) -> None:
    """Seen to fail where a child feeds its parent's."""
    pid = "" if others is None else str(os.getpid() + others)
    name = f"fedbeat-watchdog-{os.getpid()}"
    with listening(f"\0{name}") as listener:
        environment = {"NOTIFY_SOCKET": f"@{name}", "WATCHDOG_USEC": limit, "WATCHDOG_PID": pid}
        Notifier.from_environment(environment).alive()
        if watched:
            assert listener.recv(99) == b"WATCHDOG=1"
        else:
            with pytest.raises(BlockingIOError):
                listener.recv(99)


def test_where_nobody_listens_nothing_is_raised(tmp_path: Path) -> None:
    for notifier in (Notifier.from_environment({}), Notifier(str(tmp_path / "gone"), 1.0)):
        notifier.ready()
        notifier.alive()
        notifier.status("well")
        notifier.stopping()
