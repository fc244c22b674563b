"""What somebody else writes or clears in the coordinator's retained tree is written over while it runs.

Each docstring of a test ends with how it was seen to fail.
"""

from __future__ import annotations

import math
import subprocess
from functools import partial
from itertools import pairwise
from pathlib import Path

import pytest

from coordinator import observers as seen
from coordinator.guard import CALM_S, LONGEST_S, SOON_S, Guard
from schemas import codec
from schemas.errors import Superseded
from schemas.link.address import BrokerAddress
from schemas.link.link import Inbound, Link, Sink, Will
from schemas.link.mqtt import MqttLink, MqttSettings
from schemas.messages import CoordinatorState, CoordinatorStatus, Phase, RoundAnnouncement
from schemas.topics import Address, Kind
from tests.link_mosquitto import Mosquitto, program
from tests.running_coordinator import RunningCoordinator
from tests.test_service import TOPICS, run_settings

RUN, MODEL, ROUND = Address(Kind.RUN), Address(Kind.MODEL), Address(Kind.ROUND)
PART = Address(Kind.PLAN_PART, digest=run_settings().plan.blob.digest, part=0)


# -- when --------------------------------------------------------------------------------------------------------------


def test_what_another_wrote_is_due_after_two_seconds_and_ours_is_not() -> None:
    """Seen to fail with ours taken for another's, where a newer one of ours was under way."""
    guard = Guard()
    guard.said(RUN, b"ours")
    guard.heard(RUN, b"ours", 1.0)
    assert guard.due_at == math.inf
    guard.said(RUN, b"newer")
    guard.said(RUN, b"newest")
    guard.heard(RUN, b"newer", 2.0)
    guard.heard(RUN, b"newest", 2.0 + SOON_S - 0.1)
    assert guard.due_at == math.inf
    guard.heard(RUN, b"", 10.0)
    assert not guard.take_due(10.0 + SOON_S - 0.1)
    assert guard.take_due(10.0 + SOON_S) == (RUN,)
    assert guard.due_at == math.inf


def test_what_is_none_of_ours_or_comes_before_the_next_connect_is_no_matter() -> None:
    """Seen to fail without ``disconnected``."""
    guard = Guard()
    guard.heard(RUN, b"theirs", 1.0)
    guard.said(Address(Kind.SUMMARY, number=1), b"ours")
    guard.heard(Address(Kind.SUMMARY, number=1), b"theirs", 1.0)
    guard.said(RUN, b"ours")
    guard.heard(RUN, b"theirs", 2.0)
    guard.disconnected()
    assert guard.due_at == math.inf


def test_what_was_ours_and_is_cleared_is_nobodys() -> None:
    """As a part of an earlier run's plan. Seen to fail where it was due, and told of as published again, for ever."""
    guard = Guard()
    guard.said(PART, b"ours")
    guard.said(PART, b"")
    guard.heard(PART, b"theirs", 1.0)
    assert guard.due_at == math.inf


def test_two_that_write_in_turn_make_no_storm() -> None:
    """A thousand times a minute. Seen to fail with ``wait_s`` as it is at first, and where peace changes nothing."""
    guard, times = Guard(), list[float]()
    guard.said(RUN, b"ours")
    for step in range(20_000):
        now = step * 0.06
        guard.heard(RUN, b"theirs", now)
        if guard.take_due(now):
            times.append(now)
            guard.said(RUN, b"ours")
            guard.heard(RUN, b"ours", now)
    gaps = [round(after - before) for before, after in pairwise(times)]
    assert gaps[:5] == [4, 8, 16, 32, LONGEST_S]
    assert set(gaps[5:]) == {LONGEST_S}
    now = times[-1] + CALM_S + 1.0
    guard.heard(RUN, b"ours", now)
    guard.heard(RUN, b"theirs", now)
    assert guard.take_due(now + SOON_S) == (RUN,)
    guard.heard(RUN, b"theirs", now + SOON_S)
    assert guard.due_at == now + 3 * SOON_S


# -- on a broker -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("by", [b"", b"rubbish", b'{"run": "of somebody else"}'])
def test_what_newcomers_need_is_back_within_seconds(tmp_path: Path, by: bytes) -> None:
    """Cleared, or overwritten. Seen to fail without ``watch_over``: it stayed so until the next connect."""
    with RunningCoordinator(tmp_path / "state", deadline_s=600.0, quorum=1, goal=1) as running:
        running.device("dev-0")
        running.opened()
        running.skip(70.0)  # all has been said that there is to say of the round
        addresses = (RUN, PART, MODEL, ROUND)
        before = [running.broker.retained[TOPICS.topic(address)] for address in addresses]
        for address in addresses:
            running.say(address, by, retain=True)
        running.skip(SOON_S + 0.1)
        after = [running.broker.retained.get(TOPICS.topic(address)) for address in addresses]
        assert after[:3] == before[:3]
        announced = codec.decode(Kind.ROUND, after[3] or b"")
        assert isinstance(announced, RoundAnnouncement)
        assert announced.phase is Phase.COLLECTING
        assert announced.remaining_s == pytest.approx(530.0 - SOON_S - 0.1)
        assert {one.topic for one in running.of(seen.Overwritten)} == {TOPICS.topic(one) for one in addresses}
        assert len(running.of(seen.MessageRejected)) == (len(addresses) if by else 0)


def test_a_newer_coordinators_run_stands_though_its_status_was_lost_on_the_way(tmp_path: Path) -> None:
    """It comes at QoS 0. Seen to fail without ``look`` as another's word is heard: ours was back after two seconds."""
    status = TOPICS.topic(Address(Kind.COORDINATOR))
    newer = CoordinatorStatus(
        state=CoordinatorState.RUNNING, session=2**40, instance="f" * 16, run="run-2", heartbeat_s=30.0
    )
    theirs = codec.encode(run_settings(run="run-2"))
    with RunningCoordinator(tmp_path / "state") as running:
        running.handled()
        running.sieve = lambda event: None if isinstance(event, Inbound) and event.topic == status else event
        running.say(status.removeprefix(TOPICS.prefix), codec.encode(newer), retain=True)
        running.handled()
        running.sieve = lambda event: event
        running.say(RUN, theirs, retain=True)
        running.skip(SOON_S + 0.1)
        with pytest.raises(Superseded):
            running.result()
        assert running.broker.retained[TOPICS.topic(RUN)] == theirs


def test_nothing_is_published_twice_where_nobody_interferes(tmp_path: Path) -> None:
    """Seen to fail where what was heard is not forgotten once ours has come."""
    with RunningCoordinator(tmp_path / "state", rounds=3, quorum=1, goal=1, evaluate=False) as running:
        device = running.device("dev-0")
        for number in range(1, 4):
            asked = running.opened(number)
            running.skip(5.0)
            device.send(device.update(asked, 10))
        running.result()
    assert not running.of(seen.Overwritten)
    assert [said.kind for said in running.log if said.client == "coordinator"].count(Kind.RUN) == 1


@pytest.mark.parametrize("mqtt5", [False, True])
def test_mosquitto_has_the_run_back_whatever_it_speaks(tmp_path: Path, mosquitto: Mosquitto, mqtt5: bool) -> None:  # noqa: FBT001 - pytest's
    """From another program, by hand. Seen to fail without ``mend`` in ``Office.beat``."""

    def link(sink: Sink, will: Will) -> Link:
        settings = MqttSettings(BrokerAddress.parse(mosquitto.address), "coordinator", mqtt5=mqtt5)
        return MqttLink(settings, sink, will)

    topic = TOPICS.topic(RUN)
    words = ["-p", str(mosquitto.port), "-t", topic]
    with RunningCoordinator(tmp_path / "state", make_link=link) as running:
        reads = [program("mosquitto_sub"), *words, "-C", "1", "-W", "20"]
        ours = subprocess.run(reads, check=True, capture_output=True).stdout
        assert b"run-1" in ours
        subprocess.run([program("mosquitto_pub"), *words, "-r", "-n", "-q", "1"], check=True)
        running.until(partial(moved, running), "its word on it")
        assert subprocess.run(reads, check=True, capture_output=True).stdout == ours


def moved(running: RunningCoordinator) -> bool:
    """Whether it has mended something, its clock a little further on."""
    running.advance(0.5)
    return bool(running.of(seen.Overwritten))
