"""A broker for a machine that has none: amqtt in a child process, on a loopback port.

It carries virtual fleets and demonstrations. It is no stand-in for a real broker: see ``tests/test_link_contract.py``
for what it leaves out. It listens on loopback only, but lets in whoever is on this machine.

The child is ``schemas.link.amqtt_child``. It ends when its standard input does: when we are gone, however we went.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import threading
from types import TracebackType
from typing import Final, Self

from schemas.errors import LinkError

_START_S: Final = 20.0  # a Raspberry Pi Zero takes seconds to import it all
_END_S: Final = 3.0


class EmbeddedBroker:
    """amqtt on ``port``, for as long as the ``with`` block lasts."""

    def __init__(self) -> None:
        self.port = 0
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        """What ``--broker`` would be given."""
        return f"mqtt://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int | None:
        """The child's process id, once started."""
        return None if self._child is None else self._child.pid

    def __enter__(self) -> Self:
        """Start it and wait until it accepts connections; ``LinkError`` where it can't start."""
        if importlib.util.find_spec("amqtt") is None:
            raise LinkError("the embedded broker needs amqtt: pip install 'fedbeat[virtual]', or give --broker")
        try:
            self._child = subprocess.Popen(
                [sys.executable, "-m", "schemas.link.amqtt_child"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,  # a Ctrl-C is its parent's, which still has goodbyes to say through it
            )
        except OSError as error:
            raise LinkError(f"can't start the embedded broker: {error}") from None
        assert self._child.stdout is not None
        watchdog = threading.Timer(_START_S, self._child.kill)
        watchdog.start()
        line = self._child.stdout.readline()
        watchdog.cancel()
        if not line.strip().isdigit():
            raise LinkError(f"the embedded broker doesn't start: {self._end() or f'no word in {_START_S:g} s'}")
        self.port = int(line)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End it."""
        self._end()

    def _end(self) -> str:
        """Close its input and wait; its last words."""
        assert self._child is not None
        try:
            _, words = self._child.communicate(timeout=_END_S)
        except subprocess.TimeoutExpired:
            self._child.kill()
            _, words = self._child.communicate()
        lines = words.decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else ""
