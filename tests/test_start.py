from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from coordinator.cli import cli
from coordinator.config import CoordinatorSettings
from coordinator.database import claim
from coordinator.service import RunResult
from coordinator.start import Services, check_class_weights, set_aside, start, with_data, with_defaults
from schemas import plan_file
from schemas.command_line import run
from schemas.errors import FedbeatError, Outranked, SettingsError, StateError, Superseded
from tests.locked_folder import NOBODY

WATCH = plan_file.find("watch").plan
ECG = plan_file.find("ecg-beats").plan


def test_without_broker_and_virtual_devices_both_ways_on_are_named() -> None:
    with pytest.raises(SettingsError, match=r"--broker mqtt://HOST, or --virtual 8"):
        with_defaults(CoordinatorSettings(plan="watch"))


def test_virtual_devices_learn_from_the_watch_unless_told_otherwise() -> None:
    settings = with_data(with_defaults(CoordinatorSettings(virtual=2)), WATCH)
    assert (settings.plan, settings.data) == ("watch", "watch")
    told = CoordinatorSettings(virtual=2, plan="watch", data="/recordings")
    assert with_data(with_defaults(told), WATCH) == told
    assert with_data(CoordinatorSettings(virtual=2, plan="ecg-beats"), ECG).data == "synthetic-ecg"
    own = ECG.model_copy(update={"data": "windows"})
    with pytest.raises(SettingsError, match=r"recordings for 'windows': add --data PATH"):
        with_data(CoordinatorSettings(virtual=2, plan="ecg-beats"), own)


def test_there_is_one_class_weight_a_class() -> None:
    for fitting in ("none", "balanced", (1.0, 2.0)):
        check_class_weights(fitting, ("calm", "brisk"))
    with pytest.raises(SettingsError, match=r"has 3 numbers, the plan 2 classes \(calm, brisk\)"):
        check_class_weights((1.0, 2.0, 3.0), ("calm", "brisk"))


@pytest.fixture
def state(tmp_path: Path) -> Path:
    directory = tmp_path / "state"
    directory.mkdir()
    (directory / "precious").write_text("a model")
    return directory


def test_fresh_sets_a_run_aside_under_the_next_free_number(state: Path) -> None:
    state.with_name("state.1").mkdir()
    set_aside(state)
    assert not state.exists()
    assert (state.with_name("state.2") / "precious").read_text() == "a model"
    set_aside(state)  # nothing there is nothing to do


def test_fresh_says_how_a_directory_is_renamed_that_its_user_may_not_rename() -> None:
    """The unit's state directory lies in one of root's. Seen to fail without a word on what to do next."""
    with TemporaryDirectory() as parent:
        state = Path(parent) / "state"
        state.mkdir()
        (state / "precious").write_text("a model")
        Path(parent).chmod(0o555)
        root = os.geteuid() == 0
        if root:
            os.chown(state, NOBODY, -1)
            os.seteuid(NOBODY)
        try:
            with pytest.raises(StateError, match=rf"Permission denied.*\(sudo mv {state} {state}.1\)"):
                set_aside(state)
        finally:
            if root:
                os.seteuid(0)
            Path(parent).chmod(0o700)


def test_fresh_says_that_a_file_is_no_state_directory(state: Path) -> None:
    """Seen to fail with a traceback."""
    with pytest.raises(StateError, match=r"precious is no directory.*check --state"):
        set_aside(state / "precious")


def test_fresh_leaves_the_state_of_a_running_coordinator_alone(state: Path) -> None:
    with claim(state / "journal.db"), pytest.raises(StateError, match="in use by another coordinator"):
        set_aside(state)
    assert (state / "precious").exists()


@pytest.mark.parametrize("wrong", [{"plan": "missing"}, {"plan": "watch", "codec": "zip"}])
def test_fresh_sets_nothing_aside_for_a_command_that_can_not_start(state: Path, wrong: dict[str, str]) -> None:
    settings = CoordinatorSettings(virtual=2, state=state, **wrong)
    with pytest.raises(Exception, match=r"no plan|no codec"):
        start(settings, fresh=True)
    assert (state / "precious").exists()


def outcome(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str
) -> tuple[object, str, str]:
    monkeypatch.setattr("sys.argv", ["coordinator", *arguments])
    with pytest.raises(SystemExit) as ended:
        run(cli)
    return (ended.value.code, *capsys.readouterr())


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("round = 3", ("unknown setting 'round' (from", "did you mean 'rounds'?")),
        ("wholly_unknown = 3", ("unknown setting 'wholly_unknown'", "--show-config lists all")),
        ("rounds = 0", ("rounds = 0 (from", "greater than or equal to 1")),
        ('federation = "A/b"', ("federation (from", "'A/b' can't stand in a topic, use 3 to 63 lower-case letters")),
        ("rounds = ", ("not valid TOML",)),
        ("password = 123", ("password (from",)),
        ('[train]\noptimizer = "lamb"', ("train.optimizer = 'lamb'", "'sgd' or 'adam'")),
        ('[strategy]\nname = "best"', ("there is no strategy 'best': choose one of fedavg",)),
    ],
)
def test_a_wrong_entry_of_the_settings_file_is_named_with_its_file(
    tmp_path: Path,
    text: str,
    words: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "run.toml").write_text(f"virtual = 2\n{text}\n")
    state = ("--state", str(tmp_path / "state"))
    code, _, err = outcome(monkeypatch, capsys, "start", "--config", str(tmp_path / "run.toml"), *state)
    assert code == 2
    for word in words:
        assert word in err
    assert "123" not in err


def test_a_settings_file_that_is_not_there_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = outcome(monkeypatch, capsys, "start", "--config", "nowhere.toml")
    assert (code, err) == (2, "error: can't read the settings file nowhere.toml: No such file or directory\n")


class Scripted:
    """A service that ends as it is told."""

    def __init__(self, end: RunResult | FedbeatError, before: Callable[[], None] = lambda: None) -> None:
        self.stops: list[FedbeatError | None] = []
        self._end = end
        self._before = before

    def stop(self, error: FedbeatError | None = None) -> None:
        self.stops.append(error)

    def run(self) -> RunResult:
        self._before()
        if isinstance(self._end, FedbeatError):
            raise self._end
        return self._end


DONE = RunResult("run-1", 3, "0" * 64, (), stopped=False)


def services(*scripted: Scripted) -> tuple[Services, list[bool]]:
    """What goes through these, and what each was made with."""
    left, asked = list(scripted), list[bool]()

    def build(*, again: bool) -> Scripted:
        asked.append(again)
        return left.pop(0)

    return Services(build), asked  # type: ignore[arg-type]  # as much of a service as is used


def test_another_service_follows_one_that_was_outranked_and_no_other() -> None:
    """Seen to fail with ``Superseded`` in its place."""
    both, asked = services(Scripted(Outranked("offline")), Scripted(Outranked("stopped")), Scripted(DONE))
    assert both.run() == DONE
    assert asked == [False, True, True]
    one, asked = services(Scripted(Superseded("it serves")), Scripted(DONE))
    with pytest.raises(Superseded, match="it serves"):
        one.run()
    assert asked == [False]


def test_a_stop_reaches_the_service_there_is_and_the_one_that_follows() -> None:
    """Seen to fail without the second: a stop that comes as one ends is lost with it."""
    why = FedbeatError("the virtual devices ended")
    first, second = Scripted(Outranked("offline"), before=lambda: all_of_them.stop(why)), Scripted(DONE)
    all_of_them, _ = services(first, second)
    assert all_of_them.run() == DONE
    assert (first.stops, second.stops) == ([why], [why])
