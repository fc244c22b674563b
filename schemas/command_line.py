"""What the two commands share: how they fail, how they are stopped, and the options that find a broker."""

from __future__ import annotations

import errno
import io
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any, Final, NoReturn, TypeVar

import click

from schemas.errors import FedbeatError, SettingsError, StateError
from schemas.output import FULL
from schemas.printable import printable

F = TypeVar("F", bound=Callable[..., Any])


class _Readable(click.Path):
    """A path that may be absent, but not another user's: click would call that a wrong command line."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        place = super().convert(value, param, ctx)
        # Path.exists() would raise where we may not even enter, which is for the command to tell.
        if os.path.exists(place) and not os.access(place, os.R_OK, effective_ids=True):  # noqa: PTH110
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(place))
        return place


PATH = _Readable(path_type=Path, readable=False)
SETTINGS_PATH = click.Path(path_type=Path, readable=False)  # whoever reads it says that it can't be
EXIT_CODES: Final = (
    "Exit codes: 0 done or stopped by its operator, 1 a bug, 2 settings, 3 recordings, 4 plan, 5 broker, "
    "6 federation, 7 state directory, 8 training, 130 interrupted before anything had begun."
)
# What an installation may lack, by the extra that brings it; "edge" brings all that a device needs.
_EXTRAS: Final = {"torch": "edge", "scipy": "edge", "wfdb": "edge", "matplotlib": "edge"}
ENDS: Final = (signal.SIGTERM, signal.SIGHUP)  # a service manager's, and that of a terminal that has gone
GROUP = {"help_option_names": ["-h", "--help"], "max_content_width": 110}


class Terminated(BaseException):
    """A signal came where nobody waits for it: what is under way is left as it is on Ctrl-C, temporary folders gone."""

    def __init__(self, number: signal.Signals) -> None:
        super().__init__()
        self.number = number


def run(command: click.Command) -> NoReturn:
    """Run ``command`` and exit; every expected failure ends in one sentence and its exit code."""
    _prepare_output()
    try:
        with _terminated():
            code = command.main(standalone_mode=False)
    except Terminated as terminated:
        _end_by(terminated.number)
    except click.ClickException as error:
        with suppress(OSError):
            error.show()
        _end(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        _end(130)
    except FedbeatError as error:
        _fail(str(error), error.exit_code)
    except ModuleNotFoundError as error:  # an installation without the extra that this command asks for
        package = (error.name or "").partition(".")[0]
        if package not in _EXTRAS:
            raise
        _fail(lacks(package), SettingsError.exit_code)
    except PermissionError as error:  # a look at what lies in a folder that we may not even enter
        place = error.filename or "what it needs"
        _fail(f"can't look at {place}: {error.strerror}; run it as the user whose folder it is", StateError.exit_code)
    except OSError as error:
        if error.errno not in FULL:
            raise
        place = error.filename or "its output"
        _fail(f"can't write {place}: {error.strerror}. Free some disk space, then run it again", StateError.exit_code)
    _end(code if isinstance(code, int) else 0)


def _prepare_output() -> None:
    """Have what is printed end no command: where nobody has standard output open, or it has no sign for a letter."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed before we began, as with `>&-`
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115 - as long as we run
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


@contextmanager
def _terminated() -> Iterator[None]:
    """Have ``ENDS`` raise ``Terminated``, but for those that we were started to ignore; a second one ends us."""

    def handle(number: int, _: FrameType | None) -> None:
        _set_after_the_first(number, signal.SIG_DFL)
        raise Terminated(signal.Signals(number))

    taken = [each for each in ENDS if signal.getsignal(each) is signal.SIG_DFL]
    for each in taken:
        signal.signal(each, handle)
    try:
        yield
    finally:
        for each in taken:
            _restore(each, signal.SIG_DFL)


def _set_after_the_first(number: int, handler: Any) -> None:
    """Have ``handler`` hear a signal that has come once; none is to hear of a terminal's end from then on.

    An interactive shell tells its jobs of it, and the kernel tells them once more as that shell ends; the service
    manager tells of it right behind SIGTERM, where it ends a session with what runs there.
    """
    signal.signal(number, handler)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        signal.signal(signal.SIGHUP, _heard_already)


def _heard_already(*_: object) -> None:
    """No ``SIG_IGN``, which children would inherit."""


def _restore(number: int, handler: Any) -> None:
    if signal.getsignal(number) is not _heard_already:
        signal.signal(number, handler)


def _end_by(number: signal.Signals) -> NoReturn:
    """End as whoever sent the signal expects it; a service manager takes that for a good end, and no exit code."""
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
    _end(128 + number)


def _fail(sentence: str, code: int) -> NoReturn:
    words = "\n".join(map(printable, sentence.split("\n")))  # it may quote what came over the network
    with suppress(OSError):  # the log of both streams may lie on the full disk
        click.echo(f"error: {words}", err=True)
    _end(code)


def _end(code: int) -> NoReturn:
    """Exit with ``code``, full disk or not: Python's own last look at what waits to be printed exits with another."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            with suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    sys.exit(code)


def lacks(package: str) -> str:
    """What is said where ``package``, one that an extra brings, isn't installed."""
    return f"{package} isn't installed here, and this needs it: pip install 'fedbeat[{_EXTRAS[package]}]'"


def broker_options(command: F) -> F:
    """Add the options of every command that talks to a broker."""
    options = (
        click.option("--broker", metavar="URL", help="mqtt[s]://[user[:password]@]host[:port]"),
        click.option("--federation", metavar="NAME", help="the federation's name (default: home)"),
        click.option("--root", metavar="TOPIC", help="first level of every topic (default: fl)"),
        click.option("--ca", type=SETTINGS_PATH, help="certificates to trust for mqtts"),
        click.option("--cert", type=SETTINGS_PATH, help="this client's certificate"),
        click.option("--key", type=SETTINGS_PATH, help="and its private key"),
        click.option("--config", type=SETTINGS_PATH, help="settings file (TOML)"),
        click.option("--show-config", is_flag=True, help="print every setting and where it comes from, and stop"),
    )
    for option in reversed(options):
        command = option(command)
    return command


def given(flags: dict[str, Any]) -> dict[str, Any]:
    """The flags that were given: an option left out must not hide what environment or file say."""
    return {name: value for name, value in flags.items() if value is not None and value != ()}


@contextmanager
def stopping_on_signals(stop: Callable[[], None]) -> Iterator[None]:
    """SIGINT and ``ENDS`` call ``stop``, which is to return at once; a second one does what it would without us.

    SIGHUP behind another does nothing. It is ignored where it was (``nohup``): whoever started us wants us to outlast
    the terminal.
    """
    previous: dict[int, Any] = {}

    def handle(number: int, _: FrameType | None) -> None:
        _set_after_the_first(number, previous[number])
        stop()

    for each in (signal.SIGINT, *ENDS):
        if each is not signal.SIGHUP or signal.getsignal(each) is not signal.SIG_IGN:
            previous[each] = signal.signal(each, handle)
    try:
        yield
    finally:
        for number, handler in previous.items():
            _restore(number, handler)
