"""What a device does about retained messages that its broker threw away."""

from __future__ import annotations

from collections import deque
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from edge.core import effects as fx
from edge.core import events as ev
from edge.core import participation
from edge.core.events import BlobKind, Event
from edge.core.missed import LONGER_S, LONGEST_S, PARTS_S, PATIENCE_S, SLOW, SMALL_S, with_parts_s
from edge.download import WINDOW, Download
from schemas import codec, parts
from schemas.link.memory_broker import Faults
from schemas.messages import BlobRef, CoordinatorStatus, Phase, RoundAnnouncement
from tests.edge_scripts import PLAN_REF, RUN, announcement, coordinator, pointer, run
from tests.test_agent import World
from tests.test_participation import Bench, only


def says(**changes: object) -> CoordinatorStatus:
    """A status that tells of the run."""
    return coordinator().model_copy(update={"run": RUN, **changes})


@pytest.mark.parametrize(
    ("event", "what", "patience_s"),
    [
        (ev.RoundSeen(announcement(2)), "the pointer to model 1", PATIENCE_S),
        (ev.CoordinatorSeen(says(model_version=3)), "the pointer to model 3", LONGER_S),
        (ev.CoordinatorSeen(says(run="another-run")), "the run another-run", LONGER_S),
        (ev.CoordinatorSeen(says(round=1, phase="collecting")), "the announcement of round 1", LONGER_S),
    ],
)
def test_what_was_spoken_of_and_does_not_come_is_asked_for_again(event: Event, what: str, patience_s: float) -> None:
    """Each time after twice as long. Seen to fail with ``_missing`` empty in each of its cases."""
    bench = Bench().settle()
    bench(event)
    at = 1.0
    for wait_s in (patience_s, 2 * patience_s):
        for beat in range(1, int(wait_s / 20)):
            bench.at(at + 20.0 * beat)
            bench(event)  # it goes on saying so
        assert not only(bench.at(at + wait_s - 0.1), fx.Listen)
        found, at = bench.at(at + wait_s), at + wait_s
        assert only(found, fx.Listen) == [fx.Listen(True)]
        (said,) = (say for say in only(found, fx.Say) if "subscribing again" in say.text)
        assert said.text.startswith(f"{what} hasn't come in {wait_s:g} s")


@pytest.mark.parametrize("phase", ["", Phase.COLLECTING])
def test_rounds_that_are_over_sooner_than_a_device_asks_are_asked_for_all_the_same(phase: str) -> None:
    """What is missing has another number in each. Seen to fail: the wait began anew each time, and it never asked."""
    bench, asked = Bench().settle(), list[float]()
    for number in range(1, 100):
        told = says(round=number, phase=phase, model_version=0 if phase else number)
        found = bench(ev.Tick(20.0 * number), ev.CoordinatorSeen(told))
        asked += [20.0 * number for _ in only(found, fx.Listen)]
    assert asked[0] == 20.0 + LONGER_S
    assert len(asked) < 10


def test_an_announcement_makes_a_device_less_patient_than_a_status() -> None:
    """What it names has been published before it."""
    bench = Bench().settle()
    bench(ev.CoordinatorSeen(says(model_version=1)), ev.Tick(20.0), ev.RoundSeen(announcement(3)))
    assert not only(bench.at(20.0 + PATIENCE_S - 0.1), fx.Listen)
    assert only(bench.at(20.0 + PATIENCE_S), fx.Listen)


def test_a_round_that_never_was_keeps_a_device_out_for_a_minute_only() -> None:
    """One forged announcement, or a coordinator whose disk was set back. Seen to fail without ``_let_go``: whatever the
    coordinator announced came before it, and the device was silent until its next start.
    """
    bench = Bench().settle()
    real = announcement(2, version=0)
    forged = real.model_copy(update={"round": 900_000_000, "remaining_s": 3e7})
    bench(ev.CoordinatorSeen(says(round=2, phase="collecting")), ev.RoundSeen(forged))
    assert not only(bench(ev.RoundSeen(real)), fx.StartTraining)
    for now in (20.0, 40.0, 60.9):
        bench.at(now)
        assert not only(bench(ev.CoordinatorSeen(says(round=2, phase="collecting"))), fx.Listen)
    assert only(bench.at(61.0), fx.Listen) == [fx.Listen(True)]
    assert only(bench(ev.RoundSeen(real)), fx.StartTraining)
    assert not only(bench(ev.RoundSeen(announcement(1))), fx.StartTraining)  # what is older than that stays stale


@pytest.mark.parametrize(
    ("forged", "real"),
    [
        (announcement(1, attempt=1_000_000, remaining_s=3e7), announcement(1)),
        (announcement(1, task="evaluate", version=0, remaining_s=3e7), announcement(1)),
        (announcement(1, task="evaluate", attempt=9, remaining_s=3e7), announcement(1, task="evaluate", attempt=1)),
    ],
)
def test_an_attempt_that_never_was_keeps_a_device_out_for_a_minute_after_the_real_one_is_heard_again(
    forged: RoundAnnouncement, real: RoundAnnouncement
) -> None:
    """Of the round that is open, so that no status tells of it. Seen to fail without ``belied``: whatever the
    coordinator announced of that round came before it, and the device was silent until the next.
    """
    bench = Bench().settle(held_out=3)
    if real.task == "evaluate":
        bench(ev.ModelSeen(pointer(1)), ev.ModelReady(pointer(1)))
    status = says(round=1, phase="collecting", model_version=real.model_version)
    bench(ev.CoordinatorSeen(status), ev.RoundSeen(forged))
    bench.at(11.0)
    assert not only(bench(ev.RoundSeen(real)), fx.SendJoin)
    for now in (30.0, 50.0, 70.9):
        assert not only([*bench.at(now), *bench(ev.CoordinatorSeen(status))], fx.Listen)
    assert only(bench.at(71.0), fx.Listen) == [fx.Listen(True)]
    assert only(bench(ev.RoundSeen(real)), fx.SendJoin)
    assert not only(bench.at(140.0), fx.Listen)  # no more is amiss


def test_an_announcement_that_comes_once_more_behind_a_later_one_changes_nothing() -> None:
    """A broker may repeat it. What is retained, and so comes again as it asks, is the later one."""
    bench = Bench().settle()
    later = announcement(1, attempt=1, remaining_s=600.0)
    bench(ev.CoordinatorSeen(says(round=1, phase="collecting")))
    (start,) = only(bench(ev.RoundSeen(later)), fx.StartTraining)
    bench(ev.RoundSeen(announcement(1)), ev.Tick(59.0), ev.CoordinatorSeen(says(round=1, phase="collecting")))
    assert only(bench.at(61.0), fx.Listen) == [fx.Listen(True)]
    effects = bench(ev.RoundSeen(later), ev.RoundSeen(announcement(1)), ev.Tick(62.0))
    assert not only(effects, fx.CancelJob)
    assert bench.state.work is not None
    assert bench.state.key(bench.state.work.ticket) == start.key


def test_a_round_and_a_model_that_never_were_keep_a_device_out_for_some_minutes_only() -> None:
    """The model is asked for first, ever more seldom. Seen to fail where nothing else may be missing."""
    bench = Bench().settle()
    real = announcement(2, version=0)
    bench(ev.RoundSeen(real.model_copy(update={"round": 900_000_000, "model_version": 900_000_000})))
    for now in range(1, 180):
        bench.at(float(now))
        bench(ev.CoordinatorSeen(says(round=2, phase="collecting")))
    assert only(bench(ev.RoundSeen(real)), fx.StartTraining)


def test_a_model_that_never_was_is_waited_for_for_a_minute_only() -> None:
    """Seen to fail without ``_let_go``: each of the coordinator's models came before it, and was ignored."""
    bench = Bench().settle()
    bench(ev.CoordinatorSeen(says()), ev.ModelSeen(pointer(900_000_000)))
    assert not only(bench(ev.ModelSeen(pointer(1))), fx.FetchModel)
    bench.at(40.0)
    bench(ev.CoordinatorSeen(says(model_version=1)))
    assert only(bench.at(61.0), fx.Listen) == [fx.Listen(True)]
    (fetch,) = only(bench(ev.ModelSeen(pointer(1))), fx.FetchModel)
    assert fetch.pointer.version == 1


def test_a_round_that_is_not_ahead_is_kept_where_a_model_that_never_was_is_let_go_of() -> None:
    """Seen to fail with both let go: an attempt that was over took the place of the one in hand."""
    bench = Bench().settle()
    open_still = announcement(2, attempt=1, version=0, remaining_s=600.0)
    bench(ev.CoordinatorSeen(says(round=2, phase="collecting")), ev.ModelSeen(pointer(900_000_000)))
    bench(ev.RoundSeen(open_still), ev.Tick(40.0), ev.CoordinatorSeen(says(round=2, phase="collecting")))
    assert only(bench.at(61.0), fx.Listen) == [fx.Listen(True)]
    bench(ev.RoundSeen(announcement(2, attempt=0, version=0)))
    assert bench.state.announced is not None
    assert bench.state.announced.message == open_still


def test_a_coordinator_without_a_run_has_nothing_to_be_asked_for() -> None:
    """Seen to fail where a device that has no run either asked for the pointer to its model."""
    bench = Bench()
    bench(ev.Tick(1.0), ev.Connected())
    for now in range(1, 200, 20):
        bench(ev.Tick(float(now)), ev.CoordinatorSeen(coordinator()))
    assert not only(bench.effects, fx.Listen)


def test_a_model_that_is_here_is_let_go_of_for_nothing() -> None:
    """MUST 15. Seen to fail without ``held`` in ``_is_out_of_reach``."""
    bench = Bench().settle()
    bench(ev.CoordinatorSeen(says()), ev.ModelSeen(pointer(5)), ev.ModelReady(pointer(5)))
    bench.at(40.0)
    bench(ev.CoordinatorSeen(says(model_version=1)))
    assert not only(bench.at(90.0), fx.Listen)
    assert not only(bench(ev.ModelSeen(pointer(1))), fx.FetchModel)


def test_what_a_status_reaches_a_little_later_is_no_reason_to_ask() -> None:
    """A pointer and an announcement come before the status that tells of them."""
    bench = Bench().settle()
    bench(ev.CoordinatorSeen(says()), ev.ModelSeen(pointer(1)), ev.RoundSeen(announcement(2)))
    bench(ev.Tick(11.0), ev.CoordinatorSeen(says(round=2, model_version=1)))
    assert not only([*bench.at(61.0), *bench.at(71.0)], fx.Listen)


@pytest.mark.parametrize("what", ["run", "pointer"])
def test_what_an_announcement_names_after_a_status_is_asked_for_as_soon_as_if_it_alone_had(what: str) -> None:
    """Seen to fail for a run that a status had told of, and without ``first_s``: it took 60 s."""
    bench = Bench() if what == "run" else Bench().settle()
    version = 0 if what == "run" else 1
    bench(ev.Tick(1.0), ev.Connected(), ev.CoordinatorSeen(says(model_version=version)), ev.Tick(20.0))
    bench(ev.RoundSeen(announcement(version + 1, phase=Phase.SELECTING)))
    assert not only(bench.at(20.0 + PATIENCE_S - 0.1), fx.Listen)
    assert only(bench.at(20.0 + PATIENCE_S), fx.Listen)
    assert not only(bench.at(20.0 + 3 * PATIENCE_S - 0.1), fx.Listen)
    assert only(bench.at(20.0 + 3 * PATIENCE_S), fx.Listen)


def test_once_it_is_here_nothing_is_asked_for() -> None:
    bench = Bench().settle()
    bench(ev.RoundSeen(announcement(2)), ev.Tick(1.0 + PATIENCE_S))
    bench(ev.ModelSeen(pointer(1)), ev.ModelReady(pointer(1)))
    assert bench.state.behind is None
    assert not only(bench.at(50.0), fx.Listen)


def test_a_device_that_lacks_nothing_or_has_no_broker_asks_for_nothing() -> None:
    bench = Bench().settle()
    bench(ev.CoordinatorSeen(says(round=1, phase=Phase.COLLECTING)), ev.RoundSeen(announcement(1)))
    bench(ev.CoordinatorSeen(says(round=2, phase=Phase.SELECTING)))
    assert not only(bench.at(25.0), fx.Listen)
    bench(ev.RoundSeen(announcement(2)), ev.Disconnected())
    assert not only(bench.at(60.0), fx.Listen)


def test_however_long_it_lasts_it_is_asked_for_every_ten_minutes() -> None:
    bench, asked = Bench().settle(), list[float]()
    bench(ev.RoundSeen(announcement(2)))
    for second in range(1, 6000):
        bench(ev.CoordinatorSeen(says()))
        asked += [second for _ in only(bench.at(float(second)), fx.Listen)]
    gaps = [after - before for before, after in pairwise(asked)]
    assert max(gaps) == LONGEST_S
    assert len(asked) < 20


def test_a_pointer_that_the_broker_threw_away_costs_a_device_five_seconds(tmp_path: Path) -> None:
    """It is retained all the same. Seen to fail without the rule: the device waited for the next model."""
    world = World(tmp_path)
    world.desk.begin()
    world.turn()
    world.broker.faults = Faults(loss=1.0)
    world.desk.offer(1)
    world.turn()
    world.broker.faults = Faults()
    asked = world.training(2)
    world.turn(PATIENCE_S - 0.1)
    assert world.agent.status.model_version == 0
    world.turn(0.2)
    assert world.agent.status.model_version == 1
    assert codec.decode_update(world.desk.update).nonce == asked.nonce


@pytest.mark.parametrize("lost", [f"/plan/{PLAN_REF.digest}/0", "/model/0/1"])
def test_a_part_that_the_broker_threw_away_costs_a_device_some_seconds(tmp_path: Path, lost: str) -> None:
    """Of a plan, or of a model. Seen to fail without the rule: nothing but a reconnect brought it."""
    world = World(tmp_path)
    deliver = world.broker._deliver
    with patch.object(world.broker, "_deliver", lambda to, one: one.topic.endswith(lost) or deliver(to, one)):
        world.desk.begin()
        world.turn()
        asked = world.training(1)
    world.turn(SMALL_S - 0.1)
    assert not world.desk.updates
    world.turn(0.4)
    assert codec.decode_update(world.desk.update).nonce == asked.nonce


def test_parts_that_come_again_are_no_headway(tmp_path: Path) -> None:
    """Those of a coordinator or a broker that is back, say. Seen to fail with an event for each part that comes."""
    world, lost = World(tmp_path), tuple(f"/model/1/{index}" for index in range(3, 8))
    world.desk.begin()
    world.turn()
    deliver = world.broker._deliver
    with patch.object(world.broker, "_deliver", lambda to, one: one.topic.endswith(lost) or deliver(to, one)):
        world.desk.offer(1, size=8000)
        world.turn()
        for _ in range(4):
            world.turn(SMALL_S / 4)
            world.desk.offer(1, size=8000)
            world.turn()
    assert world.agent.status.model_version == 0
    world.turn(8000 / SLOW + 0.1)
    assert world.agent.status.model_version == 1


@pytest.mark.parametrize(("speed", "most"), [(4000, 48), (1000, 64)])
def test_a_link_that_is_slow_and_loses_nothing_is_not_kept_busy_with_what_has_come(speed: int, most: int) -> None:
    """It brings once more what was asked for once more. Seen to fail where that told nothing: 72 and 439 of 40 parts.

    What the broker is asked for waits in a queue, of which the link brings one part after the other.
    """
    blob = bytes(40 * 120_000)
    ref = parts.describe(blob, 120_000)
    bench, download, brought = Bench(), Download(ref, len(blob)), 0
    bench(ev.Tick(1.0), ev.Connected(), ev.RunSeen(run()), ev.PlanReady(PLAN_REF.digest, "watch"))
    bench(ev.ModelSeen(pointer(0).model_copy(update={"blob": ref})))
    queue, at = deque(download.begin().subscribe), 1.0
    while not download.complete:
        comes_at = at + 120_000 / speed
        while at < comes_at:
            at = min(at + 1.0, comes_at)
            queue.extend(index for _ in only(bench.at(at), fx.FetchAgain) for index in download.again().subscribe)
        index, brought = queue.popleft(), brought + 1
        news = download.is_news(index)
        queue.extend(download.take(index, parts.cut(blob, ref, index)).subscribe)
        if news or download.is_answer(index):
            bench(ev.PartArriving(120_000 if news else 0))
    assert brought + len(queue) <= most


def test_parts_that_were_asked_for_once_more_show_that_the_link_is_busy(tmp_path: Path) -> None:
    """Seen to fail with no event for what comes again: the parts behind those were asked for twice as well."""
    world, held = World(tmp_path), deque[tuple[Any, Any]]()
    world.desk.begin()
    world.turn()
    deliver = world.broker._deliver

    def hold(to: Any, one: Any) -> None:
        held.append((to, one)) if "/model/1/" in one.topic else deliver(to, one)

    with patch.object(world.broker, "_deliver", hold):
        world.desk.offer(1, size=16_000)
        world.turn()
        world.turn(with_parts_s(pointer(1, size=16_000).blob) + 0.1)
        assert len(held) == 2 * WINDOW
        for part in range(2 * WINDOW):
            world.turn(2.0 if part >= WINDOW else 0.0)
            deliver(*held.popleft())
        world.turn()
    assert sorted(int(one.topic.rpartition("/")[2]) for _, one in held) == list(range(WINDOW, 2 * WINDOW))


@pytest.mark.parametrize("kind", ["plan", "model"])
def test_parts_are_asked_for_ever_less_often(kind: BlobKind) -> None:
    """And not while others come. Seen to fail without ``part_at``, and with a patience that stays as it was."""
    bench = fetching(kind)
    bench(ev.Tick(4.0), ev.PartArriving(10))
    first_s = SMALL_S + (PLAN_REF.size if kind == "plan" else 3000) / SLOW
    due = (4.0 + first_s, 4.0 + 3 * first_s, 4.0 + 7 * first_s)
    for at in due:
        assert not only(bench.at(at - 0.1), fx.FetchAgain)
        assert (wake := participation.wake_at(bench.state)) is not None
        assert wake <= at
        assert only(bench.at(at), fx.FetchAgain) == [fx.FetchAgain(kind)]


@pytest.mark.parametrize("kind", ["plan", "model"])
def test_without_a_broker_no_part_is_asked_for(kind: BlobKind) -> None:
    """A reconnect asks for all of them anyway. Seen to fail without ``connected``."""
    bench = fetching(kind)
    bench(ev.Disconnected())
    assert not only(bench.at(300.0), fx.FetchAgain)
    bench(ev.Connected())
    assert not only(bench.at(300.0 + SMALL_S), fx.FetchAgain)
    assert only(bench.at(300.0 + SMALL_S + 0.2), fx.FetchAgain)


def test_what_is_large_is_waited_for_longer_and_half_a_minute_at_most() -> None:
    """A slow link is busy with it. Seen to fail with one patience for all."""
    sizes = (100_000, 10**9)
    assert [with_parts_s(BlobRef(digest=PLAN_REF.digest, size=size, parts=1)) for size in sizes] == [10.0, PARTS_S]


def fetching(kind: BlobKind) -> Bench:
    """A device that fetches one of the two."""
    bench = Bench()
    bench(ev.Tick(1.0), ev.Connected(), ev.RunSeen(run()))
    if kind == "model":
        bench(ev.PlanReady(PLAN_REF.digest, "watch"), ev.ModelSeen(pointer(0)))
    return bench
