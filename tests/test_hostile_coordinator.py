"""A real coordinator among liars: floods of mutated messages on every topic, and updates that are not what they say.

What must hold each time is that the run ends as if they had not been there, to the last bit of its model.
"""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from coordinator import admission, attendance
from coordinator import observers as seen
from coordinator.admission import refusal
from coordinator.events import Header, JoinReceived
from coordinator.fleet import Fleet
from coordinator.journal import Journal
from coordinator.round import step
from coordinator.round_state import Collecting
from coordinator.service import CoordinatorService
from schemas import codec, cohort
from schemas.errors import Reject
from schemas.link.address import BrokerAddress
from schemas.link.filters import matches
from schemas.link.link import Link, Sent, Sink, Will
from schemas.link.mqtt import MqttLink, MqttSettings
from schemas.messages import Join, Outcome, RoundAnnouncement, Update
from schemas.parts import cut, describe
from schemas.proto import federation_pb2 as pb
from schemas.topics import Kind
from tests.hostile.chance import draw
from tests.hostile.flood import MISNAMED, READ, flood, is_bad
from tests.link_mosquitto import Mosquitto
from tests.running_coordinator import RunningCoordinator
from tests.scripted_device import Script, ScriptedDevice, counts_of
from tests.test_inbox import START, collecting
from tests.test_service import MODEL, PLAN, TOPICS, Watch, check_model, run_settings

ROUNDS = 3


def finished(directory: Path, messages: int, seed: str = "") -> tuple[RunningCoordinator, str, int]:
    """A run of three devices to its end, with so many hostile messages before, in and between its rounds.

    With its model's digest, and how many messages could be nothing but rejections.
    """
    running = RunningCoordinator(directory / "state", rounds=ROUNDS, evaluate=False)
    rng, bad = draw("coordinator", seed), 0
    filters = [TOPICS.filter(kind) for kind in READ]
    devices = [running.device(f"dev-{number}", start=False) for number in range(3)]

    def throw() -> None:
        nonlocal bad
        for topic, payload, retain in flood(rng, messages):
            running.say(topic, payload, retain=retain)
            read = any(matches(one, TOPICS.prefix + topic) for one in filters)
            bad += read and is_bad(topic, payload)
        running.handled()

    with running:
        throw()
        for device in devices:
            device.start()
        for number in range(1, ROUNDS + 1):
            asked = running.opened(number)
            throw()
            for device in devices[:-1]:
                device.send(device.update(asked, 10))
            running.handled()
            throw()
            devices[-1].send(devices[-1].update(asked, 10))
        return running, running.result().digest, bad


def test_invariant_13_a_flood_of_mutated_messages_on_every_topic_changes_no_bit_of_the_model(tmp_path: Path) -> None:
    """Before, in and between the rounds, retained or not.

    Seen to fail with ``except ValueError`` instead of ``WireError`` in ``Inbox.receive``, with ``Heading`` unchecked
    in ``codec``, and with ``_status`` taking any device's name.
    """
    _, expected, _ = finished(tmp_path / "quiet", 0)
    running, digest, bad = finished(tmp_path / "loud", 150)
    assert digest == expected
    reasons = Counter(one.reason for one in running.of(seen.MessageRejected))
    assert {Reject.MALFORMED, Reject.UNEXPECTED, Reject.WRONG_SENDER, Reject.WRONG_RUN} <= reasons.keys()
    assert reasons.total() >= bad > 300  # what is well formed is mostly refused too, for what it says
    with Journal(running.directory / "journal.db") as journal:
        counted = journal.roster.rejections("run-1")
    assert counted.keys() <= set(Reject)
    assert sum(counted.values()) >= bad


def test_invariant_13_a_flood_over_mosquitto_changes_no_bit_either(tmp_path: Path, mosquitto: Mosquitto) -> None:
    """What a real broker lets through, retained messages that wait for the coordinator to come among it.

    Seen to fail with ``Heading`` unchecked in ``codec``.
    """
    _, expected, _ = finished(tmp_path / "quiet", 0)

    def link(name: str, sink: Sink, will: Will | None = None) -> Link:
        return MqttLink(MqttSettings(BrokerAddress.parse(mosquitto.address), name), sink, will)

    devices = [
        ScriptedDevice(f"dev-{number}", TOPICS, PLAN.manifest(), link, Script(part_size=1024)).start()
        for number in range(3)
    ]
    watch, sent, rng = Watch(), threading.Semaphore(0), draw("mosquitto")
    vandal = link("vandal", lambda event: sent.release() if isinstance(event, Sent) else None)
    vandal.open()

    def throw() -> None:
        count = 0
        for below, payload, retain in flood(rng, 100, among=0.9):
            with contextlib.suppress(ValueError):  # a topic that no client can publish to
                vandal.publish(TOPICS.prefix + below, payload, retain=retain)
                count += 1
        for _ in range(count):
            assert sent.acquire(timeout=10)

    throw()
    watch.then = [(seen.RoundOpened, throw)]
    settings = run_settings(rounds=ROUNDS, evaluate=False)
    result = CoordinatorService(
        partial(link, "coordinator"), TOPICS, settings, PLAN, MODEL, tmp_path / "state", observer=watch
    ).run()
    for device in devices:
        device.stop()
    vandal.close()
    assert result.digest == expected
    assert len(watch.of(seen.MessageRejected)) > 150


# -- liars among the devices -------------------------------------------------------------------------------------------


@dataclass
class Round:
    """An open round, and those in it."""

    running: RunningCoordinator
    devices: list[ScriptedDevice]
    asked: RoundAnnouncement

    def whole(self, update: Update, device: str = "dev-0", number: int = 1) -> None:
        """Say an update in one part, on the topic of ``device``."""
        self.say(codec.encode_update(update), device, number)

    def say(self, blob: bytes, device: str = "dev-0", number: int = 1) -> None:
        """Say any blob in one part whose digest is right."""
        part = cut(blob, describe(blob, len(blob)), 0)
        self.running.say(f"rounds/{number}/update/{device}/0", codec.encode_part(part))
        self.running.handled()

    def reasons(self) -> list[str]:
        """Why messages were rejected, in order."""
        return [one.reason for one in self.running.of(seen.MessageRejected)]

    def ends(self, of: Sequence[str] = ("dev-0", "dev-1", "dev-2")) -> None:
        """The honest answers of devices are taken, and the run ends with the model they make."""
        honest = [device for device in self.devices if device.name in of]
        for device in honest:
            device.send(device.update(self.asked, 10))
        if len(of) < 3:
            self.running.handled()
            self.running.skip(self.running.settings.deadline_s)
        result = self.running.result()
        assert result.summaries[-1].devices == tuple(of)
        check_model(result, [device for device in self.devices if device.name in of], self.running.directory)


@pytest.fixture
def three(tmp_path: Path) -> Iterator[Round]:
    """A coordinator in its only round, and three devices that joined and have said nothing since."""
    running = RunningCoordinator(tmp_path / "state", rounds=1, evaluate=False)
    devices = [running.device(f"dev-{number}") for number in range(3)]
    with running:
        yield Round(running, devices, running.opened())


@pytest.mark.parametrize("nonce", [b"", b"short", b"n" * 17, b"n" * 64])
def test_invariant_13_an_update_whose_nonce_is_none_is_a_rejection_with_a_receipt(three: Round, nonce: bytes) -> None:
    """The receipt repeats the nonce, and can't repeat this one.

    Seen to fail with ``Heading`` a class without checks: the coordinator ended with a ``ValidationError``.
    """
    wire = pb.Update.FromString(codec.encode_update(three.devices[0].update(three.asked, 10)))
    wire.nonce = nonce
    three.say(wire.SerializeToString())
    assert three.reasons() == [Reject.MALFORMED]
    assert three.devices[0].outcomes(1) == [Outcome.REJECTED]
    three.ends()


@pytest.mark.parametrize("loss", [1.7e308, -1.7e308])
def test_invariant_13_a_loss_at_the_end_of_all_numbers_ends_nothing(three: Round, loss: float) -> None:
    """Seen to fail without the bound in ``codec.encode_update``: infinity is refused, and no update counted."""
    for device in three.devices:
        device.send(device.update(three.asked, 10).model_copy(update={"train_loss": loss}))
    summary = three.running.result().summaries[-1]
    assert len(summary.devices) == 3
    assert summary.train_loss is not None
    assert abs(summary.train_loss) > 3.4e38


def test_invariant_01_two_different_updates_of_a_device_are_one_and_an_equivocation(three: Round) -> None:
    """The first wins; the second gets a receipt, and is counted by a reason of its own.

    Seen to fail without the comparison of digests in ``admission.refusal``.
    """
    first = three.devices[0].update(three.asked, 10)
    three.whole(first)
    three.whole(first.model_copy(update={"examples": 9_999}))
    three.whole(first)
    assert three.devices[0].outcomes(1) == [Outcome.ACCEPTED, Outcome.DUPLICATE, Outcome.DUPLICATE]
    assert three.reasons() == [Reject.EQUIVOCATION]
    three.ends()
    with Journal(three.running.directory / "journal.db") as journal:
        assert journal.roster.rejections("run-1")[Reject.EQUIVOCATION] == 1
        assert [stored.examples for stored in journal.updates("run-1", 1, "train")] == [10, 10, 10]


def test_invariant_13_what_answers_another_run_round_nonce_or_model_is_refused_with_its_reason(three: Round) -> None:
    """Seen to fail without the comparison of rounds in ``Inbox._check_identity``, and of nonces in ``belongs``."""
    honest = three.devices[0].update(three.asked, 10)
    others: tuple[dict[str, object], ...] = (
        {"round": 2},
        {"nonce": "f" * 16},
        {"model_version": 7},
        {"model_tag": "f" * 16},
        {"task": "evaluate", "payload": b"", "counts": counts_of("dev-0", 10)},
    )
    for number, changes in enumerate(others, 1):
        three.whole(honest.model_copy(update=changes))
        assert three.reasons() == [Reject.WRONG_RUN] * number, changes
    three.whole(honest, number=2)
    three.whole(honest.model_copy(update={"round": 2}), number=2)
    assert three.reasons()[-2:] == [Reject.WRONG_RUN] * 2
    assert Outcome.ACCEPTED not in three.devices[0].outcomes(1)
    three.ends()


def test_invariant_13_the_bytes_of_an_old_round_are_late_and_change_nothing(tmp_path: Path) -> None:
    """Replayed by anybody, as they were, on the old round's topics and on the new one's.

    Seen to fail without the look into ``_accepted`` in ``Inbox._part``: they were late, or of a wrong round.
    """
    running = RunningCoordinator(tmp_path / "state", rounds=2, evaluate=False)
    devices = [running.device(f"dev-{number}") for number in range(3)]
    with running:
        asked = running.opened()
        for device in devices:
            device.send(device.update(asked, 10))
        again = Round(running, devices, running.opened(2))
        old = [said for said in tuple(running.log) if said.kind is Kind.UPDATE_PART]
        for said in old:
            running.say(said.topic.removeprefix(TOPICS.prefix), said.payload)
            as_new = said.topic.removeprefix(TOPICS.prefix).replace("rounds/1/", "rounds/2/")
            running.say(as_new, said.payload)
        running.handled()
        assert again.reasons() == []
        for device in devices:
            assert device.outcomes(1) == [Outcome.ACCEPTED, Outcome.DUPLICATE, Outcome.DUPLICATE]
        again.ends()


# -- unknown devices ---------------------------------------------------------------------------------------------------


def test_invariant_14_a_device_beyond_the_fleets_bound_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its status, its join and its update are refused as an unknown device's; what it had sent is not kept.

    Seen to fail without ``is_stranger`` in ``admission.refusal`` (it counted), and in ``round._join``.
    """
    monkeypatch.setattr(attendance, "Fleet", partial(Fleet, limit=3))
    running = RunningCoordinator(tmp_path / "state", rounds=1, evaluate=False)
    devices = [running.device(f"dev-{number}") for number in range(3)]
    with running:
        three = Round(running, devices, running.opened())
        stranger = running.device("dev-9")
        running.handled()
        stranger.send(stranger.update(three.asked, 10))
        running.until(lambda: stranger.outcomes(1) == [Outcome.REJECTED], "a receipt")
        assert set(three.reasons()) == {Reject.UNKNOWN_DEVICE}
        assert len(three.reasons()) >= 3  # status, join and update
        assert all(one.device != "dev-9" for one in running.of(seen.DeviceJoined))
        three.ends()


def test_invariant_14_a_device_that_was_not_drawn_or_has_no_name_changes_nothing(tmp_path: Path) -> None:
    """Seen to fail without the comparison of the draw in ``admission.refusal``, and with capitals in topics' names."""
    running = RunningCoordinator(tmp_path / "state", rounds=1, evaluate=False, goal=2)
    devices = [running.device(f"dev-{number}") for number in range(12)]
    with running:
        asked = running.opened()
        drawn = [device for device in devices if cohort.draw(asked.nonce, device.name) < asked.cohort]
        undrawn = next(device for device in devices if device not in drawn)
        three = Round(running, drawn, asked)
        assert len(drawn) == 3
        undrawn.send(undrawn.update(asked, 10))
        running.until(lambda: undrawn.outcomes(1) == [Outcome.REJECTED], "a receipt")
        for name in MISNAMED:
            running.say(f"devices/{name}", b'{"device":"%s","session":1,"state":"idle","examples":9}' % name.encode())
            three.whole(undrawn.update(asked, 10), device=name)
        running.handled()
        assert three.reasons() == [Reject.NOT_SELECTED] + [Reject.UNEXPECTED] * 2 * len(MISNAMED)
        assert running.of(seen.FleetSeen)[-1] == seen.FleetSeen(12, 12, 0)
        for device in drawn[:2]:
            device.send(device.update(asked, 10))
        assert running.result().summaries[-1].devices == tuple(sorted(device.name for device in drawn[:2]))


def header(device: str, stage: Collecting) -> Header:
    """An update of a device for an open round."""
    ticket = stage.ticket
    return Header(device, ticket.round, ticket.task, ticket.nonce, START, 10, None, "d" * 64, 100)


def test_invariant_14_a_flood_of_names_in_a_round_is_refused_beyond_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each costs memory, and a place in the round's summary. Seen to fail without the last line of ``is_stranger``."""
    monkeypatch.setattr(admission, "MAX_DEVICES", 50)
    state = collecting()
    stage = state.stage
    assert isinstance(stage, Collecting)
    for number in range(200):
        join = Join(
            run="run-1",
            round=1,
            task="train",
            nonce=stage.ticket.nonce,
            device=f"eve-{number}",
            accepts=number % 2 == 0,
        )
        state, _ = step(state, JoinReceived(join))
    assert isinstance(state.stage, Collecting)
    assert len(state.stage.joined) + len(state.stage.declined) == 50
    assert state.rejected == {Reject.UNKNOWN_DEVICE: 150}
    assert refusal(state, header("dev-1", stage)) is None  # it was selected, and has its place
    assert refusal(state, header("eve-0", stage)) is None  # it joined in time
    assert refusal(state, header("eve-199", stage)) is not None
