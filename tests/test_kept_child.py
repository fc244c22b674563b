"""A child beside the agent: started again where it dies, and let go where it isn't wanted any more."""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest

from edge import kept_child
from edge.kept_child import KeptChild
from tests.waiting import LIMIT_S, until

FAR_S = 3600.0  # a wait that no test sees the end of
TELL = """
import json, os, signal, sys, time
def tell(event, **more):
    print(json.dumps({"event": event, "text": "", **more}), flush=True)
told = json.loads(sys.stdin.readline())
"""


class Kept(KeptChild):
    """Runs ``script``, and keeps what it tells."""

    def __init__(self, place: Path, script: str, *waits: float) -> None:
        (place / "script.py").write_text(TELL + script)
        self.again_s = waits or (FAR_S,)  # type: ignore[misc]  # this one's alone
        self.told: list[tuple[str, str, Mapping[str, Any]]] = []
        self.ready: threading.Event | None = None  # to hear more, where that takes a while
        super().__init__("script", json.dumps({"about": "this"}), "the child", "well")

    def heard(self, event: str, text: str, told: Mapping[str, Any]) -> None:
        if self.ready is not None:
            self.ready.wait(LIMIT_S)
        self.told.append((event, text, told))

    @property
    def events(self) -> list[str]:
        return [event for event, _, _ in self.told]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a child finds its script."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return tmp_path


def test_it_is_told_what_it_is_for_and_a_ctrl_c_is_not_its_own(place: Path) -> None:
    """A Ctrl-C reaches all of a terminal's group. Seen to fail without a session of its own."""
    with Kept(place, "tell('well', about=told['about'], group=os.getpgrp()); sys.stdin.read()") as child:
        until(lambda: child.told, "its word")
    ((_, _, told),) = child.told
    assert told["about"] == "this"
    assert told["group"] != os.getpgrp()


def test_one_that_dies_before_it_worked_is_started_again_after_longer_waits(place: Path) -> None:
    """Seen to fail where each wait was the first."""
    with Kept(place, "tell('begun')", FAR_S, 0.0) as child:
        until(lambda: child.events.count("begun") >= 3, "the third start")


def test_one_that_worked_before_it_died_is_started_again_after_the_shortest_wait(place: Path) -> None:
    """Seen to fail where every death made the next wait longer."""
    with Kept(place, "tell('well'); tell('more')", 0.0, FAR_S) as child:
        until(lambda: child.events.count("well") >= 3, "the third start")


def test_a_failure_is_told_once_by_the_child_or_else_for_it(place: Path) -> None:
    """Seen to fail where a child's own word was followed by one that it had died."""
    with Kept(place, "tell('failed', why='its own'); sys.exit(1)", 0.0) as child:
        until(lambda: child.events.count("failed") >= 3, "the third start")
    assert all(told["why"] == "its own" for _, _, told in child.told[:3])
    with Kept(place, "sys.exit(3)", 0.0) as child:
        until(lambda: child.told, "its death")
    assert child.told[0][:2] == ("failed", "the child died (3); it is started again")


def test_one_that_cannot_be_started_is_tried_again(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With no memory left, say. Seen to fail where the thread that starts it ended with the error."""
    python = sys.executable
    monkeypatch.setattr(sys, "executable", str(place / "nowhere"))
    with Kept(place, "tell('well'); sys.stdin.read()", 0.0) as child:
        until(lambda: "failed" in child.events, "the failure")
        monkeypatch.setattr(sys, "executable", python)
        until(lambda: "well" in child.events, "the child")
    assert child.told[0][1] == "the child can't be started: No such file or directory"


def test_all_that_it_tells_as_it_ends_has_been_heard_once_it_is_closed(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However slowly. Seen to fail where closing didn't wait for that: a finder's last window was lost."""
    script = """
def finish(*_):
    tell("last")
    tell("very last")
    sys.exit()
signal.signal(signal.SIGTERM, finish)
tell("well")
sys.stdin.read()
"""
    child = Kept(place, script, 0.0)
    join, waited_for = child._thread.join, threading.Event()

    def noticed(timeout: float | None = None) -> None:
        waited_for.set()
        join(timeout)

    monkeypatch.setattr(child._thread, "join", noticed)
    with child:
        until(lambda: child.told, "its word")
        child.ready = waited_for
    assert child.events == ["well", "last", "very last"]


def test_one_that_will_not_end_is_killed(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept_child, "_GOODBYE_S", 0.1)
    script = """
signal.signal(signal.SIGTERM, signal.SIG_IGN)
tell("well", pid=os.getpid())
while True:
    signal.pause()
"""
    with Kept(place, script, 0.0) as child:
        until(lambda: child.told, "its word")
    pid = child.told[0][2]["pid"]
    until(lambda: not psutil.pid_exists(pid), "its end")
