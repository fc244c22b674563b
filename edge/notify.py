"""What systemd wants to hear of a service: that it is ready, how it is, and that it still turns (sd_notify(3)).

Outside systemd nothing listens and nothing is said. The protocol is one datagram a message, so no library is needed.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Mapping
from typing import Self


class Notifier:
    """A line to systemd; every message is dropped where there is none, and none ever raises."""

    def __init__(self, address: str | None = None, watchdog_s: float | None = None) -> None:
        """``address`` is a socket's path, or a name in the abstract namespace after ``@``."""
        self._address = f"\0{address[1:]}" if address and address.startswith("@") else address
        self.watchdog_s = watchdog_s  # seconds after which systemd takes us for dead; None: it doesn't look

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Self:
        """As systemd asks for it; the watchdog only where it means this very process."""
        address = environment.get("NOTIFY_SOCKET") or None
        limit, pid = environment.get("WATCHDOG_USEC", ""), environment.get("WATCHDOG_PID", "")
        ours = limit.isdecimal() and int(limit) > 0 and pid in {"", str(os.getpid())}
        return cls(address, int(limit) / 1e6 if ours else None)

    def ready(self) -> None:
        """We are up."""
        self._send("READY=1")

    def stopping(self) -> None:
        """We are going down, on purpose."""
        self._send("STOPPING=1")

    def status(self, text: str) -> None:
        """One line for ``systemctl status``."""
        self._send(f"STATUS={' '.join(text.split())}")

    def alive(self) -> None:
        """The reactor turns; due at least every ``watchdog_s``."""
        if self.watchdog_s is not None:
            self._send("WATCHDOG=1")

    def _send(self, message: str) -> None:
        if self._address is None:
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as line, contextlib.suppress(OSError):
            line.sendto(message.encode(), self._address)
