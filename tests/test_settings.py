"""One precedence for both ends: flags over environment over file over defaults."""

from __future__ import annotations

import codecs
from pathlib import Path

import pytest

from coordinator.config import CoordinatorSettings
from schemas.errors import SettingsError
from schemas.settings import load


def origins(flags: dict[str, object], config: Path | None = None) -> dict[str, tuple[object, str]]:
    _, found = load(CoordinatorSettings, flags, config)
    return {origin.name: (origin.value, origin.source) for origin in found}


@pytest.fixture
def toml(tmp_path: Path) -> Path:
    path = tmp_path / "run.toml"
    path.write_text('rounds = 7\ncodec = "float16"\nseed = 3\n[train]\nlearning_rate = 0.1\nbatch_size = 8\n')
    return path


def test_flag_beats_environment_beats_file_beats_default(toml: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDBEAT_CODEC", "int8")
    monkeypatch.setenv("FEDBEAT_SEED", "4")
    settings, _ = load(CoordinatorSettings, {"seed": 5}, toml)
    assert (settings.seed, settings.codec, settings.rounds, settings.deadline) == (5, "int8", 7, 600.0)


def test_each_value_knows_its_source(toml: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDBEAT_CODEC", "int8")
    found = origins({"seed": 5}, toml)
    assert found["seed"] == (5, "flag")
    assert found["codec"] == ("int8", "environment")
    assert found["rounds"] == (7, str(toml))
    assert found["deadline"] == (600.0, "default")
    assert found["train.batch_size"] == (8, str(toml))


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("FEDBEAT_ROUNS", "FEDBEAT_ROUNDS"),
        ("FEDBEAT_MAX_STALENES", "FEDBEAT_MAX_STALENESS"),
        ("FEDBEAT_TRIAN__EPOCHS", None),  # too far to say
        ("FEDBEAT_TRAIM__EPOCHS", None),
        ("FEDBEAT_DEVICES", None),  # of edge fleet
        ("FEDBEAT_OUTBOX_DAYS", None),  # of edge run
        ("FEDBEAT_ROUNDS", None),
        ("ROUNS", None),
    ],
)
def test_a_misspelt_variable_is_warned_of_and_one_of_another_command_is_not(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, name: str, near: str | None
) -> None:
    """Seen to fail without ``_misspelt``."""
    monkeypatch.setenv(name, "7")
    load(CoordinatorSettings, {}, None)
    expected = [f"{name} in the environment is no setting of this command: did you mean {near}?"] if near else []
    assert [one.getMessage() for one in caplog.records] == expected


def test_tables_are_merged_entry_by_entry(toml: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDBEAT_TRAIN__BATCH_SIZE", "16")
    settings, _ = load(CoordinatorSettings, {"train": {"epochs": 2}}, toml)
    assert settings.train == {"learning_rate": 0.1, "batch_size": "16", "epochs": 2}


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("rouns = 3", "rouns"),
        ("rounds = 0", "rounds"),
        ('rounds = "many"', "rounds"),
        ("rounds = ", "not valid TOML"),
        ("[train]\nx = 1\n[train]\n", "not valid TOML"),
    ],
)
def test_a_wrong_file_is_named_with_its_mistake(tmp_path: Path, text: str, complaint: str) -> None:
    path = tmp_path / "run.toml"
    path.write_text(text)
    with pytest.raises(SettingsError, match=complaint) as caught:
        load(CoordinatorSettings, {}, path)
    assert str(path) in str(caught.value)


def test_a_file_that_an_editor_marked_as_utf_8_is_read_as_any_other(toml: Path) -> None:
    """Seen to fail: "Invalid statement (at line 1, column 1)"."""
    toml.write_bytes(codecs.BOM_UTF8 + toml.read_bytes())
    assert origins({}, toml)["rounds"] == (7, str(toml))


def test_a_missing_file_is_an_error_not_a_default(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="can't read"):
        load(CoordinatorSettings, {}, tmp_path / "none.toml")


def test_a_password_is_not_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDBEAT_PASSWORD", "hush")
    value, source = origins({})["password"]
    assert "hush" not in str(value)
    assert source == "environment"


@pytest.mark.parametrize("given", [{"broker": "mqtt://pi@host"}, {"broker": "mqtt://host", "username": "pi"}])
def test_a_password_from_the_environment_goes_with_the_user_wherever_that_is_named(
    given: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen to fail with a user in the broker's address: the password was left out without a word."""
    monkeypatch.setenv("FEDBEAT_PASSWORD", "hush")
    address = load(CoordinatorSettings, given, None)[0].mqtt("coordinator").address
    assert (address.username, address.password) == ("pi", "hush")


def test_how_soon_a_silent_connection_is_noticed_is_a_setting_of_the_link(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDBEAT_KEEPALIVE", "7")
    settings, _ = load(CoordinatorSettings, {"broker": "mqtt://host"}, None)
    assert settings.mqtt("coordinator").keepalive_s == 7


def test_a_table_in_the_environment_that_is_no_json_says_how_to_write_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seen to fail without ``UnreadableSetting`` in ``load``."""
    monkeypatch.setenv("FEDBEAT_TRAIN", "{")
    with pytest.raises(SettingsError, match=r'"train".*FEDBEAT_TRAIN__EPOCHS'):
        load(CoordinatorSettings, {}, None)


def test_a_list_in_the_environment_is_json_and_one_that_is_not_says_how_to_write_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FEDBEAT_INPUT", '["6x150", "3"]')
    assert load(CoordinatorSettings, {}, None)[0].input == ("6x150", "3")
    monkeypatch.setenv("FEDBEAT_INPUT", "6x150")
    with pytest.raises(SettingsError, match=r'FEDBEAT_INPUT: "input" as a whole must be JSON; write \["a", "b"\]'):
        load(CoordinatorSettings, {}, None)


def test_a_table_may_come_as_json_with_single_entries_over_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seen to fail with ``values[field] = table`` in ``_environment``."""
    monkeypatch.setenv("FEDBEAT_TRAIN", '{"epochs": 2, "momentum": 0.5}')
    monkeypatch.setenv("fedbeat_train__momentum", "0.1")
    assert origins({})["train.epochs"] == (2, "environment")
    assert origins({})["train.momentum"] == ("0.1", "environment")


def test_names_in_the_environment_that_are_no_setting_are_somebody_elses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDBEAT_MITDB", "/data")
    monkeypatch.setenv("FEDBEAT_CODEC__LEVEL", "1")
    assert {source for _, source in origins({}).values()} == {"default"}


@pytest.mark.parametrize(
    "text", ["a = " + "[" * 5000, "rounds = " + "9" * 5000, 'a = "\ud800"'], ids=["depth", "digits", "text"]
)
def test_a_file_that_no_parser_can_take_is_an_error_in_one_sentence(tmp_path: Path, text: str) -> None:
    """Seen to fail with ``tomllib.TOMLDecodeError`` alone."""
    (tmp_path / "own.toml").write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(SettingsError, match="is not valid TOML"):
        load(CoordinatorSettings, {}, tmp_path / "own.toml")
