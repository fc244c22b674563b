"""A real mosquitto of one's own, to stop, kill, freeze and start again."""

from __future__ import annotations

import contextlib
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Self

import pytest

ROOT = Path(__file__).parents[1]
_LIMIT_S = 10.0


def program(name: str) -> str:
    """The path of one of mosquitto's programs; the test fails where it isn't installed."""
    path = shutil.which(name, path=f"{os.environ.get('PATH', '')}{os.pathsep}/usr/sbin{os.pathsep}/usr/local/sbin")
    if path is None:
        pytest.fail(f"{name} is missing: apt install mosquitto mosquitto-clients (or brew install mosquitto)")
    return path


def free_port() -> int:
    """A loopback port that nobody listens on now, and that no outgoing connection is given while nobody does."""
    while True:
        port = random.randrange(15_000, 30_000)  # noqa: S311 - below what Linux and macOS hand out themselves
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def accepts(port: int) -> bool:
    """Whether anything accepts connections on a loopback port."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1.0).close()
    except OSError:
        return False
    return True


class Mosquitto:
    """mosquitto on a loopback port that stays the same however often it is started.

    ``config`` is the text of a configuration file; its port and its persistence directory are replaced by ours. It
    listens on ``host``, which must be reached by loopback too.
    What it is to keep it keeps in ``directory``: all of it over ``restart``, what was last saved over ``kill``.
    """

    def __init__(self, directory: Path, config: str | None = None, *, host: str = "127.0.0.1") -> None:
        self.directory = directory
        self.port = free_port()
        self._log = directory / "mosquitto.log"
        self._config = directory / "mosquitto.conf"
        text = (ROOT / "mosquitto" / "test.conf").read_text(encoding="utf-8") if config is None else config
        text = re.sub(r"^listener 1883\b.*$", f"listener {self.port} {host}", text, flags=re.MULTILINE)
        text = re.sub(r"^persistence_location .*$", f"persistence_location {directory}/", text, flags=re.MULTILINE)
        # Started by root, mosquitto would become a user who can't write to our directory.
        self._config.write_text(f"{text}\nuser {'root' if os.geteuid() == 0 else ''}\n".replace("\nuser \n", "\n"))
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        """Start it."""
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End it."""
        self.kill()

    @property
    def address(self) -> str:
        """What ``--broker`` would be given."""
        return f"mqtt://127.0.0.1:{self.port}"

    @property
    def log(self) -> str:
        """What the broker has said so far."""
        return self._log.read_text(encoding="utf-8", errors="replace") if self._log.exists() else ""

    def start(self) -> None:
        """Start it and wait until it accepts connections."""
        with self._log.open("ab") as log:
            command = [program("mosquitto"), "-c", str(self._config)]
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        deadline = time.monotonic() + _LIMIT_S
        while not accepts(self.port):
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                pytest.fail(f"mosquitto does not start:\n{self.log}")
            time.sleep(0.01)

    def stop(self) -> None:
        """Ask it to end, which saves what it keeps."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it as a power cut would."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        """Stop it where it runs, and start it again on the same port."""
        self.stop()
        self.start()

    def freeze(self) -> None:
        """Leave its connections open and answer nothing on them, as a hung machine does."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Go on after ``freeze``."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def _end(self, how: signal.Signals) -> None:
        if self._process is None:
            return
        process, self._process = self._process, None
        process.send_signal(how)
        process.send_signal(signal.SIGCONT)
        process.wait(_LIMIT_S)
