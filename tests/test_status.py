"""The federation as its retained messages tell it."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest
from rich.console import Console

from coordinator import status
from coordinator.config import CoordinatorSettings
from coordinator.status import FIRST_S, Snapshot, _devices, _rounds, read, show
from schemas import codec
from schemas.errors import BrokerUnreachable, FederationError
from schemas.link.link import Disconnected, Link, Sink, Will
from schemas.link.memory import MemoryBroker, MemoryLink
from schemas.messages import (
    BlobRef,
    CoordinatorState,
    CoordinatorStatus,
    DeviceState,
    DeviceStatus,
    Health,
    Message,
    Metrics,
    ModelPointer,
    Phase,
    RoundAnnouncement,
    RoundSummary,
)
from schemas.topics import Address, Kind, Topics

TOPICS = Topics("home")
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
COORDINATOR = CoordinatorStatus(
    state=CoordinatorState.STOPPED,
    session=3,
    run="run-one",
    round=2,
    rounds=5,
    model_version=2,
    detail="[/b] no device",
)
DEVICE = DeviceStatus(device="dev-one", session=1, state=DeviceState.TROUBLE, heartbeat_s=30.0, detail="no recordings")
SUMMARY = RoundSummary(run="run-one", round=2, outcome="abandoned", reason="nobody came", model_version=1)
ANNOUNCED = RoundAnnouncement(
    run="run-one",
    round=4,
    task="train",
    phase=Phase.COLLECTING,
    nonce="0" * 16,
    model_version=3,
    model_digest="0" * 64,
    opened="2026-11-24T13:30:19+00:00",
    deadline_s=600,
    remaining_s=600,
    goal=3,
    quorum=1,
)


def broker_with(**messages: Message) -> MemoryBroker:
    broker = MemoryBroker()
    writer = MemoryLink(broker, "writer", lambda _: None, Will("gone", b""))
    writer.open()
    addresses = {
        "coordinator": Address(Kind.COORDINATOR),
        "device": Address(Kind.DEVICE, device="dev-one"),
        "summary": Address(Kind.SUMMARY, number=2),
        "round": Address(Kind.ROUND),
    }
    for name, message in messages.items():
        writer.publish(TOPICS.topic(addresses[name]), codec.encode(message), qos=1, retain=True)
    writer.publish(TOPICS.prefix + "devices/dev-two", b"{}", qos=1, retain=True)
    writer.close()
    return broker


def look(broker: MemoryBroker, topics: Topics = TOPICS) -> Snapshot:
    return read(lambda sink: MemoryLink(broker, "status", sink, Will("gone", b"")), topics)


def test_everything_retained_is_in_its_place_and_what_can_not_be_read_is_counted() -> None:
    snapshot = look(broker_with(coordinator=COORDINATOR, device=DEVICE, summary=SUMMARY))
    assert (snapshot.coordinator, snapshot.devices, snapshot.summaries) == (
        COORDINATOR,
        {"dev-one": DEVICE},
        {2: SUMMARY},
    )
    assert snapshot.unreadable == 1
    text = "\n".join(snapshot.lines(NOON))
    assert "coordinator stopped: run run-one, round 2 of 5. [/b] no device" in text
    assert "1 retained message can't be read" in text
    plain = json.loads(json.dumps(snapshot.plain()))
    assert (plain["coordinator"]["state"], list(plain["rounds"]), plain["model"]) == ("stopped", ["2"], None)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (12, "it last said so 12 s ago, and does every 30 s"),
        (75, "it last said so 75 s ago, and does every 30 s"),
        (76, "it last said so 76 s ago, and does every 30 s (that is too long: it hangs, or has no connection)"),
        (-5, "it last said so 0 s ago, and does every 30 s"),
    ],
)
def test_how_long_a_coordinator_has_been_silent_is_told(seconds: int, words: str) -> None:
    """Seen to fail with ``PATIENCE`` 2."""
    said = (NOON - timedelta(seconds=seconds)).isoformat()
    serving = COORDINATOR.model_copy(update={"state": CoordinatorState.RUNNING, "said": said})
    assert list(Snapshot(coordinator=serving).lines(NOON))[1:] == [words]


@pytest.mark.parametrize("changes", [{}, {"said": ""}, {"said": "noon"}, {"state": CoordinatorState.STOPPED}])
def test_a_coordinator_that_ended_or_tells_no_time_is_not_called_silent(changes: dict[str, object]) -> None:
    plain = COORDINATOR.model_copy(update={"state": CoordinatorState.RUNNING, **changes})
    assert len(list(Snapshot(coordinator=plain).lines(NOON))) == 1


def test_the_open_round_is_told_and_what_it_takes_for_it_to_close() -> None:
    serving = COORDINATOR.model_copy(update={"state": CoordinatorState.RUNNING})
    progress = {"selected": 3, "joined": 2, "received": 1, "attempt": 1}
    snapshot = Snapshot(coordinator=serving, round=ANNOUNCED.model_copy(update=progress))
    assert list(snapshot.lines(NOON))[1:] == [
        "round 4, training, attempt 2: 1 of 3 updates received, 2 of 3 devices joined",
        "it opened at 2026-11-24T13:30:19+00:00 and closes within 600 s; it needs 1 update",
    ]


@pytest.mark.parametrize("changes", [{"phase": Phase.COMMITTED}, {"run": "run-before"}])
def test_a_round_that_is_closed_or_another_runs_is_not_told_as_open(changes: dict[str, object]) -> None:
    snapshot = Snapshot(coordinator=COORDINATOR, round=ANNOUNCED.model_copy(update=changes))
    assert len(list(snapshot.lines(NOON))) == 1


def test_another_federation_is_not_there() -> None:
    broker = broker_with(coordinator=COORDINATOR)
    with pytest.raises(FederationError, match="nothing of a federation 'away': check --federation"):
        look(broker, Topics("away"))


class Silent:
    """A link that is never connected, or fails with ``error``."""

    def __init__(self, sink: Sink, error: BrokerUnreachable | None) -> None:
        if error is not None:
            sink(Disconnected(error, fatal=False, retry_in_s=1.0))

    def __getattr__(self, name: str) -> object:
        return lambda *_, **__: None


@pytest.mark.parametrize("error", [None, BrokerUnreachable("no broker answers there: check that it runs")])
def test_a_broker_that_does_not_answer_is_told_without_another_try(error: BrokerUnreachable | None) -> None:
    def link(sink: Sink) -> Link:
        return Silent(sink, error)  # type: ignore[return-value]  # all of a link's verbs, doing nothing

    with pytest.raises(BrokerUnreachable, match="check"):
        read(link, TOPICS, timeout_s=FIRST_S / 20)


def test_rounds_that_an_earlier_run_left_on_the_broker_are_not_shown() -> None:
    snapshot = look(broker_with(coordinator=COORDINATOR, summary=SUMMARY.model_copy(update={"run": "run-old"})))
    assert list(snapshot.summaries) == [2]
    assert (snapshot.rounds(), snapshot.plain()["rounds"]) == ([], {})


def test_a_coordinator_that_broke_off_is_told_with_the_round_it_was_in() -> None:
    will = COORDINATOR.model_copy(update={"state": CoordinatorState.OFFLINE, "round": 0, "detail": ""})
    snapshot = look(broker_with(coordinator=will, round=ANNOUNCED))
    assert next(snapshot.lines(NOON)) == "coordinator offline: run run-one, round 4 of 5 collecting"
    later = look(broker_with(coordinator=will, round=ANNOUNCED.model_copy(update={"run": "run-two"})))
    assert next(later.lines(NOON)) == "coordinator offline: run run-one, round 0 of 5"


def test_the_round_is_told_as_its_newest_announcement_has_it() -> None:
    """A status says it up to ten seconds later. Seen to fail with the announcement for a last will alone."""
    serving = COORDINATOR.model_copy(update={"state": CoordinatorState.RUNNING, "round": 3, "phase": "committed"})
    snapshot = Snapshot(coordinator=serving.model_copy(update={"detail": ""}), round=ANNOUNCED)
    assert next(snapshot.lines(NOON)) == "coordinator running: run run-one, round 4 of 5 collecting"


def test_the_memory_a_device_took_is_shown_beside_its_temperature(capsys: pytest.CaptureFixture[str]) -> None:
    """Seen to fail without ``_peaks`` in the row."""
    health = Health(temperature_c=61.4, agent_peak_mb=43.4, trainer_peak_mb=311.7)
    warm = DEVICE.model_copy(update={"health": health})
    young = DEVICE.model_copy(update={"device": "dev-two", "health": Health(agent_peak_mb=41.0)})
    Console(width=100).print(_devices(Snapshot(devices={"dev-one": warm, "dev-two": young})))
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if line.strip()}
    assert "61  43+312  no" in lines["dev-one"]
    assert lines["dev-two"].split()[4] == "41"


def test_a_recorder_in_trouble_shows_among_the_remarks(capsys: pytest.CaptureFixture[str]) -> None:
    """Seen to fail with the detail of its rounds alone."""
    lost = DEVICE.model_copy(update={"health": Health(recording="no electrode contact"), "detail": "resting"})
    Console(width=140).print(_devices(Snapshot(devices={"dev-one": lost})))
    assert "resting; recording: no electrode contact" in capsys.readouterr().out


def test_the_codec_that_a_device_chose_shows(capsys: pytest.CaptureFixture[str]) -> None:
    """Seen to fail where only programs were given it."""
    device = DEVICE.model_copy(update={"codec": "topk10", "budget_left": 0.07})
    Console(width=140).print(_devices(Snapshot(devices={"dev-one": device})))
    assert "chose topk10; 7% of its budget left" in capsys.readouterr().out


def test_figures_of_made_up_people_are_said_to_be_that(capsys: pytest.CaptureFixture[str]) -> None:
    """Seen to fail where nothing but the device's own log told."""
    metrics = Metrics(examples=9, loss=0.5, accuracy=0.75, macro_f1=0.7, synthetic=1)
    summary = SUMMARY.model_copy(update={"outcome": "committed", "reason": "", "metrics": metrics})
    blob = BlobRef(digest="0" * 64, size=100, parts=1)
    model = ModelPointer(run="run-one", version=2, digest="1" * 64, previous=None, blob=blob, metrics=metrics)
    device = DEVICE.model_copy(update={"synthetic": True, "detail": ""})
    snapshot = Snapshot(COORDINATOR, model=model, summaries={2: summary}, devices={"dev-one": device})
    assert any(line.endswith("accuracy 0.750 on held-out examples (synthetic people)") for line in snapshot.lines(NOON))
    Console(width=140).print(_devices(snapshot), _rounds(snapshot))
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines if line.rstrip().endswith("synthetic people")] == ["dev-one", "2"]


def test_what_is_left_of_a_budget_shows_and_no_word_twice(capsys: pytest.CaptureFixture[str]) -> None:
    """Seen to fail where only programs were given the budget, and with `recording: recording`."""
    health = Health(recording="recording, quality 0.98")
    device = DEVICE.model_copy(update={"health": health, "detail": "", "budget_left": 0.07})
    Console(width=140).print(_devices(Snapshot(devices={"dev-one": device})))
    out = capsys.readouterr().out
    assert " recording, quality 0.98; 7% of its budget left" in out
    assert "recording: recording" not in out


def test_on_a_narrow_terminal_each_device_is_told_by_its_whole_name(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Seen to fail at 60 columns with `pi-…` for each, and at 40 with no column of names at all."""
    names = [f"pi-{room}-of-the-house-beside-the-sea" for room in ("kitchen", "bedroom")]
    devices = {name: DEVICE.model_copy(update={"device": name, "detail": "resting " * 9}) for name in names}
    monkeypatch.setattr(status, "read", lambda *_: Snapshot(devices=devices))
    monkeypatch.setenv("COLUMNS", "40")
    show(CoordinatorSettings(broker="mqtt://host"), as_json=False)
    column = "".join(line[:20].split(" ")[0] for line in capsys.readouterr().out.splitlines())
    assert all(name in column for name in names)


def test_thousands_of_devices_with_long_remarks_are_told_in_a_page(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """And how many more there are; `--all` and `--json` tell each.

    Seen to fail without ``ROWS`` and ``REMARK``: 12,000 of them took 49 s, and 20 MB of text.
    """
    device = DEVICE.model_copy(update={"detail": "a word " * 70})
    names = [f"dev-{number:04}" for number in range(1500)]
    states = [DeviceState.OFFLINE if number % 100 == 0 else DeviceState.TROUBLE for number in range(1500)]
    devices = {
        name: device.model_copy(update={"device": name, "state": state})
        for name, state in zip(names, states, strict=True)
    }
    summaries = {number: SUMMARY.model_copy(update={"round": number}) for number in range(1, 151)}
    monkeypatch.setattr(status, "read", lambda *_: Snapshot(devices=devices, summaries=summaries))
    monkeypatch.setenv("COLUMNS", "100")
    settings = CoordinatorSettings(broker="mqtt://host")
    show(settings, as_json=False)
    out = capsys.readouterr().out
    assert [name in out for name in names].count(True) == 100
    assert "and 1400 more devices (1386 trouble, 14 offline): --all shows them, --json is for programs" in out
    assert "and 50 earlier rounds: --all shows them, --json is for programs" in out
    lines = [line.split()[0] for line in out.splitlines() if line.strip()]
    assert {"150", "51"} <= set(lines)
    assert "50" not in lines
    assert out.count("word") < 100 * 160 / len("a word ")
    assert len(out) < 100_000
    show(settings, as_json=False, whole=True)
    whole = capsys.readouterr().out
    assert all(name in whole for name in names)
    assert whole.count("word") == 1500 * 70
    assert " more " not in whole
    show(settings, as_json=True)
    assert json.loads(capsys.readouterr().out)["devices"].keys() == set(names)


def test_a_long_remark_leaves_the_outcome_whole(capsys: pytest.CaptureFixture[str]) -> None:
    summary = SUMMARY.model_copy(update={"reason": "0 of at least 2 devices were there by the deadline"})
    snapshot = look(broker_with(coordinator=COORDINATOR, summary=summary))
    Console(width=80).print(_rounds(snapshot))
    assert "abandoned" in capsys.readouterr().out
