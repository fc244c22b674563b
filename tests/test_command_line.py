"""How both commands fail and how they are stopped; the commands themselves run in `test_commands_*`."""

from __future__ import annotations

import errno
import io
import os
import signal
import subprocess
import sys
from pathlib import Path

import click
import pytest

from coordinator.cli import cli as coordinator
from edge.cli import cli as edge
from schemas import errors
from schemas.command_line import ENDS, EXIT_CODES, given, run, stopping_on_signals
from schemas.errors import FedbeatError, SettingsError, StateError
from tests.locked_folder import locked_folder
from tests.running_commands import ROOT


def ending(monkeypatch: pytest.MonkeyPatch, command: click.Command, *arguments: str) -> object:
    monkeypatch.setattr("sys.argv", ["command", *arguments])
    with pytest.raises(SystemExit) as ended:
        run(command)
    return ended.value.code


@pytest.mark.parametrize(
    "error", [each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, FedbeatError)]
)
def test_each_error_ends_in_its_sentence_and_its_code(
    error: type[FedbeatError], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    raised = error.__new__(error)
    Exception.__init__(raised, "do this next")

    @click.command()
    def fail() -> None:
        raise raised

    assert ending(monkeypatch, fail) == error.exit_code
    assert capsys.readouterr().err.startswith("error: ")


def test_a_letter_that_standard_output_has_no_sign_for_ends_no_command(monkeypatch: pytest.MonkeyPatch) -> None:
    """Devices choose their own words. Seen to fail with a traceback."""
    written = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(written, encoding="latin-1"))

    @click.command()
    def tell() -> None:
        print("40 °C, π")  # noqa: T201 - as rich does it

    assert ending(monkeypatch, tell) == 0
    assert written.getvalue() == "40 °C, ?\n".encode("latin-1")


def test_what_lies_in_a_folder_that_may_not_be_entered_is_told_in_a_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A service's folder, looked at by another user. Seen to fail with a traceback and the exit code of a bug."""
    with locked_folder() as folder:
        inside = folder / "recordings"

        @click.command()
        def look() -> None:
            inside.is_dir()

        assert ending(monkeypatch, look) == StateError.exit_code
    said = capsys.readouterr().err
    assert said == f"error: can't look at {inside}: Permission denied; run it as the user whose folder it is\n"


@pytest.mark.parametrize(
    ("command", "arguments", "code", "words"),
    [
        (coordinator, ("export", "--state", "{}", "model.safetensors"), 7, "can't look at {}"),
        (coordinator, ("start", "--state", "{}"), 7, "can't look at {}"),
        (edge, ("data", "list", "{}"), 7, "can't look at {}"),
        (edge, ("data", "prune", "{}", "--keep", "1MB"), 7, "can't look at {}"),
        (edge, ("run", "--state", "{}"), 7, "can't look at {}"),
        (edge, ("run", "--config", "{}"), 2, "can't read the settings file {}"),
    ],
)
def test_another_users_folder_ends_a_command_in_a_sentence_that_says_what_to_do(
    command: click.Command,
    arguments: tuple[str, ...],
    code: int,
    words: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """As when a technician looks at the service's state. Seen to fail with click's usage and exit code 2."""
    with locked_folder() as folder:
        assert ending(monkeypatch, command, *(each.format(folder) for each in arguments)) == code
    said = capsys.readouterr().err
    assert said.startswith(f"error: {words.format(folder)}: Permission denied")
    assert code == SettingsError.exit_code or said.endswith("run it as the user whose folder it is\n")


def test_another_users_folder_that_may_be_read_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Recordings on a disk that nobody may write to, say. Seen to fail where it had to be writable."""
    with locked_folder(mode=0o555) as folder:
        assert ending(monkeypatch, edge, "data", "list", str(folder)) == 0
    assert not capsys.readouterr().err


@pytest.mark.parametrize("module", ["torch.nn", "scipy.signal", "wfdb", "matplotlib"])
def test_an_installation_without_an_extra_says_which_one_to_add(
    module: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`coordinator evaluate` where PyTorch isn't. Seen to fail with a traceback and the exit code of a bug."""

    @click.command()
    def load() -> None:
        raise ModuleNotFoundError(f"No module named {module!r}", name=module)

    assert ending(monkeypatch, load) == SettingsError.exit_code
    assert capsys.readouterr().err.endswith("pip install 'fedbeat[edge]'\n")


@pytest.mark.parametrize(
    "error",
    [
        ModuleNotFoundError("No module named 'edge.gone'", name="edge.gone"),
        OSError(errno.EIO, "Input/output error", "recordings"),
    ],
)
def test_a_module_of_ours_that_is_missing_and_a_disk_that_is_broken_are_bugs(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen to fail with any trouble of the operating system taken for a full disk."""

    @click.command()
    def load() -> None:
        raise error

    monkeypatch.setattr("sys.argv", ["command"])
    with pytest.raises(type(error)) as raised:
        run(load)
    assert raised.value is error


def test_what_the_system_forbids_without_naming_it_is_told_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Seen to fail with "can't look at None"."""

    @click.command()
    def look() -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    assert ending(monkeypatch, look) == StateError.exit_code
    assert capsys.readouterr().err.startswith("error: can't look at what it needs: Operation not permitted; ")


def test_a_command_ends_with_its_own_code_or_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    @click.command()
    @click.argument("code", type=int, required=False)
    def end(code: int | None) -> int | None:
        return code

    assert ending(monkeypatch, end) == 0
    assert ending(monkeypatch, end, "3") == 3


@pytest.mark.parametrize("number", ENDS)
def test_a_signal_means_after_a_command_what_it_meant_before(
    number: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen to fail: one while the interpreter ended was a traceback."""
    during: list[object] = []
    command = click.Command("work", callback=lambda: during.append(signal.getsignal(number)))
    before = signal.signal(number, signal.SIG_DFL)
    try:
        assert ending(monkeypatch, command) == 0
        assert signal.getsignal(number) is signal.SIG_DFL
    finally:
        signal.signal(number, before)
    assert during != [signal.SIG_DFL]


def test_a_mistyped_option_is_a_settings_error_with_a_hint(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ending(monkeypatch, coordinator, "start", "--round", "3") == 2
    assert "--rounds" in capsys.readouterr().err


@pytest.mark.parametrize("stream", ["2>&-", "2>/dev/full", ">&- 2>&-"])
def test_a_mistyped_option_has_its_code_where_nobody_can_be_told(stream: str) -> None:
    """As a script without a terminal sees it. Seen to fail with the code of a bug, each for a reason of its own."""
    code = "import click; from schemas.command_line import run; run(click.Command('work', callback=print))"
    shell = ("sh", "-c", f'exec "$@" {stream}', "sh", sys.executable, "-c", code, "--wrong")
    assert subprocess.run(shell, check=False, cwd=ROOT).returncode == 2


@pytest.mark.parametrize("number", ENDS)
def test_a_signal_leaves_what_is_under_way_in_good_order_and_ends_by_itself(
    tmp_path: Path, number: signal.Signals
) -> None:
    """As a service manager and a shell expect it; where whoever started the command ignores it, nothing happens.

    Seen to fail: temporary folders stayed.
    """
    code = f"""
import os, signal, tempfile, click
from schemas.command_line import run
@click.command()
def work():
    with tempfile.TemporaryDirectory(dir={str(tmp_path)!r}):
        os.kill(os.getpid(), signal.{number.name})
        print("goes on")
run(work)
"""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (-number, "", "")
    ignored = ["sh", "-c", f'trap "" {number.name.removeprefix("SIG")}; exec "$@"', "sh", *command]
    done = subprocess.run(ignored, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "goes on\n")
    assert not list(tmp_path.iterdir())


def test_a_second_signal_ends_what_does_not_end_at_the_first() -> None:
    """Seen to fail: whoever caught the first caught that too."""
    code = """
import os, signal, click
from schemas.command_line import run
@click.command()
def work():
    for _ in range(2):
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        except BaseException as error:
            print(type(error).__name__, flush=True)
run(work)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGTERM, "Terminated\n", "")


def test_an_interrupt_before_anything_has_begun_ends_with_130(monkeypatch: pytest.MonkeyPatch) -> None:
    @click.command()
    def interrupted() -> None:
        raise KeyboardInterrupt

    assert ending(monkeypatch, interrupted) == 130


@pytest.mark.parametrize("command", ["coordinator", "edge"])
def test_an_interrupt_while_the_command_is_still_being_imported_ends_with_130(command: str) -> None:
    """Seen to fail: a traceback through half of pydantic."""
    code = f"""
import sys
class Interrupted:
    def find_spec(self, name, path, target=None):
        if name == "pydantic":
            raise KeyboardInterrupt
sys.meta_path.insert(0, Interrupted())
import {command}.__main__ as command
command.main()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


@pytest.mark.parametrize("option", ["--help", "-h"])
@pytest.mark.parametrize("command", [coordinator, edge])
def test_help_tells_the_exit_codes(
    command: click.Command, option: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ending(monkeypatch, command, option) == 0
    assert " ".join(capsys.readouterr().out.split()).endswith(EXIT_CODES)


def test_a_terminal_that_goes_stops_nothing_that_is_to_outlast_it() -> None:
    """As `nohup` has it. Seen to fail with the handler set whatever there was, and at another signal."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    stopped: list[bool] = []
    try:
        with stopping_on_signals(lambda: stopped.append(True)):
            os.kill(os.getpid(), signal.SIGHUP)
            assert not stopped
            os.kill(os.getpid(), signal.SIGTERM)
            assert stopped
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN  # for children that are started yet
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_stops_in_good_order_and_the_second_does_what_it_always_does(number: signal.Signals) -> None:
    stopped, ended = [], []
    before = signal.signal(number, lambda *_: ended.append(True))
    try:
        with stopping_on_signals(lambda: stopped.append(True)):
            os.kill(os.getpid(), number)
            assert (stopped, ended) == ([True], [])
            os.kill(os.getpid(), number)
            assert (stopped, ended) == ([True], [True])
        os.kill(os.getpid(), number)
        assert (stopped, ended) == ([True], [True, True])
        with stopping_on_signals(lambda: stopped.append(True)):
            pass  # and none comes
        os.kill(os.getpid(), number)
        assert (stopped, ended) == ([True], [True, True, True])
    finally:
        signal.signal(number, before)
        signal.signal(signal.SIGHUP, signal.SIG_DFL)


def test_a_terminal_that_goes_may_say_so_more_than_once() -> None:
    """A shell tells its jobs, and so does the kernel as that shell ends. Seen to fail: the second one killed us."""
    stopped, ended = [], []
    before = signal.signal(signal.SIGHUP, lambda *_: ended.append(True))
    try:
        with stopping_on_signals(lambda: stopped.append(True)):
            os.kill(os.getpid(), signal.SIGHUP)
            os.kill(os.getpid(), signal.SIGHUP)
        os.kill(os.getpid(), signal.SIGHUP)
        assert (stopped, ended) == ([True], [])
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("number", ENDS)
def test_a_terminal_that_goes_as_a_command_ends_leaves_no_folder(tmp_path: Path, number: signal.Signals) -> None:
    """Seen to fail: the second signal ended the clearing away that the first had begun."""
    code = f"""
import os, signal, tempfile, click
from schemas.command_line import run
@click.command()
def work():
    with tempfile.TemporaryDirectory(dir={str(tmp_path)!r}):
        try:
            os.kill(os.getpid(), signal.{number.name})
        finally:
            os.kill(os.getpid(), signal.SIGHUP)
run(work)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert (done.returncode, done.stdout, done.stderr) == (-number, "", "")
    assert not list(tmp_path.iterdir())


def test_an_interrupt_stops_a_command_in_a_scripts_background_too() -> None:
    """Shells have such a one ignore it. Seen to fail where what is ignored stays so, as it does of the terminal's."""
    stopped: list[bool] = []
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with stopping_on_signals(lambda: stopped.append(True)):
            os.kill(os.getpid(), signal.SIGINT)
            assert stopped
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_options_that_were_left_out_hide_nothing() -> None:
    assert given({"rounds": None, "input": (), "seed": 0, "evaluate": False}) == {"seed": 0, "evaluate": False}
