"""A broker that has lost its memory, and one whose memory is full of what somebody else has left there."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path

from schemas import codec, parts
from schemas.messages import (
    CoordinatorState,
    CoordinatorStatus,
    DeviceState,
    DeviceStatus,
    Join,
    ModelPointer,
    Part,
    Phase,
    PlanRef,
    RoundAnnouncement,
    RunSettings,
)
from schemas.topics import Kind
from tests.chaos.evidence import Ledger, differences, lost
from tests.chaos.mortals import Mortals
from tests.chaos.spy import TOPICS, Spy
from tests.link_mosquitto import Mosquitto
from tests.running_commands import COORDINATOR, Done, Running, retained
from tests.waiting import until

DEVICES = 3
OPTIONS = ("--plan", "watch", "--no-evaluate", "--json", "--devices-min", "3", "--goal", "3", "--rounds", "3")
PASSING = ("coordinator", "rounds/current")  # of the retained tree: they change with time


def command(broker: Mosquitto, state: Path) -> tuple[str, ...]:
    return (*COORDINATOR, "start", *OPTIONS, "--broker", broker.address, "--state", str(state))


def tree(broker: Mosquitto) -> dict[str, bytes]:
    """What of the coordinator the broker keeps, but for parts of the version before, which nobody needs."""
    kept = {topic.removeprefix(TOPICS.prefix): payload for topic, payload in retained(broker.port).items()}
    pointer = codec.decode(Kind.MODEL, kept["model"]) if "model" in kept else None
    old = f"model/{pointer.version - 1}/" if isinstance(pointer, ModelPointer) else "devices/"
    return {below: payload for below, payload in kept.items() if not below.startswith(("devices/", old))}


def test_a_broker_that_comes_back_empty_has_the_whole_tree_after_one_reconnect(
    mosquitto: Mosquitto, tmp_path: Path
) -> None:
    """Killed, and its store deleted, while a round waits for devices.

    Seen to fail with a coordinator that publishes only what changes after a reconnect.
    """
    with Running(*command(mosquitto, tmp_path / "state"), "--rounds", "9", cwd=tmp_path) as coordinator:
        with Mortals(tmp_path, mosquitto.port, DEVICES):
            for _ in range(2):
                coordinator.wait_for('"round_closed"')
        coordinator.wait_for('"ready": 0')  # all are dead, and nothing will change
        before = tree(mosquitto)
        mosquitto.kill()
        (mosquitto.directory / "mosquitto.db").unlink(missing_ok=True)
        mosquitto.start()
        until(lambda: tree(mosquitto).keys() == before.keys(), "the whole tree again")
        after = tree(mosquitto)
        coordinator.send(signal.SIGTERM)
        done = coordinator.end()
    assert {"run", "model", "rounds/1", "rounds/2", *PASSING} <= before.keys()
    assert {below.partition("/")[0] for below in before} >= {"plan", "model"}
    assert all(after[below] == payload for below, payload in before.items() if below not in PASSING)
    assert [event["event"] for event in map(json.loads, done.out.splitlines())].count("connected") == 2


def test_invariant_13_what_somebody_else_has_left_on_a_federation_s_topics_changes_no_bit(tmp_path: Path) -> None:
    """Devices meet it before their coordinator does. It comes again, but for the coordinator's own topics, in mid-run.

    Seen to fail with a device, and with a coordinator, that lets an unreadable message out as an error.
    """
    with Mosquitto(_made(tmp_path / "broker")) as broker:
        with Running(*command(broker, tmp_path / "clean"), cwd=tmp_path) as coordinator:
            coordinator.wait_for('"started"')
            coordinator.send(signal.SIGTERM)
            assert coordinator.end().code == 0
        shutil.copytree(tmp_path / "clean", tmp_path / "dirty")
    results = []
    for name in ("clean", "dirty"):
        with Mosquitto(_made(tmp_path / f"{name}-broker")) as broker, Spy(broker.port) as spy:
            results.append((_run(tmp_path / name, broker, spy, dirty=name == "dirty"), spy.heard))
    (clean, _), (dirty, heard) = results
    assert (clean.code, dirty.code, dirty.err) == (0, 0, "")
    ledger = Ledger.read(tmp_path / "dirty")
    assert list(ledger.faults(3)) == []
    assert list(differences(ledger, Ledger.read(tmp_path / "clean"))) == []
    assert list(lost(heard, ledger)) == []
    assert "message_rejected" in dirty.out
    assert "message_rejected" not in clean.out


def _run(state: Path, broker: Mosquitto, spy: Spy, *, dirty: bool) -> Done:
    """A run of three rounds, with or without what somebody has left."""
    if dirty:
        _litter(spy, {**LEFT, **PRETENDED})
    with Mortals(state.with_name(f"{state.name}-devices"), broker.port, DEVICES) as devices:
        with Running(*command(broker, state), cwd=state) as coordinator:
            coordinator.wait_for('"round_closed"')
            if dirty:
                _litter(spy, LEFT)
            done = coordinator.end()
        assert devices.alive == devices.names
    return done


def _litter(spy: Spy, what: dict[str, bytes]) -> None:
    """Have the broker keep all of it."""
    since = len(spy.heard)
    for below, payload in what.items():
        spy.link.publish(TOPICS.prefix + below, payload, retain=True)
    for below in what:
        spy.until(lambda heard, topic=TOPICS.prefix + below: heard.topic == topic, below, since)  # type: ignore[misc]


def _made(directory: Path) -> Path:
    directory.mkdir()
    return directory


BLOB = b"somebody else's" * 1000
REF = parts.describe(BLOB, 4096)
PART = codec.encode_part(Part(blob=REF, index=0, payload=parts.cut(BLOB, REF, 0).payload))
NONCE, DIGEST = "ab" * 8, "cd" * 32
JOIN = Join(run="run-else", round=1, task="train", nonce=NONCE, device="mortal-00", accepts=False, reason="no")
LEFT = {  # where the coordinator doesn't publish, or will only later
    "nonsense": b"x",
    "rounds": b"{}",
    "rounds/1/extra/mortal-00": b"{}",
    "rounds/1/join/mortal-00": codec.encode(JOIN),
    "rounds/2/join/mortal-01": b"\xff\xfe",
    "rounds/1/update/mortal-00/0": PART,
    "rounds/2/update/mortal-00/0": PART,
    "rounds/3/update/mortal-01/0": b"\x00" * 100_000,
    "rounds/1/update/mortal-02/99999": PART,
    "rounds/2/receipt/mortal-01": b"{",
    "model/99/0": PART,
    "model/3/0": PART,
    "model/3/5": PART,
    f"plan/{DIGEST}/0": PART,
    "devices/ghost": codec.encode(DeviceStatus(device="ghost", session=1, state=DeviceState.IDLE, examples=1000)),
    "devices/mortal-01": codec.encode(DeviceStatus(device="mortal-01", session=1, state=DeviceState.OFFLINE)),
    "devices/mortal-02/command": b"[]",
    "devices/UPPER": b"{}",
}
PRETENDED = {  # an earlier federation of the same name
    "coordinator": codec.encode(
        # Ours waits for 2.5 of these heartbeats whether there is another coordinator behind it.
        CoordinatorStatus(state=CoordinatorState.RUNNING, session=1, run="run-else", heartbeat_s=1.0)
    ),
    "run": codec.encode(RunSettings(run="run-else", rounds=9, plan=PlanRef(name="else", blob=REF))),
    "model": codec.encode(ModelPointer(run="run-else", version=40, digest=DIGEST, previous=DIGEST, blob=REF)),
    "rounds/current": codec.encode(
        RoundAnnouncement(
            run="run-else",
            round=41,
            task="train",
            phase=Phase.COLLECTING,
            nonce=NONCE,
            model_version=40,
            model_digest=DIGEST,
            opened="2020-01-01T00:00:00Z",
            deadline_s=1e6,
            remaining_s=1e6,
            goal=1,
            quorum=1,
        )
    ),
    "rounds/40": b"{}",
}
