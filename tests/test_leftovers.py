"""A new run on a broker that holds an earlier, longer one: what that left is cleared, on a real mosquitto."""

from __future__ import annotations

from collections import deque
from pathlib import Path

import numpy as np
import pytest

from coordinator import leftovers
from coordinator import observers as seen
from coordinator.leftovers import Leftovers
from coordinator.run_store import RunStore, utc
from coordinator.service import CoordinatorService
from schemas import codec
from schemas.errors import FederationError
from schemas.link.address import BrokerAddress
from schemas.link.embedded import EmbeddedBroker
from schemas.link.link import Event, Inbound, Link, Sink, Will
from schemas.link.memory import MemoryBroker, MemoryLink
from schemas.link.mqtt import MqttLink, MqttSettings
from schemas.messages import CoordinatorState, CoordinatorStatus, PlanRef, RunSettings
from schemas.parameters import Parameters
from schemas.parts import cut, describe
from schemas.plan import Plan
from schemas.topics import Address, Kind
from tests.link_bench import Ear
from tests.link_mosquitto import Mosquitto
from tests.scripted_device import ScriptedDevice
from tests.test_service import MODEL, PLAN, TOPICS, Watch, run_settings

Broker = Mosquitto | EmbeddedBroker
OTHER = Plan.model_validate(PLAN.model_dump() | {"name": "another"})
SMALLER = Parameters(MODEL.manifest, np.zeros_like(MODEL.flat))  # of fewer parts


def settings_of(broker: Broker, name: str, session_s: int = 0) -> MqttSettings:
    return MqttSettings(BrokerAddress.parse(broker.address), name, session_expiry_s=session_s)


def device(broker: Broker, name: str) -> ScriptedDevice:
    def link(client: str, sink: Sink, will: Will) -> Link:
        return MqttLink(settings_of(broker, client), sink, will)

    return ScriptedDevice(name, TOPICS, PLAN.manifest(), link).start()


def settings_for(plan: Plan, **changes: object) -> RunSettings:
    blob = describe(plan.to_bytes(), 1024)
    return RunSettings.model_validate(
        run_settings(quorum=1, goal=1, evaluate=False, **changes).model_dump()
        | {"plan": PlanRef(name=plan.name, blob=blob)}
    )


def run(
    broker: Broker, state: Path, plan: Plan, model: Parameters, watch: Watch | None = None, **changes: object
) -> None:
    """One coordinator of its own state directory, as ``coordinator start`` would have it."""
    coordinator = settings_of(broker, "coordinator", 3600)
    CoordinatorService(
        lambda sink, will: MqttLink(coordinator, sink, will, gated=True),
        TOPICS,
        settings_for(plan, **changes),
        plan,
        model,
        state,
        observer=watch or Watch(),
        look=lambda sink: MqttLink(coordinator, sink),
    ).run()


def retained(broker: Broker) -> dict[str, bytes]:
    """All that a newcomer hears."""
    link = MqttLink(settings_of(broker, "newcomer"), ear := Ear())
    link.open()
    ear.until_connected()
    ear.until_sent(link.subscribe(f"{TOPICS.prefix}#"))
    ear.until_sent(link.publish(f"{TOPICS.prefix}elsewhere", b"travels behind what is retained"))
    ear.until(lambda: bool(ear.payloads(f"{TOPICS.prefix}elsewhere")), "the end of what is retained")
    link.close()
    return {one.topic.removeprefix(TOPICS.prefix): one.payload for one in ear.all(Inbound) if one.retained}


def coordinators(topics: dict[str, bytes]) -> set[str]:
    return {topic for topic in topics if not topic.startswith("devices/")}


@pytest.mark.parametrize("failed", [False, True], ids=["at its first start", "at its second, the first having failed"])
def test_a_new_run_clears_what_an_earlier_one_left_and_nothing_else(
    mosquitto: Mosquitto, tmp_path: Path, *, failed: bool
) -> None:
    """Seen to fail without ``performer.clear``, and with only a run that is not in the journal yet taken for new."""
    one = device(mosquitto, "dev-0")
    run(mosquitto, tmp_path / "first", PLAN, MODEL, run="long-ago", rounds=5)
    before = retained(mosquitto)
    assert {f"plan/{PLAN.digest}/0", "rounds/5", "model/5/0", "model/4/0"} <= before.keys()
    watch = Watch()
    if failed:  # at its broker, after its run was journalled
        with RunStore(tmp_path / "second", settings_for(OTHER, run="now", rounds=1), OTHER, SMALLER, utc):
            pass
    run(mosquitto, tmp_path / "second", OTHER, SMALLER, watch, run="now", rounds=1)
    one.stop()
    after = retained(mosquitto)
    parts = describe(OTHER.to_bytes(), 1024).parts
    assert {topic for topic in coordinators(after) if not topic.startswith("model/")} == {
        "coordinator",
        "run",
        "model",
        "rounds/current",
        "rounds/1",
        *(f"plan/{OTHER.digest}/{index}" for index in range(parts)),
    }
    assert {topic.split("/")[1] for topic in after if topic.startswith("model/")} == {"0", "1"}
    for topic in ("run", "model", "rounds/current", "rounds/1", "coordinator"):
        assert b'"now"' in after[topic], topic
    assert after.keys() - coordinators(after) == before.keys() - coordinators(before)
    assert not watch.of(seen.MessageRejected)


def made(kind: type[Broker], directory: Path) -> Broker:
    """A broker of its own."""
    directory.mkdir()
    return Mosquitto(directory) if kind is Mosquitto else EmbeddedBroker()


@pytest.mark.parametrize(("kind", "downlink"), [(Mosquitto, "none"), (Mosquitto, "int8"), (EmbeddedBroker, "int8")])
def test_old_models_that_a_kill_left_of_several_commits_are_cleared_by_the_run_that_goes_on(
    tmp_path: Path, kind: type[Broker], downlink: str
) -> None:
    """Rounds may overlap: five commits that this broker never heard of, on the disk of one that was killed then.

    Seen to fail where a start clears the third version before the newest alone, as a guess.
    """
    state, watch = tmp_path / "state", Watch()
    with made(kind, tmp_path / "broker") as broker, made(kind, tmp_path / "other") as elsewhere:
        devices = [device(broker, "dev-0"), device(elsewhere, "dev-0")]
        run(broker, state, PLAN, MODEL, rounds=3, downlink=downlink)
        left = retained(broker).keys()
        assert {"model/2/0", "model/3/0", "model/3/5"} <= left
        assert ("model/3/delta/1" in left) == (downlink != "none")
        run(elsewhere, state, PLAN, MODEL, rounds=8, downlink=downlink)
        run(broker, state, PLAN, MODEL, watch, rounds=8, downlink=downlink)
        assert versions(retained(broker)) == {"8"}, "of a run that is over too"
        run(broker, state, PLAN, MODEL, watch, rounds=9, downlink=downlink)
        after = retained(broker)
        for one in devices:
            one.stop()
    assert versions(after) == {"8", "9"}
    assert {"model/8/0", "model/8/5", "model/9/0"} <= after.keys()
    if kind is Mosquitto:  # the other one sends everybody what anybody has subscribed to
        assert not watch.of(seen.MessageRejected)


def test_old_models_that_a_broker_finds_again_on_its_disk_are_cleared(mosquitto: Mosquitto, tmp_path: Path) -> None:
    """mosquitto saves seldom, and a crash brings back what it had saved. Seen to fail with a look at the start only."""
    link = MqttLink(settings_of(mosquitto, "somebody"), ear := Ear())
    link.open()
    part = codec.encode_part(cut(b"old", describe(b"old", 1), 0))

    def crash() -> None:
        """Of the broker: what was there long ago is there again, and everybody connects once more."""
        for index in range(3):
            topic = TOPICS.topic(Address(Kind.MODEL_PART, number=0, part=index))
            ear.until_sent(link.publish(topic, part, retain=True))
        # another connection of its client id ends the coordinator's
        other = MqttLink(settings_of(mosquitto, "coordinator", 3600), Ear())
        other.open()
        other.close()

    watch = Watch()
    watch.then = [(seen.RoundClosed, lambda: crash() if len(watch.of(seen.RoundClosed)) == 4 else None)]
    one = device(mosquitto, "dev-0")
    run(mosquitto, tmp_path / "state", PLAN, MODEL, watch, rounds=6)
    one.stop()
    link.close()
    assert len(watch.of(seen.Connected)) > 1
    assert versions(retained(mosquitto)) == {"5", "6"}


def versions(topics: dict[str, bytes]) -> set[str]:
    """Of which there is something."""
    return {topic.split("/")[1] for topic in topics if topic.startswith("model/")}


def test_a_run_that_goes_on_leaves_the_broker_as_it_is(mosquitto: Mosquitto, tmp_path: Path) -> None:
    """Devices may be fetching the version before."""
    one = device(mosquitto, "dev-0")
    run(mosquitto, tmp_path / "state", PLAN, MODEL, rounds=3)
    before = coordinators(retained(mosquitto))
    run(mosquitto, tmp_path / "state", PLAN, MODEL, rounds=3)
    one.stop()
    assert coordinators(retained(mosquitto)) == before


def test_what_is_left_to_another_coordinator_at_work_is_not_touched(mosquitto: Mosquitto, tmp_path: Path) -> None:
    one = device(mosquitto, "dev-0")
    run(mosquitto, tmp_path / "first", PLAN, MODEL, rounds=2)
    one.stop()
    link = MqttLink(settings_of(mosquitto, "rival"), ear := Ear())
    link.open()
    status = CoordinatorStatus(
        state=CoordinatorState.RUNNING, session=7, instance="0123456789abcdef", run="theirs", heartbeat_s=0.2
    )
    topic = TOPICS.topic(Address(Kind.COORDINATOR))
    ear.until_sent(link.publish(topic, codec.encode(status), retain=True))
    before = coordinators(retained(mosquitto))
    watch = Watch()

    def still_there() -> None:
        link.publish(topic, codec.encode(status.model_copy(update={"said": "now"})), retain=True)

    watch.then = [(seen.RivalDoubted, still_there)]
    with pytest.raises(FederationError, match="another coordinator"):
        run(mosquitto, tmp_path / "second", OTHER, MODEL, watch)
    link.close()
    assert coordinators(retained(mosquitto)) == before


def test_they_are_waited_for_while_they_come_but_not_for_ever() -> None:
    broker, heard, now = MemoryBroker(), deque[Event](), 0.0
    link = MemoryLink(broker, "coordinator", heard.append)
    link.open()
    left = Leftovers(link, TOPICS, lambda: now)
    left.look()
    assert left.left_s == leftovers.LONGEST_S
    while heard:
        left.take(heard.popleft())
    assert left.left_s == leftovers.QUIET_S
    for number in range(40):
        now = 0.2 * number
        left.take(Inbound(TOPICS.topic(Address(Kind.SUMMARY, number=number)), b"?", retained=True))
        assert left.left_s == pytest.approx(max(0.0, min(leftovers.QUIET_S, leftovers.LONGEST_S - now)))
    assert len(left.found) == 40
    left.take(Inbound(TOPICS.topic(Address(Kind.SUMMARY, number=40)), b"said just now"))
    left.take(Inbound(TOPICS.topic(Address(Kind.DEVICE, device="dev-0")), b"?", retained=True))
    assert len(left.found) == 40


def test_no_more_is_cleared_at_a_time_than_the_bound(
    mosquitto: Mosquitto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leftovers, "MOST", 5)
    link = MqttLink(settings_of(mosquitto, "somebody"), ear := Ear())
    link.open()
    tokens = [
        link.publish(TOPICS.topic(Address(Kind.SUMMARY, number=number)), b"?", retain=True)
        for number in range(100, 120)
    ]
    ear.until_sent(*tokens)
    link.close()
    one = device(mosquitto, "dev-0")
    run(mosquitto, tmp_path / "state", PLAN, MODEL, rounds=1)
    one.stop()
    assert len([topic for topic in retained(mosquitto) if topic.startswith("rounds/1") and len(topic) > 8]) == 15
