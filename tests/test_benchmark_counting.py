"""What the benchmarks count of a line is what went over it."""

from __future__ import annotations

import importlib.util
import socket
import sys
from pathlib import Path
from types import ModuleType

import pytest

PATH = Path(__file__).parents[1] / "benchmarks" / "counting.py"


@pytest.fixture
def counting(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Benchmarks are files, no package."""
    spec = importlib.util.spec_from_file_location("counting", PATH)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "counting", module)
    spec.loader.exec_module(module)
    return module


def test_a_relay_counts_every_byte_of_each_direction_over_all_connections(counting: ModuleType) -> None:
    """Seen to fail with the two directions swapped, and with another offset into the kernel's structure."""
    with socket.create_server(("127.0.0.1", 0)) as server, counting.relay(server.getsockname()[1]) as relay:
        for sent, answered in ((b"x" * 100, b"y" * 7), (b"x" * 100_000, b"y" * 50_000)):
            with socket.create_connection(("127.0.0.1", relay.port)) as near, server.accept()[0] as far:
                near.sendall(sent)
                assert len(far.recv(len(sent), socket.MSG_WAITALL)) == len(sent)
                before = relay.traffic()
                far.sendall(answered)
                assert near.recv(len(answered), socket.MSG_WAITALL) == answered
                change = relay.traffic().since(before)
                assert (change.up, change.down) == (0, len(answered))
                assert change.on_the_wire >= len(answered) + counting.HEADERS
        total = relay.traffic()
    assert (total.up - 2, total.down) == (100_100, 50_007)  # the kernel counts a connection's end as one byte
    assert total.segments_up > 2
