"""What can't work ends in one sentence that says what to do, and in its own exit code."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge.cli import cli as edge
from schemas import plan_file
from schemas.plan import Plan
from schemas.plan_file import PlanFile
from tests.link_mosquitto import Mosquitto, free_port, program
from tests.running_commands import COORDINATOR, EDGE, MITDB, QUICK, Running, finished, in_process, together

START = (*COORDINATOR, "start", "--rounds", "1")

NARROW = Plan.build(
    name="narrow",
    data="watch",
    inputs=({"name": "x", "shape": (6, 100)},),
    classes=("calm", "brisk"),
    report=("calm", "brisk"),
    parameters=({"name": "weight", "shape": (2, 600), "init": {"kind": "constant", "value": 0.0}},),
    operations=(
        {"out": "flat", "op": "flatten.using_ints", "args": ("%x", 1)},
        {"out": "logits", "op": "linear", "args": ("%flat", "%weight")},
        {"out": "loss", "op": "cross_entropy_loss", "args": ("%logits", "%labels", "%class_weights")},
    ),
    loss="loss",
    logits="logits",
)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("refused")


@pytest.fixture(scope="module", autouse=True)
def unanswered(home: Path) -> Iterator[tuple[str, list[Running]]]:
    """Commands that look for a broker where there is none; they take ten seconds to give up, beside the other tests."""
    nowhere = f"mqtt://127.0.0.1:{free_port()}"
    start = (*START, "--plan", "watch", "--state", "nowhere", "--broker", nowhere)
    with together(start, (*COORDINATOR, "status", "--broker", nowhere), cwd=home) as commands:
        yield nowhere, commands


@pytest.fixture(scope="module")
def broker(home: Path) -> Iterator[Mosquitto]:
    with Mosquitto(home) as running:
        yield running


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mosquitto]:
    """A broker that lets in `pi` with `right`, and nobody else."""
    directory = tmp_path_factory.mktemp("guarded")
    passwords = directory / "passwords"
    subprocess.run([program("mosquitto_passwd"), "-c", "-b", str(passwords), "pi", "right"], check=True)
    passwords.chmod(0o600)
    with Mosquitto(directory, f"listener 1883\nallow_anonymous false\npassword_file {passwords}\n") as running:
        yield running


def test_a_broker_that_refuses_us_says_which_setting_to_change(home: Path, guarded: Mosquitto) -> None:
    wrong = guarded.address.replace("//", "//pi:wrong@")
    with together(
        (*START, "--plan", "watch", "--state", "refused", "--broker", wrong),
        (*COORDINATOR, "status", "--broker", guarded.address),
        (*EDGE, "run", "--data", "watch", "--device", "dev-one", "--broker", wrong),
        cwd=home,
    ) as commands:
        for command in commands:
            sentence = command.end().says(5, "refuse", "password")
            assert "wrong" not in sentence


def test_credentials_of_the_settings_file_reach_the_virtual_devices_too(home: Path, guarded: Mosquitto) -> None:
    (home / "run.toml").write_text(f'broker = "{guarded.address}"\nusername = "pi"\npassword = "right"\nrounds = 1\n')
    done = finished(*COORDINATOR, "start", "--config", "run.toml", "--state", "let-in", *QUICK, cwd=home)
    assert (done.code, done.err) == (0, "")
    assert "finished with model 1" in done.out


@pytest.mark.parametrize("broker", ["nonsense", "http://host", "mqtt://host:99999", "mqtt://"])
def test_a_malformed_broker_address_is_a_settings_error(home: Path, broker: str) -> None:
    arguments = ("run", "--broker", broker, "--data", "watch", "--device", "dev-one")
    in_process(edge, *arguments, cwd=home).says(2, "mqtt")


@pytest.mark.parametrize("output", [">&-", ">/dev/full", ">/dev/full 2>&1"])
def test_output_that_goes_nowhere_changes_nothing_of_how_a_run_ends(home: Path, broker: Mosquitto, output: str) -> None:
    """Closed, or a file on a full disk. Seen to fail with a traceback, and the exit code of a bug."""
    arguments = ("--plan", "watch", "--state", "unheard", "--deadline", "1", "--broker", broker.address)
    shell = ("sh", "-c", f'exec "$@" {output}', "sh")
    with Running(*START, *arguments, "--federation", "unheard", cwd=home, within=shell) as command:
        done = command.end()
    assert done.code == 6
    if "2>" not in output:
        done.says(6, "no device came within 1 s")


def test_an_answer_that_a_full_disk_does_not_take_is_told_in_a_sentence(home: Path) -> None:
    """Seen to fail likewise."""
    shell = ("sh", "-c", 'exec "$@" >/dev/full', "sh")
    with Running(*COORDINATOR, "plan", "show", "watch", cwd=home, within=shell) as command:
        command.end().says(7, "can't write its output: No space left on device", "Free some disk space")


def test_nobody_within_the_deadline_says_what_to_start(home: Path, broker: Mosquitto) -> None:
    arguments = ("--plan", "watch", "--state", "alone", "--deadline", "1", "--broker", broker.address)
    done = finished(*START, *arguments, "--federation", "empty", cwd=home)
    done.says(6, "no device came within 1 s", "start `edge run`", "federation")


def test_a_plan_that_does_not_fit_is_declined_and_the_coordinator_gives_the_reason(
    home: Path, broker: Mosquitto
) -> None:
    plan_file.write(PlanFile(NARROW, {}), home / "narrow.plan")
    plan = ("--plan", "narrow.plan", "--deadline", "2", "--state", "unfit", "--broker", broker.address)
    device = (*EDGE, "run", "--broker", broker.address, "--data", "watch", "--device", "dev-one")
    with Running(*device, cwd=home):
        done = finished(*START, *plan, cwd=home)
    done.says(6, "dev-one: ", "the plan takes examples of 6x100; the data here has 6x150")
    assert "dev-one declines: the plan takes examples of 6x100" in done.out


@pytest.fixture(scope="module")
def unlabelled(home: Path) -> Path:
    folder = home / "unlabelled"
    folder.mkdir()
    for ending in ("hea", "dat"):
        shutil.copy(MITDB / f"100.{ending}", folder)
    (home / "empty").mkdir()
    (home / "notes.txt").write_text("no recordings")
    return folder


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("missing", ("there is nothing at missing", "give the folder or file")),
        ("empty", ("empty is empty", "put recordings there")),
        ("notes.txt", ("notes.txt", "no recordings that can be read", ".csv")),
    ],
)
def test_recordings_that_cannot_be_used_are_told_by_data_show(
    home: Path, unlabelled: Path, path: str, words: tuple[str, ...]
) -> None:
    assert unlabelled.is_dir()  # and so are those beside it
    in_process(edge, "data", "show", path, cwd=home).says(3, *words)


@pytest.mark.parametrize(
    ("data", "words"),
    [("missing", "there is nothing at missing"), ("unlabelled", "has no annotations (100.atr)")],
)
def test_virtual_devices_that_cannot_use_the_recordings_end_the_run_in_their_words(
    home: Path, unlabelled: Path, data: str, words: str
) -> None:
    assert unlabelled.is_dir()
    arguments = ("--plan", "ecg-beats", "--data", data, "--state", f"data-{data}", *QUICK)
    done = finished(*START, *arguments, cwd=home)
    done.says(3, "the virtual devices ended: ", words, "fleet.log")


def test_a_device_without_its_recordings_ends_at_once(home: Path) -> None:
    arguments = ("run", "--broker", "mqtt://127.0.0.1", "--device", "dev-one", "--data", "missing")
    finished(*EDGE, *arguments, cwd=home).says(3, "there is nothing at missing", "give the folder or file")


def test_a_broker_that_does_not_answer_is_named_with_what_to_check(unanswered: tuple[str, list[Running]]) -> None:
    nowhere, commands = unanswered
    for command in commands:
        command.end().says(5, nowhere, "check")


def test_a_start_that_found_no_broker_is_mended_by_the_next_with_other_settings(
    home: Path, unanswered: tuple[str, list[Running]], broker: Mosquitto
) -> None:
    """And so is one that found no device. Seen to fail: each was refused, and asked for ``--fresh``."""
    _, (start, _) = unanswered
    assert start.end().code == 5
    again = (*START, "--plan", "digits", "--state", "nowhere", "--deadline", "1", "--federation", "mended")
    for more in ((), ("--seed", "2"), ("--codec", "int8")):
        finished(*again, *more, "--broker", broker.address, cwd=home).says(6, "no device came within 1 s")
    assert not (home / "nowhere.1").exists()


@pytest.mark.parametrize(
    "command",
    [
        ("run", "--device", "dev-one", "--data", "watch"),
        ("bench", "--plan", "watch", "--data", "watch"),
        ("fleet", "--devices", "2", "--data", "watch", "--broker", "mqtt://localhost"),
    ],
    ids=lambda command: command[0],
)
def test_a_rule_for_what_is_held_out_that_is_none_is_refused(home: Path, command: tuple[str, ...]) -> None:
    """Seen to fail with a traceback, but for a fleet."""
    done = finished(*EDGE, *command, "--state", "held-out", "--held-out", "some", cwd=home)
    done.says(2, "held_out: held_out 'some' is not known: use 'auto', 'none', or a fraction between 0 and 1")


@pytest.mark.parametrize(
    "command",
    [("bench", "--seconds"), ("predict", "--window"), ("data", "prune", ".", "--days")],
    ids=lambda command: command[0],
)
def test_a_bounded_number_that_is_none_is_refused(home: Path, command: tuple[str, ...]) -> None:
    """Seen to fail: click takes ``nan`` for a number within any bounds, and ``bench`` ended with a traceback."""
    done = in_process(edge, *command, "nan", cwd=home)
    assert done.code == 2
    assert "nan is not in the range" in done.err
