"""The two commands as their users start them: processes of their own, with their exit codes and what they print."""

from __future__ import annotations

import io
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, chdir, contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self
from unittest.mock import patch

import click

from schemas import codec
from schemas.command_line import run
from schemas.messages import CoordinatorStatus, DeviceStatus, Message
from schemas.topics import Topics
from tests.link_mosquitto import program

ROOT = Path(__file__).parents[1]
MITDB = Path(os.environ.get("FEDBEAT_MITDB", ROOT.parent / "shared" / "data" / "mitdb"))
LIMIT_S = 60.0
COORDINATOR = ("-m", "coordinator")
EDGE = ("-m", "edge")
QUICK = ("--local-steps", "2", "--virtual", "2")


@dataclass(frozen=True, slots=True)
class Done:
    """A command that has ended."""

    code: int
    out: str
    err: str

    def says(self, code: int, *words: str) -> str:
        """Check that it failed with ``code``, in one sentence with these words and no traceback; the sentence."""
        assert "Traceback" not in self.out + self.err, self.err
        assert self.code == code, self.err + self.out
        sentence = self.err.strip().splitlines()[-1]
        assert sentence.startswith(("error: ", "Error: ")), self.err
        for word in words:
            assert word in sentence, sentence
        return sentence


class Running:
    """A command at work; its output is read as it comes. Killed where a test leaves it running."""

    def __init__(
        self,
        *arguments: str,
        cwd: Path,
        env: dict[str, str] | None = None,
        stdin: int = subprocess.DEVNULL,
        within: tuple[str, ...] = (),
    ) -> None:
        self._child = subprocess.Popen(
            [*within, sys.executable, *arguments],
            cwd=cwd,
            env={**os.environ, "PYTHONPATH": str(ROOT), **(env or {})},
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._out: list[str] = []
        self._err: list[str] = []
        self._readers = [
            threading.Thread(target=self._read, args=(self._child.stdout, self._out), daemon=True),
            threading.Thread(target=self._read, args=(self._child.stderr, self._err), daemon=True),
        ]
        for reader in self._readers:
            reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._child.poll() is None:
            self._child.kill()
        self.end()  # also of one that ended by itself: somebody must close its pipes

    @property
    def pid(self) -> int:
        return self._child.pid

    @property
    def alive(self) -> bool:
        return self._child.poll() is None

    def wait_for(self, words: str) -> str:
        """The first line, of those not seen yet, that has ``words``."""
        deadline = time.monotonic() + LIMIT_S
        while True:
            try:
                line = self._lines.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                raise AssertionError(f"no {words!r} in: {self._out} {self._err}") from None
            if words in line:
                return line
            assert line or self._child.poll() is None, f"ended without {words!r}: {self._out} {self._err}"

    def send(self, number: signal.Signals) -> None:
        self._child.send_signal(number)

    def end(self) -> Done:
        """Wait for its end."""
        code = self._child.wait(LIMIT_S)
        for reader in self._readers:
            reader.join(LIMIT_S)
        for pipe in (self._child.stdout, self._child.stderr):
            assert pipe is not None
            pipe.close()
        return Done(code, "".join(self._out), "".join(self._err))

    def _read(self, pipe: Any, lines: list[str]) -> None:
        for line in pipe:
            lines.append(line)
            self._lines.put(line)
        self._lines.put("")


def finished(*arguments: str, cwd: Path, env: dict[str, str] | None = None) -> Done:
    """Run a command to its end."""
    with Running(*arguments, cwd=cwd, env=env) as command:
        return command.end()


def in_process(command: click.Command, *arguments: str, cwd: Path) -> Done:
    """Run a command that starts nothing to its end, in this process: quicker, where a process proves nothing more."""
    out, err = io.StringIO(), io.StringIO()
    with ExitStack() as stack:
        stack.enter_context(patch.object(sys, "argv", ["command", *arguments]))
        for context in (chdir(cwd), redirect_stdout(out), redirect_stderr(err)):
            stack.enter_context(context)
        try:
            run(command)
        except SystemExit as ended:
            code = ended.code
    assert isinstance(code, int)
    return Done(code, out.getvalue(), err.getvalue())


@contextmanager
def together(*commands: tuple[str, ...], cwd: Path) -> Iterator[list[Running]]:
    """Several commands at once."""
    running = [Running(*arguments, cwd=cwd) for arguments in commands]
    try:
        yield running
    finally:
        for command in running:
            command.__exit__()


def retained(port: int, topic: str = "fl/#") -> dict[str, bytes]:
    """What the broker keeps: payloads by topic, empty where it is nothing."""
    ends = ("-W", "1") if topic.endswith("#") else ("-W", "1", "-C", "1")  # nobody says which message is the last
    found = subprocess.run(
        [program("mosquitto_sub"), "-p", str(port), "-t", topic, "-F", "%t %x", "--retained-only", *ends],
        capture_output=True,
        text=True,
        check=False,
        timeout=LIMIT_S,
    )
    pairs = (line.split(" ", 1) for line in found.stdout.splitlines())
    return {name: bytes.fromhex(payload) for name, payload in pairs}


def message(port: int, topic: str) -> Message | None:
    """The one message that is retained on ``topic`` of the federation `home`."""
    topics = Topics("home")
    payload = retained(port, topics.prefix + topic).get(topics.prefix + topic)
    address = topics.parse(topics.prefix + topic)
    assert address is not None
    return None if payload is None else codec.decode(address.kind, payload)


def coordinator_status(port: int) -> CoordinatorStatus:
    found = message(port, "coordinator")
    assert isinstance(found, CoordinatorStatus)
    return found


def device_status(port: int, device: str) -> DeviceStatus | None:
    found = message(port, f"devices/{device}")
    assert found is None or isinstance(found, DeviceStatus)
    return found


def events(out: str) -> list[dict[str, Any]]:
    """The lines of ``--json``."""
    return [json.loads(line) for line in out.splitlines()]
