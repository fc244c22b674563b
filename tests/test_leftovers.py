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
from schemas.link.link import Event, Inbound, Link, Sink, Will
from schemas.link.memory import MemoryBroker, MemoryLink
from schemas.link.mqtt import MqttLink, MqttSettings
from schemas.messages import CoordinatorState, CoordinatorStatus, PlanRef, RunSettings
from schemas.parameters import Parameters
from schemas.parts import describe
from schemas.plan import Plan
from schemas.topics import Address, Kind
from tests.link_bench import Ear
from tests.link_mosquitto import Mosquitto
from tests.scripted_device import ScriptedDevice
from tests.test_service import MODEL, PLAN, TOPICS, Watch, run_settings

OTHER = Plan.model_validate(PLAN.model_dump() | {"name": "another"})
SMALLER = Parameters(MODEL.manifest, np.zeros_like(MODEL.flat))  # of fewer parts


def settings_of(broker: Mosquitto, name: str, session_s: int = 0) -> MqttSettings:
    return MqttSettings(BrokerAddress.parse(broker.address), name, session_expiry_s=session_s)


def device(broker: Mosquitto, name: str) -> ScriptedDevice:
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
    broker: Mosquitto, state: Path, plan: Plan, model: Parameters, watch: Watch | None = None, **changes: object
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


def retained(broker: Mosquitto) -> dict[str, bytes]:
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
