"""A device's budget, its link's speed and its choice of codec, in its rules and on its disk."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import pytest

from edge.agent import Agent
from edge.core import effects as fx
from edge.core import events as ev
from edge.core import participation
from edge.core.budget import HOUR_S, Budget
from edge.core.events import Ticket
from edge.dataspec import DataSpec
from edge.device import Device
from edge.store import Store
from schemas.errors import LinkError
from schemas.link import link as wire
from schemas.link.memory import Faults
from schemas.messages import DeviceState, Outcome, Phase, Task
from schemas.topics import Address, Kind
from tests.edge_scripts import DEVICE, RUN, announcement, coordinator, nonce, pointer, receipt, run
from tests.test_agent import TOPICS, World
from tests.test_participation import IDENTITY, Bench, only, parcel

LIMIT = 100_000


def bench(limit: int = LIMIT, moved: int = 0, codec: str = "int8", speed: float | None = None) -> Bench:
    """A device that has settled on model 0, of 3000 bytes."""
    budget = Budget(limit).moved(0.0, moved) if moved else Budget(limit)
    device = Bench(participation.begin(IDENTITY, budget=budget, speed=speed)).settle()
    device(ev.RunSeen(run().model_copy(update={"codec": codec})))
    return device


def test_a_device_takes_part_while_its_budget_has_the_room() -> None:
    assert only(bench()(ev.RoundSeen(announcement(1))), fx.SendJoin)[0].accepts


def test_a_round_that_the_budget_has_no_room_for_is_declined_with_when_it_has() -> None:
    """Seen to fail without ``why_not`` in ``attempt._attitude``."""
    device = bench(moved=LIMIT - 500)
    (join,) = only(device(ev.RoundSeen(announcement(1))), fx.SendJoin)
    assert (join.accepts, join.reason) == (
        False,
        "500 B of its 100 kB a day are left and it takes about 1.24 kB: again in 25.0 h",
    )
    assert device.shown().detail == f"the next round waits: {join.reason}"
    assert device.shown().budget_left == 0.0
    device.at(25 * HOUR_S + 2)
    device(ev.CoordinatorSeen(coordinator()))
    (join,) = only(device(ev.RoundSeen(announcement(2, version=0))), fx.SendJoin)
    assert join.accepts
    assert device.shown().budget_left == 1.0


def test_a_device_whose_budget_is_spent_listens_to_nothing_until_some_is_free() -> None:
    """Seen to fail without ``hearing.listen``: what is told to all took five budgets of 40 kB in nine seconds."""
    device = bench(moved=LIMIT)
    (join,) = only(device(ev.RoundSeen(announcement(1))), fx.SendJoin)
    assert not join.accepts  # who may have been asked is told before
    assert only(device.effects, fx.Listen) == [fx.Listen(False)]
    assert device.shown().state is DeviceState.TROUBLE
    assert device.shown().detail == "its budget of 100 kB a day is spent: it listens again once some of it is free"
    device.at(25 * HOUR_S - 10)
    assert len(only(device.effects, fx.Listen)) == 1
    device.at(25 * HOUR_S + 2)
    assert only(device.effects, fx.Listen) == [fx.Listen(False), fx.Listen(True)]
    device(ev.CoordinatorSeen(coordinator()))
    assert device.shown().state is DeviceState.IDLE
    assert only(device(ev.RoundSeen(announcement(2, version=0))), fx.SendJoin)[0].accepts


@pytest.mark.parametrize("ran_s", [0.0, 3 * HOUR_S + 1200, 24.5 * HOUR_S])
def test_a_device_that_starts_with_a_spent_budget_logs_once_for_how_long_it_waits(ran_s: float) -> None:
    """Seen to fail with the wait told to those alone who ask for a round: nobody does at the start."""
    budget = Budget(LIMIT).moved(0.0, LIMIT)
    device = Bench(participation.begin(IDENTITY, budget=budget, ran_s=ran_s))
    device(ev.Tick(0.0), ev.Connected())
    device.at(2.0)
    device(ev.Disconnected(), ev.Connected())
    device.at(4.0)
    again = {0.0: "25.0 h", 3 * HOUR_S + 1200: "21.7 h", 24.5 * HOUR_S: "30 min"}[ran_s]
    text = f"its budget of 100 kB a day is spent: it listens again once some of it is free, in {again}"
    assert [(said.text, said.level) for said in only(device.effects, fx.Say)] == [(text, logging.WARNING)]
    device.at(25 * HOUR_S - ran_s - 1)
    assert only(device.effects, fx.Listen) == [fx.Listen(False)]
    device.at(25 * HOUR_S - ran_s + 1)
    assert only(device.effects, fx.Listen) == [fx.Listen(False), fx.Listen(True)]


def test_one_that_spends_it_while_it_runs_logs_the_same() -> None:
    device = bench()
    device.at(1800.0)
    (said,) = only(device(ev.Moved(LIMIT)), fx.Say)
    assert said.text == "its budget of 100 kB a day is spent: it listens again once some of it is free, in 24.5 h"


def test_work_in_hand_is_ended_before_a_device_stops_listening() -> None:
    device = bench(LIMIT)
    device(ev.RoundSeen(announcement(1)))
    assert not only(device(ev.Moved(LIMIT)), fx.Listen)


def evaluator(moved: int) -> Bench:
    """A device with held-out examples that holds model 0 and has moved so much."""
    device = Bench(participation.begin(IDENTITY, budget=Budget(LIMIT).moved(0.0, moved))).settle(held_out=3)
    assert device.state.budget is not None
    return device


def test_an_evaluation_that_the_budget_has_no_room_for_is_declined_so_that_nobody_waits_for_it() -> None:
    """Seen to fail without ``why_not`` for evaluations in ``attempt._attitude``."""
    device = evaluator(LIMIT - 2500)
    device(ev.ModelSeen(pointer(1)))
    (join,) = only(device(ev.RoundSeen(announcement(1, task="evaluate"))), fx.SendJoin)
    assert not join.accepts
    assert "of its 100 kB a day are left" in join.reason
    rich = evaluator(LIMIT - 4500)
    rich(ev.ModelSeen(pointer(1)))
    assert only(rich(ev.RoundSeen(announcement(1, task="evaluate"))), fx.SendJoin)[0].accepts


def test_a_device_that_only_evaluates_waits_for_no_room_for_an_update_it_never_makes() -> None:
    """Seen to fail: it remarked that the next round waits, took part in evaluations, and spent joins on declining."""
    budget = Budget(LIMIT).moved(0.0, LIMIT - 1100)
    device = Bench(participation.begin(IDENTITY, budget=budget)).settle(examples=0, held_out=3)
    assert device.shown().detail == ""
    assert not only(device(ev.RoundSeen(announcement(1))), fx.SendJoin)
    device(ev.Moved(200))
    assert device.shown().detail.startswith("the next round waits: 900 B of its 100 kB a day are left")


@pytest.mark.parametrize("task", ["train", "evaluate"])
def test_a_model_heard_of_after_the_join_that_has_to_wait_takes_the_join_back(task: Task) -> None:
    """Retained messages come in any order. Seen to fail without ``why_no_model`` in ``attempt.begin``."""
    device = evaluator(LIMIT - 2500)
    message = announcement(2 if task == "train" else 1, task=task)
    assert only(device(ev.RoundSeen(message)), fx.SendJoin)[0].accepts
    effects = device(ev.ModelSeen(pointer(1)))
    assert not only(effects, fx.FetchModel)
    assert [join.accepts for join in only(effects, fx.SendJoin)] == [False]


def test_an_update_of_another_size_than_was_thought_teaches_what_the_next_one_takes() -> None:
    """What lowrank takes is a matter of shapes. Seen to fail without ``weighed``."""
    device = bench(moved=LIMIT - 30_000)
    ticket, _ = device.train()
    device(ev.UpdateStored(parcel(ticket, 12_000)), ev.Moved(12_000), ev.ReceiptSeen(receipt(announcement(1))))
    device(ev.Moved(10_000))
    (join,) = only(device(ev.RoundSeen(announcement(2, version=0))), fx.SendJoin)
    assert (join.accepts, "it takes about 13.2 kB" in join.reason) == (False, True)


def test_a_model_that_the_budget_has_no_room_for_is_fetched_once_it_has() -> None:
    """Seen to fail without ``hold_model``."""
    device = bench(moved=LIMIT - 2000)
    effects = device(ev.ModelSeen(pointer(1)))
    assert not only(effects, fx.FetchModel)
    assert any("the model waits: 2 kB of its 100 kB" in said.text for said in only(device.effects, fx.Say))
    assert not only(device.at(24 * HOUR_S), fx.FetchModel)
    device.at(24.9 * HOUR_S)
    woken = participation.wake_at(device.state)
    assert woken is not None
    assert only(device.at(max(woken, 25 * HOUR_S + 1)), fx.FetchModel)


def test_a_model_on_its_way_is_given_up_where_the_next_one_has_to_wait() -> None:
    """Its bytes would serve nobody. Seen to fail where ``fetch`` asked the budget before it stopped."""
    device = bench()
    assert only(device(ev.ModelSeen(pointer(1))), fx.FetchModel)
    device(ev.Moved(LIMIT - 2000))
    effects = device(ev.ModelSeen(pointer(2)))
    assert only(effects, fx.StopFetching) == [fx.StopFetching("model")]
    assert not only(effects, fx.FetchModel)


def test_an_update_on_disk_waits_for_the_budget_and_then_goes() -> None:
    """Seen to fail without ``wait_s`` in ``delivery.send``."""
    device = bench()
    ticket, _ = device.train()
    device(ev.Moved(LIMIT - 100))
    assert not only(device(ev.UpdateStored(parcel(ticket))), fx.SendParts)
    device.at(25 * HOUR_S + 2)
    assert only(device(ev.CoordinatorSeen(coordinator()), ev.Moved(1)), fx.SendParts)


def test_updates_that_are_due_together_are_not_sent_by_the_same_room() -> None:
    """Seen to fail where each was asked for by what was left before any of them."""
    parcels = tuple(parcel(Ticket(RUN, number, "train", nonce(number)), 30_000) for number in range(2, 8))
    device = Bench(participation.begin(IDENTITY, budget=Budget(LIMIT).moved(0.0, 30_000), parcels=parcels))
    device.state = replace(device.state, outbox=tuple(replace(one, sent=False) for one in device.state.outbox))
    device.settle()
    assert [sent.parcel for sent in only(device.effects, fx.SendParts)] == list(parcels[:2])


def test_a_model_on_its_way_is_spoken_for() -> None:
    """By what of it has not come. Seen to fail without ``_free``, and without ``arriving`` counting what came."""
    device = bench()
    ticket, _ = device.train()
    assert only(device(ev.ModelSeen(pointer(1, size=90_000))), fx.FetchModel)
    assert not only(device(ev.UpdateStored(parcel(ticket, 20_000))), fx.SendParts)
    device(ev.PartArriving(80_000))  # its bytes go into the budget as ``Moved``, which is left out here
    device.at(26 * HOUR_S)
    assert only(device(ev.CoordinatorSeen(coordinator())), fx.SendParts)
    poor = bench(moved=10_000)
    poor(ev.ModelSeen(pointer(1, size=89_000)))
    assert not only(poor(ev.RoundSeen(announcement(2))), fx.SendJoin)[0].accepts


def test_what_is_left_of_the_budget_is_not_spent_on_telling_it() -> None:
    """Seen to fail where each hundredth was told after a second."""
    device = bench(50_000)
    published = 0
    for second in range(2, 62):
        effects = device.at(float(second))
        published += len(only(effects, fx.PublishStatus))
        device(ev.Moved(600))
    assert published <= 3


def test_a_remark_on_what_is_left_of_the_budget_is_not_repeated_for_what_it_cost() -> None:
    """Seen to fail where the remark of 38 kB left was told again every three seconds until nothing was."""
    device = bench(moved=LIMIT - 38_400)
    device(ev.ModelSeen(pointer(1, size=60_000)))
    device(ev.Moved(100))
    said = 0
    for second in range(2, 62):
        for _ in only(device.at(float(second)), fx.PublishStatus):
            said += 1
            device(ev.Moved(450))
    assert "the next round waits: 3" in device.shown().detail
    assert said <= 3


def test_parts_that_are_missing_wait_too() -> None:
    device = bench()
    ticket, _ = device.train()
    assert only(device(ev.UpdateStored(parcel(ticket))), fx.SendParts)
    device(ev.Moved(LIMIT - 100))
    missing = receipt(announcement(1), Outcome.INCOMPLETE, missing=(1,))
    effects = device(ev.ReceiptSeen(missing))
    assert not only(effects, fx.SendParts)
    assert only(effects, fx.Say)[0].text.startswith("round 1 (train): the update waits: 100 B of its 100 kB a day")


def test_why_an_update_waits_for_the_budget_is_logged_once_and_shown_until_it_goes() -> None:
    """Seen to fail with an update that was held back without a word: the device was `sending` for a day."""
    device = bench()
    ticket, _ = device.train()
    device(ev.Moved(LIMIT - 100))
    (said,) = only(device(ev.UpdateStored(parcel(ticket))), fx.Say)
    why = "the update waits: 100 B of its 100 kB a day are left and it takes about 3 kB: again in 25.0 h"
    assert (said.text, said.level) == (f"round 1 (train): {why}", logging.WARNING)
    assert (device.shown().state, device.shown().detail) == (DeviceState.SENDING, why.replace("the", "its", 1))
    device(ev.Disconnected(), ev.Connected(), ev.CoordinatorSeen(coordinator()))
    assert len([one for one in only(device.effects, fx.Say) if "update waits" in one.text]) == 1
    device.at(25 * HOUR_S + 2)
    assert only(device(ev.CoordinatorSeen(coordinator()), ev.Moved(1)), fx.SendParts)
    assert "waits" not in device.shown().detail


def test_a_round_whose_update_has_to_wait_longer_than_it_lasts_is_declined_after_all() -> None:
    """Else the coordinator waits to the deadline. Seen to fail with a device that was silent, joined as it had."""
    device = bench()
    ticket, _ = device.train()
    device(ev.Moved(LIMIT - 100))
    (join,) = only(device(ev.UpdateStored(parcel(ticket))), fx.SendJoin)
    why = "100 B of its 100 kB a day are left and it takes about 3 kB: again in 25.0 h"
    assert (join.ticket, join.accepts, join.reason) == (ticket, False, why)
    assert not only(device(ev.ReceiptSeen(receipt(announcement(1), Outcome.NOTED))), fx.Forget)
    device.at(25 * HOUR_S + 2)
    assert only(device(ev.CoordinatorSeen(coordinator()), ev.Moved(1)), fx.SendParts)


def test_one_whose_update_can_go_before_the_deadline_is_not_declined() -> None:
    device = Bench(participation.begin(IDENTITY, budget=Budget(LIMIT).moved(0.0, LIMIT - 1600))).settle()
    device.at(25 * HOUR_S - 30)
    device(ev.CoordinatorSeen(coordinator()))
    ticket, _ = device.train()
    device(ev.Moved(500))
    effects = device(ev.UpdateStored(parcel(ticket)))
    assert not only(effects, fx.SendParts)
    assert not only(effects, fx.SendJoin)
    device.at(25 * HOUR_S + 2)
    assert only(device.effects, fx.SendParts)


def test_of_an_update_larger_than_the_budget_its_owner_is_told_what_to_do() -> None:
    device = bench()
    ticket, _ = device.train()
    device(ev.UpdateStored(parcel(ticket, LIMIT + 1)))
    assert device.shown().detail == (
        "its update waits: it takes about 100 kB, more than its budget of 100 kB a day: raise --budget"
    )


def test_what_was_moved_is_kept_by_the_hundredth_the_hour_and_at_the_end() -> None:
    device = bench()
    assert not only(device(ev.Moved(LIMIT // 100 - 1)), fx.KeepBudget)
    (keep,) = only(device(ev.Moved(1)), fx.KeepBudget)
    assert (keep.budget.left(1.0), keep.running_s) == (LIMIT - LIMIT // 100, 0.0)
    assert not only(device(ev.Moved(5)), fx.KeepBudget)
    assert only(device.at(HOUR_S + 1.5), fx.KeepBudget)
    assert not only(device.at(3 * HOUR_S), fx.KeepBudget)  # nothing was moved: no card wears for that
    device(ev.Moved(5))
    assert only(device(ev.StopRequested()), fx.KeepBudget)


def test_without_a_budget_nothing_is_counted() -> None:
    device = Bench().settle()
    assert not only(device(ev.Moved(10**9)), fx.KeepBudget)
    assert device.shown().budget_left is None


# -- auto --------------------------------------------------------------------------------------------------------------


def started(device: Bench, number: int = 1) -> fx.StartTraining:
    (start,) = only(device(ev.RoundSeen(announcement(number, version=0))), fx.StartTraining)
    return start


def test_a_run_that_leaves_the_codec_to_devices_has_each_choose_say_and_show_it() -> None:
    device = bench(10**9, codec="auto")
    assert started(device).codec == "int8"
    assert device.shown().codec == "int8"
    assert "codec int8" in [said.text for said in only(device.effects, fx.Say)]
    poor = bench(10_000, codec="auto")
    assert started(poor).codec == "int4"
    assert "codec int4, since int8 would take 1 kB of the 10 kB left" in [
        said.text for said in only(poor.effects, fx.Say)
    ]


def test_a_run_that_names_the_codec_is_followed() -> None:
    device = bench(2_000, codec="int8")
    assert started(device).codec == "int8"
    assert device.shown().codec is None


def test_a_slow_link_makes_smaller_updates_and_is_trusted_a_tenth_more_each_time() -> None:
    """Else one bad afternoon would last for ever. Seen to fail without ``_GROWTH``."""
    device = bench(10**9, codec="auto", speed=50.0)
    (start, keep) = started(device), only(device.effects, fx.KeepSpeed)
    assert start.codec == "topk"  # a tenth of 60 s at 50 bytes a second
    assert [round(one.speed, 3) for one in keep] == [55.0]


def test_an_upload_of_some_size_teaches_the_speed_and_the_newest_counts_half() -> None:
    device, sent = bench(10**9, codec="auto"), parcel(Ticket.of(announcement(1)))
    assert only(device(ev.Uploaded(sent, 100_000, 10.0)), fx.KeepSpeed) == [fx.KeepSpeed(10_000.0)]
    assert only(device(ev.Uploaded(sent, 100_000, 5.0)), fx.KeepSpeed) == [fx.KeepSpeed(15_000.0)]
    assert not only(device(ev.Uploaded(sent, 500, 5.0)), fx.KeepSpeed)


# -- on the disk and on the wire ---------------------------------------------------------------------------------------


class Thrifty(World):
    """A device with a budget."""

    limit = 1_000_000

    def device(self) -> Agent:
        self.session += 1
        self.posted.clear()
        data = DataSpec(path="watch", held_out="0.2")
        device = Device(DEVICE, self.session, data, self.state / "device", budget=self.limit)
        self.agent = Agent(
            device, TOPICS, self.link, self.trainer, lambda agent, what: self.posted.append((agent, what))
        )
        self.agent.start()
        self.turn()
        return self.agent

    @property
    def moved(self) -> int:
        budget = self.agent._state.budget
        assert budget is not None
        return self.limit - budget.left(self.agent._running_s)

    def uploading(self) -> bool:
        """Whether it knows of an update that is under way."""
        return self.agent._state.uploading_since is not None


@pytest.fixture
def world(tmp_path: Path) -> Thrifty:
    world = Thrifty(tmp_path)
    world.desk.begin()
    world.turn()
    return world


def test_all_payloads_count_both_ways(world: Thrifty) -> None:
    """Seen to fail without ``Meter.add`` in ``Agent._inbound``, and without it in ``Agent._send``."""
    before = world.moved
    assert before > 3000  # the model, the plan and what is said about them
    world.desk.offer(1, size=200_000)
    world.turn()
    down = world.moved - before
    assert 200_000 < down < 240_000  # each part says which it is of
    message = world.desk.announce(announcement(2))
    world.turn()
    sent = len(world.desk.update)
    assert sent < world.moved - before - down < 1.3 * sent + 3000
    world.desk.say(Kind.RECEIPT, receipt(message), 2)
    world.turn()


def test_what_was_moved_is_remembered_over_restarts_and_a_wall_clock_that_jumps(
    world: Thrifty, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen to fail with the budget's hours taken from the wall clock."""
    world.desk.offer(1, size=200_000)
    world.turn()
    moved = world.moved
    monkeypatch.setattr("time.time", lambda: 4e9)
    world.crash()
    assert world.moved > 0.95 * moved
    world.agent.stop()
    stopped = world.moved
    world.device()
    assert world.moved >= stopped


def test_what_goes_again_after_a_cut_counts_again(world: Thrifty) -> None:
    """Seen to fail without ``again`` in ``Meter.cut``."""
    world.trainer.payload = lambda _job: bytes(range(256)) * 100
    world.trainer.hold = True
    world.training()
    world.broker.faults = Faults(uplink_s=5.0)
    world.trainer.release()
    world.turn()
    world.turn()
    before = world.moved
    assert before > 25_600  # the update is with the link
    world.broker.cut(DEVICE)
    world.turn()
    assert 8 * 1024 < world.moved - before < 12 * 1024  # what was under way: the window of parts


class Poor(Thrifty):
    """One with a smaller budget."""

    limit = 60_000

    @property
    def overspent(self) -> int:
        budget = self.agent._state.budget
        assert budget is not None
        return sum(much for _, much in budget.hours) - budget.limit


def test_what_comes_at_qos_0_and_is_too_much_to_keep_counts_too(tmp_path: Path) -> None:
    """Seen to fail without ``Backlog.dropped``: 30 MB came, and 2 were counted."""
    world = Poor(tmp_path)
    world.desk.begin()
    for _ in range(600):
        world.desk.link.publish(TOPICS.topic(Address(Kind.COMMAND, device=DEVICE)), bytes(50_000), qos=0)
    world.turn()
    assert world.overspent + world.limit >= 600 * 50_000


def test_a_device_whose_budget_is_spent_says_so_to_its_coordinator(tmp_path: Path) -> None:
    world = Poor(tmp_path)
    world.desk.begin()
    world.turn()
    world.desk.offer(1, size=45_000)
    world.turn()
    assert world.agent.status.model_version == 1  # for which there was room
    world.desk.announce(announcement(2))
    world.turn(3.0)
    assert not world.desk.joins[-1].accepts
    assert "of its 60 kB a day are left" in world.desk.joins[-1].reason
    assert world.agent.status.state is DeviceState.IDLE
    assert "waits" in world.desk.statuses[-1].detail


def test_what_is_told_to_all_overspends_no_budget_and_is_caught_up_with(tmp_path: Path) -> None:
    """Seen to fail with ``Listen`` left undone by the agent: six times the budget."""
    world = Poor(tmp_path)
    world.desk.begin()
    world.turn()
    for number in range(1, 1000):
        world.desk.announce(announcement(number, version=0, phase=Phase.ABANDONED))
        world.turn()
    assert 0 < world.overspent < 2_000
    assert world.desk.statuses[-1].state is DeviceState.TROUBLE
    assert "budget of 60 kB a day is spent" in world.desk.statuses[-1].detail
    world.desk.announce(announcement(1000, version=0))
    world.turn(25 * HOUR_S)
    world.turn()
    assert world.desk.joins[-1].accepts


def test_an_upload_is_timed_until_the_broker_has_it(world: Thrifty) -> None:
    world.desk.say(Kind.RUN, run().model_copy(update={"codec": "auto"}))
    world.trainer.payload = lambda _job: bytes(range(256)) * 100
    world.turn()
    world.training()
    speed = Store(world.state / "device", print).speed()
    assert speed is not None
    assert speed > 0


def test_how_long_an_upload_takes_is_kept_but_not_of_one_that_was_cut(world: Thrifty) -> None:
    """Seen to fail with the time without a broker in it."""
    store = Store(world.state / "device", print)
    world.trainer.payload = lambda _job: bytes(range(256)) * 100
    world.broker.faults = Faults(uplink_s=0.5)
    message = world.training()
    for _ in range(6):
        world.turn(10.0)
    (known,) = store.pace().uploads
    assert len(known.seconds) == 1
    world.desk.say(Kind.RECEIPT, receipt(message), 1)
    world.desk.announce(announcement(2, version=0))
    while not world.uploading():
        world.turn(0.5)
    world.broker.cut(DEVICE)
    for _ in range(6):
        world.turn(10.0)
    assert not world.uploading()
    assert len(world.desk.update) > 25_600
    assert store.pace().uploads == (known,)


def test_an_update_that_the_broker_refuses_is_not_under_way_for_ever(world: Thrifty) -> None:
    """Its device would take part in no round any more. Seen to fail with ``Sent`` alone for an answer.

    Nor does it tell how long an upload takes. Seen to fail where it counted as one.
    """
    world.broker.faults = Faults(uplink_s=5.0)
    world.training()
    while not world.uploading():
        world.turn(1.0)
    token = next(iter(world.agent._meter._uploads))
    known = world.agent._state.pace
    world.agent.handle(wire.Refused(token, LinkError("not authorised")), world.now + 2.0)
    assert not world.uploading()
    assert world.agent._state.pace == known


def test_a_damaged_budget_is_set_aside_and_the_device_carries_on(tmp_path: Path) -> None:
    reports: list[str] = []
    store = Store(tmp_path, reports.append)
    store.keep_budget(Budget(100).moved(5.0, 40), 5.0)
    store.keep_speed(12.5)
    assert (store.budget(100), store.running_s(), store.speed()) == (Budget(100).moved(5.0, 40), 5.0, 12.5)
    (tmp_path / "budget").write_bytes(b"x")
    assert store.budget(100) == Budget(100)
    assert "budget is damaged; set aside" in reports[0]
