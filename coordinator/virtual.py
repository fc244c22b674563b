"""Virtual devices beside a coordinator: the embedded broker and one ``edge fleet`` child process.

The coordinator never imports ``edge``: it starts the same program an owner would, against the same kind of broker.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from coordinator.config import CoordinatorSettings
from schemas.errors import FedbeatError, FederationError, StateError

_LOOK_S = 0.2
_GRACE_S = 10.0  # an agent's goodbyes and its trainer's end take a second or two


class VirtualFleet:
    """``edge fleet`` as a child process, for as long as the ``with`` block lasts.

    ``on_exit`` is called, on a thread of its own, where the child ends before the block does.
    """

    def __init__(self, settings: CoordinatorSettings, broker: str, on_exit: Callable[[FedbeatError], None]) -> None:
        """``broker`` is an address as ``--broker`` takes it, credentials included."""
        self._settings = settings
        self._broker = broker
        self._on_exit = on_exit
        self._log = settings.state / "fleet.log"
        self._closing = False
        self._child: subprocess.Popen[bytes] | None = None
        self._watcher = threading.Thread(target=self._watch, name="virtual-fleet", daemon=True)

    def __enter__(self) -> Self:
        """Start the child."""
        try:
            self._log.parent.mkdir(parents=True, exist_ok=True)
            with self._log.open("wb") as log:
                self._child = subprocess.Popen(  # noqa: S603 - our own program, no shell
                    [sys.executable, "-m", "edge", "fleet", *self._arguments()],
                    # Credentials travel in the environment, which other users can't read; arguments they can.
                    env={**os.environ, **self._credentials()},
                    stdin=subprocess.PIPE,  # closes with us, however we end: the child watches it
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,  # a Ctrl-C is ours; the child is told when we are done with it
                )
        except OSError as error:
            raise StateError(
                f"can't start the virtual devices: {error.filename or self._log}: {error.strerror}; choose another "
                "--state directory"
            ) from None
        self._watcher.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Ask the child to end, and see that it does."""
        self._closing = True
        child = self._child
        assert child is not None
        assert child.stdin is not None
        child.stdin.close()
        try:
            child.wait(_GRACE_S)
        except subprocess.TimeoutExpired:
            child.kill()
        self._watcher.join()

    def finish(self, hurried: Callable[[], bool]) -> None:
        """Let the devices make what models of their own they have yet to make; until they have, or ``hurried``."""
        child = self._child
        assert child is not None
        assert child.stdin is not None
        self._closing = True
        with suppress(BrokenPipeError):
            child.stdin.write(b"\n")
            child.stdin.flush()
        while not hurried():
            with suppress(subprocess.TimeoutExpired):
                child.wait(_LOOK_S)
                return

    def _credentials(self) -> dict[str, str]:
        username, password = self._settings.username, self._settings.password.get_secret_value()
        return {"FEDBEAT_BROKER": self._broker, "FEDBEAT_USERNAME": username, "FEDBEAT_PASSWORD": password}

    def _arguments(self) -> list[str]:
        settings = self._settings
        options = {
            "--federation": settings.federation,
            "--devices": settings.virtual,
            "--data": settings.data,
            "--partition": settings.partition,
            "--held-out": settings.held_out,
            "--seed": settings.seed,
            "--state": settings.state / "fleet",
            "--trainers": settings.trainers,
            "--together": settings.together,
            "--accelerator": settings.accelerator,
            "--budget": settings.budget or None,
            "--personal": settings.personal,
            "--local-layers": settings.local_layers or None,
        }
        files: dict[str, Path | None] = {"--ca": settings.ca, "--cert": settings.cert, "--key": settings.key}
        given = {**options, **files, "--root": settings.root}
        return [
            "--until-stdin-closes",
            *(text for name, value in given.items() if value is not None for text in (name, str(value))),
        ]

    def _watch(self) -> None:
        assert self._child is not None
        code = self._child.wait()
        if not self._closing:
            self._on_exit(self._explain(code))

    def _explain(self, code: int) -> FedbeatError:
        """The child's own last words, with its exit code."""
        lines = self._log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        last = lines[-1].removeprefix("error: ") if lines else "it said nothing"
        error = FederationError(f"the virtual devices ended: {last} (all of it: {self._log})")
        error.exit_code = code if code > 0 else error.exit_code
        return error
