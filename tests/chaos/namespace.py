"""A network of one's own, and a second one joined to it by a cable that can be pulled. Linux, and root.

``alone`` runs a function on a thread that has left this machine's network: whatever it starts, threads and processes
alike, sees its loopback and nothing else. ``Cable`` joins it to another such network, where ``command`` runs things.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import threading
from collections.abc import Callable
from typing import Final, Self

import pytest

_NEW_NETWORK: Final = 0x40000000  # CLONE_NEWNET of unshare(2)
HERE: Final = "10.11.12.1"
THERE: Final = "10.11.12.2"


def alone(work: Callable[[], None]) -> None:
    """Run ``work`` in a network of its own; the test is skipped where this machine refuses one."""
    for program in ("ip", "unshare", "nsenter"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is missing: apt install iproute2 util-linux")
    ended: list[BaseException | None] = []

    def run() -> None:
        try:
            if ctypes.CDLL(None, use_errno=True).unshare(_NEW_NETWORK):
                pytest.skip(f"no network namespace is to be had here: {os.strerror(ctypes.get_errno())}")
            _ip("link", "set", "lo", "up")
            work()
            ended.append(None)
        except BaseException as error:  # noqa: BLE001 - for the test's own thread to raise
            ended.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if ended[0] is not None:
        raise ended[0]


class Cable:
    """Between this thread's network, ``HERE``, and a new one, ``THERE``. A context manager."""

    def __enter__(self) -> Self:
        """Lay it."""
        self._holder = subprocess.Popen(["unshare", "-n", "cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._holder.stdin is not None
        assert self._holder.stdout is not None
        self._holder.stdin.write(b"\n")
        self._holder.stdin.flush()
        self._holder.stdout.readline()  # it has left
        _ip("link", "add", "here", "type", "veth", "peer", "name", "there", "netns", str(self._holder.pid))
        _ip("addr", "add", f"{HERE}/24", "dev", "here")
        _ip("link", "set", "here", "up")
        for arguments in (("addr", "add", f"{THERE}/24", "dev", "there"), ("link", "set", "there", "up")):
            subprocess.run([*self.command("ip"), *arguments], check=True)
        return self

    def __exit__(self, *_: object) -> None:
        """Both ends go with the network that nobody is in any more."""
        self._holder.kill()
        self._holder.communicate()

    def command(self, *arguments: str) -> tuple[str, ...]:
        """A command line that runs in the other network."""
        return ("nsenter", "--target", str(self._holder.pid), "--net", *arguments)

    def pull(self) -> None:
        """Carry nothing; neither end is told."""
        _ip("link", "set", "here", "down")

    def plug(self) -> None:
        """Carry again."""
        _ip("link", "set", "here", "up")


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)
