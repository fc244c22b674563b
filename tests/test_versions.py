"""Which way a device gets the newest model, as its state machine decides it."""

from __future__ import annotations

from typing import TypeVar

import pytest

from edge.core import effects as fx
from edge.core import events as ev
from edge.core import missed, participation, versions
from edge.core.jobs import Failure, Merged
from edge.core.lineage import MOST
from schemas import parts
from schemas.errors import Reject
from schemas.messages import BlobRef, ModelPointer
from tests.edge_scripts import DEVICE, PLAN_REF, RUN, announcement, coordinator, described, digest, pointer, run
from tests.test_participation import IDENTITY, Bench

OTHER_PLAN = parts.describe(b"another plan", 1024)
KEY = f"{DEVICE}/model/{RUN}/{{}}"
E = TypeVar("E", bound=fx.Effect)


def stepped(version: int, *, size: int = 100, run: str = RUN, previous: str | None = None) -> ModelPointer:
    """A version with a step of so many bytes to it; a model has 3000."""
    step = BlobRef(digest=digest(f"step {version}"), size=size, parts=1)
    before = digest(f"{run}/{version - 1}") if previous is None else previous
    return pointer(version, run).model_copy(update={"previous": before, "step": step})


def holding(version: int = 0, steps: tuple[int, ...] = (), *, working: bool = False) -> Bench:
    """A device that has a model and is connected."""
    bench = Bench(participation.begin(IDENTITY, model=stepped(version), steps=steps))
    bench(ev.Tick(1.0))
    bench(ev.Connected())
    bench(ev.CoordinatorSeen(coordinator()))
    bench(ev.RunSeen(run()))
    bench(ev.PlanReady(PLAN_REF.digest, "watch"))
    bench(ev.JobDone(described(f"{DEVICE}/data/watch", 10, 0)))
    if working:
        bench(ev.RoundSeen(announcement(version + 1)))
    return bench


def only(effects: list[fx.Effect], kind: type[E]) -> E:
    (found,) = [effect for effect in effects if isinstance(effect, kind)]
    return found


def fetches(effects: list[fx.Effect]) -> list[fx.Effect]:
    return [one for one in effects if isinstance(one, fx.FetchModel | fx.FetchStep | fx.StopFetching)]


def test_must_35_a_device_that_holds_the_version_before_fetches_the_step_and_then_holds_the_next() -> None:
    bench = holding(3)
    for version in (4, 5):
        assert fetches(bench(ev.ModelSeen(stepped(version)))) == [fx.FetchStep(stepped(version))]
        bench(ev.StepReady(stepped(version)))
        assert bench.state.model == stepped(version)
        assert not bench.state.wants_model
    assert bench.state.steps == (100, 100)


@pytest.mark.parametrize(
    "offered",
    [
        stepped(5),  # two further
        stepped(4, previous="a" * 64),  # from another model than the one held
        stepped(4, size=3000),  # no smaller than the model
        stepped(4, run="run-two", previous=digest(f"{RUN}/3")),
        pointer(4),  # there is none
    ],
)
def test_must_35_any_other_device_fetches_the_model_whole(offered: ModelPointer) -> None:
    """Seen to fail without each of the comparisons in ``_follows``."""
    bench = holding(3)
    bench(ev.RunSeen(run(offered.run)))
    assert fetches(bench(ev.ModelSeen(offered))) == [fx.FetchModel(offered)]


def test_a_device_without_a_model_fetches_it_whole() -> None:
    bench = Bench(participation.begin(IDENTITY))
    bench(ev.RunSeen(run()))
    assert fetches(bench(ev.ModelSeen(stepped(4)))) == [fx.FetchModel(stepped(4))]


@pytest.mark.parametrize("steps", [(10,) * MOST, (2950,)])
def test_invariant_11_steps_on_disk_are_bounded_in_number_and_size(steps: tuple[int, ...]) -> None:
    """Where they can't be merged, the model is fetched whole and takes their place."""
    bench = holding(40, steps)
    assert fetches(bench(ev.ModelSeen(stepped(41)))) == [fx.FetchModel(stepped(41))]
    bench(ev.ModelReady(stepped(41)))
    assert (bench.state.model, bench.state.steps) == (stepped(41), ())


def test_must_35_a_damaged_step_is_fetched_as_the_whole_model_at_once_and_for_this_version_alone() -> None:
    bench = holding(3)
    bench(ev.ModelSeen(stepped(4)))
    failed = ev.FetchFailed("step", digest("step 4"), "damaged", rejected=Reject.WRONG_DIGEST)
    assert fetches(bench(failed)) == [fx.FetchModel(stepped(4))]
    bench(ev.ModelReady(stepped(4)))
    assert fetches(bench(ev.ModelSeen(stepped(5)))) == [fx.FetchStep(stepped(5))]


def test_must_35_a_step_of_which_nothing_comes_is_fetched_as_the_whole_model_in_the_end() -> None:
    """It is asked for once more before. Time without a broker doesn't count. Seen to fail without ``arriving``, without
    ``part_at`` at a connect, and where it was not asked for: what a broker had lost of a step cost a device 30 s and a
    whole model, and a run with rounds of 15 s its end.
    """
    bench = holding(3)
    bench(ev.ModelSeen(stepped(4)))
    patience_s = missed.SMALL_S + 100 / missed.SLOW
    bench.at(4.0)
    bench(ev.PartArriving(10))
    assert only(bench.at(4.0 + patience_s), fx.FetchAgain) == fx.FetchAgain("step")
    assert fetches(bench.at(4.0 + 2 * patience_s - 0.1)) == []
    bench(ev.Disconnected())
    assert fetches(bench.at(500.0)) == []
    bench(ev.Connected())
    assert participation.wake_at(bench.state) is not None
    assert fetches(bench.at(500.0 + 2 * patience_s - 0.1)) == []
    late = bench.at(500.0 + 2 * patience_s)
    assert fetches(late) == [fx.StopFetching("step"), fx.FetchModel(stepped(4))]


def test_a_disk_that_does_not_take_a_step_is_trouble_and_the_step_is_tried_again() -> None:
    bench = holding(3)
    bench(ev.ModelSeen(stepped(4)))
    assert fetches(bench(ev.FetchFailed("step", digest("step 4"), "full", lasting=True))) == []
    assert bench.state.trouble is not None
    assert fetches(bench.at(bench.state.fetch_at)) == [fx.FetchStep(stepped(4))]


def newcomer() -> Bench:
    """A device that has no model, and has begun to fetch version 4."""
    bench = Bench(participation.begin(IDENTITY))
    bench(ev.Tick(1.0), ev.Connected(), ev.RunSeen(run()))
    assert fetches(bench(ev.ModelSeen(stepped(4)))) == [fx.FetchModel(stepped(4))]
    return bench


def test_a_model_on_its_way_is_finished_although_a_round_ends_and_the_step_leads_on_from_it() -> None:
    """Else a device whose download takes longer than a round never has any. Seen to fail without ``comes_first``."""
    bench = newcomer()
    assert fetches(bench(ev.ModelSeen(stepped(5)))) == []
    assert fetches(bench(ev.ModelReady(stepped(4)))) == [fx.FetchStep(stepped(5))]
    bench(ev.StepReady(stepped(5)))
    assert bench.state.model == stepped(5)


@pytest.mark.parametrize(
    "offered",
    [
        stepped(6),
        stepped(5, previous="a" * 64),
        stepped(5, size=3000),
        stepped(5, run="run-two", previous=digest(f"{RUN}/4")),
        pointer(5),
    ],
)
def test_a_model_on_its_way_from_which_no_step_leads_on_is_given_up(offered: ModelPointer) -> None:
    """Version 4 leaves the broker with the pointer to 6. Seen to fail without each comparison in ``_follows``."""
    bench = newcomer()
    bench(ev.RunSeen(run(offered.run)))
    assert fetches(bench(ev.ModelSeen(offered))) == [fx.StopFetching("model"), fx.FetchModel(offered)]


def test_a_model_on_its_way_is_given_up_at_the_version_after_the_next() -> None:
    bench = newcomer()
    bench(ev.ModelSeen(stepped(5)))
    assert fetches(bench(ev.ModelSeen(stepped(6)))) == [fx.StopFetching("model"), fx.FetchModel(stepped(6))]


def test_a_model_of_which_nothing_comes_gives_way_to_the_next_and_is_waited_for_where_it_is_the_newest() -> None:
    """A broker that lost it gets the newest alone. Seen to fail without ``MODEL_S``."""
    bench = newcomer()
    bench.at(500.0)
    bench(ev.PartArriving(10))
    assert fetches(bench(ev.ModelSeen(stepped(5)))) == []
    assert versions.wake_at(bench.state) == (500.0 + versions.MODEL_S,)
    assert fetches(bench.at(499.0 + versions.MODEL_S)) == []
    late = bench.at(500.0 + versions.MODEL_S)
    assert fetches(late) == [fx.StopFetching("model"), fx.FetchModel(stepped(5))]
    assert fetches(bench.at(9000.0)) == []


def test_a_newer_version_takes_the_place_of_a_step_on_its_way() -> None:
    bench = holding(3)
    bench(ev.ModelSeen(stepped(4)))
    assert fetches(bench(ev.ModelSeen(stepped(5)))) == [fx.StopFetching("step"), fx.FetchModel(stepped(5))]


# -- steps that lead elsewhere -----------------------------------------------------------------------------------------


def test_must_36_where_steps_lead_elsewhere_all_is_dropped_and_the_round_goes_on_with_the_whole_model() -> None:
    """Seen to fail without ``DropModel``, and where the attempt is declined."""
    bench = holding(3, working=False)
    bench(ev.ModelSeen(stepped(4)))
    bench(ev.StepReady(stepped(4)))
    start = only(bench(ev.RoundSeen(announcement(5))), fx.StartTraining)
    effects = bench(ev.JobFailed(Failure(key=start.key, kind="model", message="the steps lead elsewhere")))
    assert only(effects, fx.DropModel)
    assert fetches(effects) == [fx.FetchModel(stepped(4))]
    assert (bench.state.model, bench.state.steps) == (None, ())
    again = only(bench(ev.ModelReady(stepped(4))), fx.StartTraining)
    assert again == start


def test_a_model_on_disk_that_can_never_be_read_ends_in_a_decline_and_not_in_fetching_for_ever() -> None:
    bench = holding(0, working=True)
    tries = 0
    while bench.state.work is not None and bench.state.work.stage == "running":
        tries += 1
        bench(ev.JobFailed(Failure(key=bench.state.key(bench.state.work.ticket), kind="model", message="damaged")))
        bench(ev.ModelSeen(stepped(0)))
        bench.at(bench.state.fetch_at)
        bench(ev.ModelReady(stepped(0)))
    assert tries == 3
    assert bench.state.work is not None
    assert bench.state.work.stage == "declined"


# -- merging -----------------------------------------------------------------------------------------------------------


def full() -> Bench:
    """A device whose next step makes its steps as many as are merged."""
    return holding(40, (10,) * (versions.MERGED - 1))


def test_many_steps_are_merged_and_the_disk_takes_the_model_in_their_place() -> None:
    bench = full()
    bench(ev.ModelSeen(stepped(41)))
    start = only(bench(ev.StepReady(stepped(41))), fx.StartMerging)
    assert (start.key, start.model) == (KEY.format(41), stepped(41).digest)
    bench(ev.ModelSeen(stepped(42)))
    bench(ev.StepReady(stepped(42)))
    keep = only(bench(ev.JobDone(Merged(key=start.key, model=b"all of it"))), fx.KeepMerged)
    assert (keep.pointer, keep.model) == (stepped(41), b"all of it")
    bench(ev.MergeKept(stepped(41)))
    assert (bench.state.model, bench.state.steps, bench.state.merging) == (stepped(42), (100,), None)


def test_large_steps_are_merged_once_they_are_half_a_model() -> None:
    bench = holding(3, (1400,))
    bench(ev.ModelSeen(stepped(4)))
    assert only(bench(ev.StepReady(stepped(4))), fx.StartMerging)


def test_a_training_goes_before_a_merge() -> None:
    bench = full()
    bench(ev.ModelSeen(stepped(41)))
    bench(ev.RoundSeen(announcement(42)))
    effects = bench(ev.StepReady(stepped(41)))
    assert only(effects, fx.StartTraining)
    assert not [one for one in effects if isinstance(one, fx.StartMerging)]


@pytest.mark.parametrize("how", ["crash", "disk"])
def test_a_merge_that_fails_is_tried_again_later_and_costs_nothing_else(how: str) -> None:
    bench = full()
    bench(ev.ModelSeen(stepped(41)))
    start = only(bench(ev.StepReady(stepped(41))), fx.StartMerging)
    if how == "crash":
        bench(ev.JobFailed(Failure(key=start.key, kind="crash", message="signal 9")))
    else:
        bench(ev.JobDone(Merged(key=start.key, model=b"all of it")))
        bench(ev.MergeFailed("the disk is full"))
    assert (bench.state.model, len(bench.state.steps)) == (stepped(41), versions.MERGED)
    at = bench.state.merge_at
    assert (participation.wake_at(bench.state) or 0.0) <= at
    assert only(bench.at(at), fx.StartMerging) == start


def test_a_model_that_came_whole_meanwhile_is_not_replaced_by_an_older_merged_one() -> None:
    """Seen to fail with ``merging`` left as it is in ``ready``."""
    bench = full()
    bench(ev.ModelSeen(stepped(41)))
    start = only(bench(ev.StepReady(stepped(41))), fx.StartMerging)
    bench(ev.ModelSeen(pointer(43)))
    bench(ev.ModelReady(pointer(43)))
    assert bench(ev.JobDone(Merged(key=start.key, model=b"old"))) == []
    assert (bench.state.model, bench.state.steps) == (pointer(43), ())


def test_another_runs_model_of_the_same_number_is_not_replaced_by_what_was_being_merged() -> None:
    """Seen to fail with the number alone for a key: the device then trained on the other run's model."""
    bench = full()
    bench(ev.ModelSeen(stepped(41)))
    start = only(bench(ev.StepReady(stepped(41))), fx.StartMerging)
    bench(ev.RunSeen(run("run-other")))
    bench(ev.PlanReady(PLAN_REF.digest, "watch"))
    other = stepped(41, run="run-other", size=1400)
    bench(ev.ModelSeen(other))
    assert only(bench(ev.ModelReady(other)), fx.CancelJob) == fx.CancelJob(start.key)
    after = stepped(42, run="run-other", size=1600)
    bench(ev.ModelSeen(after))
    again = only(bench(ev.StepReady(after)), fx.StartMerging)
    assert again.key != start.key
    assert bench(ev.JobDone(Merged(key=start.key, model=b"the other's"))) == []
    assert bench.state.merging == after


def test_steps_that_turn_out_wrong_when_merged_are_dropped() -> None:
    bench = full()
    bench(ev.ModelSeen(stepped(41)))
    start = only(bench(ev.StepReady(stepped(41))), fx.StartMerging)
    effects = bench(ev.JobFailed(Failure(key=start.key, kind="model", message="they lead elsewhere")))
    assert only(effects, fx.DropModel)
    assert fetches(effects) == [fx.FetchModel(stepped(41))]


@pytest.mark.parametrize(("kind", "most"), [("plan", 1), ("crash", 3), ("training", 3)])
def test_steps_that_can_not_be_merged_by_a_plan_are_not_tried_for_ever(kind: str, most: int) -> None:
    """Seen to fail, with a child every 20 s, without ``unmerged``."""
    bench = full()
    bench(ev.ModelSeen(stepped(41)))
    starts = [one for one in bench(ev.StepReady(stepped(41))) if isinstance(one, fx.StartMerging)]
    for tick in range(1, 50):
        failure = Failure.model_validate({"key": KEY.format(41), "kind": kind, "message": "it can't be"})
        bench(ev.JobFailed(failure))
        starts += [one for one in bench.at(60.0 * tick) if isinstance(one, fx.StartMerging)]
    assert len(starts) == most
    assert bench.state.model == stepped(41)
    bench(ev.RunSeen(run(plan=OTHER_PLAN)), ev.PlanReady(OTHER_PLAN.digest, "watch"))
    assert bench.state.merging is not None  # another plan may do
