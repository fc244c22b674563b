"""Rounds that overlap (``max_staleness``): what counts, for how much, and that nothing counts twice or is lost."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_array_max_ulp

from coordinator import observers as seen
from coordinator.aggregation import mean, rule
from coordinator.config import CoordinatorSettings, run_settings
from coordinator.events import FleetChanged, Fold, Reply, Tick, UpdateReceived, UpdateRestored
from coordinator.journal import Journal
from coordinator.models import ModelStore
from coordinator.service import RunResult
from schemas import codec, compression
from schemas.cohort import draw
from schemas.errors import SettingsError
from schemas.messages import Outcome, PlanRef, RoundAnnouncement, StrategySettings, TrainSettings
from schemas.parameters import Parameters
from schemas.parts import describe
from tests.round_examples import Run, names, outcomes, rules, view
from tests.running_coordinator import RunningCoordinator
from tests.scripted_device import ScriptedDevice, delta_of
from tests.test_service import MODEL, PLAN


def overlapping(**changes: object) -> Run:
    return Run(rules(goal=2, quorum=2, max_staleness=2, rounds=6, **changes)).opened(names(5))


def test_must_17_an_update_for_an_earlier_round_counts_in_the_open_one_and_says_how_far_it_is_behind() -> None:
    """Seen to fail without ``_is_stale``, and with ``state.model`` for the header's own in ``refusal``."""
    run = overlapping()
    slow = run.header("dev-4")
    for device in names(2):
        run.update(device)
    assert run.state.round == 2
    effects = run.do(UpdateReceived(slow))
    assert outcomes(effects) == [Outcome.ACCEPTED]
    assert [fold.staleness for fold in effects if isinstance(fold, Fold)] == [1]
    (reply,) = [reply for reply in effects if isinstance(reply, Reply)]
    assert (reply.round, reply.nonce) == (1, slow.nonce)
    assert run.state.round == 2
    assert outcomes(run.update("dev-4"))[0] is Outcome.ACCEPTED
    assert run.state.round == 3


@pytest.mark.parametrize("attempt", [0, 2, 3, 7])
def test_must_17_an_update_for_any_attempt_at_an_earlier_round_was_asked_for(attempt: int) -> None:
    """Attempts go on over a restart, after three in a row have ended the run. Seen to fail with as many taken for asked
    as the open round can have: from the fourth on an honest update was of "nothing this run ever asked".
    """
    for overlap, outcome in ((2, Outcome.ACCEPTED), (None, Outcome.LATE)):
        run = Run(rules(goal=2, quorum=2, max_staleness=overlap, rounds=6))
        run.state = replace(run.state, attempt=attempt)  # as a restart has it
        slow = run.opened(names(5)).header("dev-4")
        for device in sorted(names(4), key=lambda name: draw(slow.nonce, name))[:2]:
            run.update(device)
        assert run.state.round == 2
        assert outcomes(run.do(UpdateReceived(slow))) == [outcome]


def test_an_update_for_an_abandoned_attempt_counts_in_the_next_and_its_device_may_rest_till_that_is_over() -> None:
    """It would be asked for the same round again at once. Seen to fail without a time in the receipt."""
    run = overlapping(deadline_s=60.0)
    slow = run.header("dev-4")
    run.do(Tick(run.state.now + 60.0))
    run.do(Tick(run.state.now + 10.0))
    assert run.open.ticket.attempt == 1
    (reply,) = [reply for reply in run.do(UpdateReceived(slow)) if isinstance(reply, Reply)]
    assert reply.outcome is Outcome.ACCEPTED
    assert 60.0 <= reply.come_back_after_s <= 66.0
    (reply,) = [reply for reply in run.update("dev-0") if isinstance(reply, Reply)]
    assert reply.come_back_after_s == 0.0


def test_an_update_that_is_too_far_behind_is_late() -> None:
    run = overlapping()
    slow = run.header("dev-4")
    for _ in range(3):
        for device in names(2):
            run.update(device)
    assert run.state.round == 4
    assert outcomes(run.do(UpdateReceived(slow))) == [Outcome.LATE]


def test_invariant_01_an_update_that_is_in_an_earlier_version_does_not_count_again() -> None:
    """Nor does another one for the same round. Seen to fail without ``counted`` in ``refusal``."""
    run = overlapping()
    first = run.header("dev-0")
    for device in names(2):
        run.update(device)
    before = run.open.received
    assert outcomes(run.do(UpdateReceived(first))) == [Outcome.DUPLICATE]
    assert outcomes(run.update("dev-0", ticket=run.state.rules.ticket(1, "train", 0), digest="x")) == [
        Outcome.DUPLICATE
    ]
    assert run.open.received == before


def test_what_a_run_remembers_of_earlier_rounds_is_bounded() -> None:
    run = overlapping()
    for _ in range(5):
        for device in names(2):
            run.update(device)
    assert len(run.state.lineage) == 2
    assert {number for _, number in run.state.counted} == {4, 5}


def test_everybody_is_drawn_and_a_join_that_comes_after_its_round_ends_no_work() -> None:
    """A device would take ``late`` for the end of its work. Seen to fail with the answer of rounds that wait."""
    run = overlapping()
    ticket = run.open.ticket
    assert run.open.cohort == 1.0
    for device in names(2):
        run.update(device)
    assert run.join("dev-4", ticket=ticket) == []


def test_only_the_last_version_is_evaluated_since_those_who_train_can_not_evaluate() -> None:
    run = overlapping(evaluate=True)
    run.do(FleetChanged(view(names(5), names(5))))
    for _ in range(5):
        for device in names(2):
            run.update(device)
    assert (run.state.round, run.state.task) == (6, "train")
    for device in names(2):
        run.update(device)
    assert (run.state.round, run.state.task) == (6, "evaluate")


def test_a_device_whose_training_is_in_the_last_version_can_evaluate_it() -> None:
    """Its two updates are for one round, and not for one task."""
    run = overlapping(evaluate=True)
    run.do(FleetChanged(view(names(5), names(2))))
    for _ in range(6):
        for device in names(2):
            run.update(device)
    assert (run.state.round, run.state.task) == (6, "evaluate")
    for device in names(2):
        assert outcomes(run.update(device))[0] is Outcome.ACCEPTED
    assert run.of(seen.ModelEvaluated)


def test_invariant_02_an_update_accepted_before_a_restart_counts_with_its_staleness_after_it() -> None:
    run = overlapping()
    slow = run.header("dev-4")
    for device in names(2):
        run.update(device)
    effects = run.do(UpdateRestored(slow))
    assert [fold.staleness for fold in effects if isinstance(fold, Fold)] == [1]
    assert outcomes(effects) == [Outcome.ACCEPTED]


# -- the whole coordinator ---------------------------------------------------------------------------------------------


def by_the_book(number: int, counted: list[tuple[str, int, int]], model: Parameters) -> Parameters:
    """One version in float64: (device, round its update answers, examples) -> FedBuff's step."""
    step = np.zeros(model.flat.size)
    for device, answers, examples in counted:
        scale = round(256 / (1 + number - answers) ** 0.5) / 256
        step += examples * scale * delta_of(device, answers, model.manifest).flat.astype(np.float64)
    step /= sum(examples for *_, examples in counted)
    return Parameters(model.manifest, model.flat + step.astype(np.float32))


def recomputed(directory: Path, result: RunResult, number: int) -> Parameters:
    """Version ``number`` from the journal and the version before, through the product's own rule."""
    before, total = ModelStore(directory / "models").load(number - 1), None
    total = mean.init(PLAN.manifest(), StrategySettings(), 100_000)
    with Journal(directory / "journal.db") as journal:
        for stored in journal.updates(result.run, number, "train"):
            update = codec.decode_update(stored.blob)
            delta = compression.decode(update.payload, PLAN.manifest())
            total = mean.fold(total, delta, update.examples, number - 1 - update.model_version)
    return rule("fedavg").apply(before.moments, before.parameters, mean.finish(total), StrategySettings())[1]


@pytest.mark.parametrize("crash", [False, True])
def test_must_24_invariant_06_a_version_of_stale_updates_is_fedbuffs_and_can_be_computed_again(
    tmp_path: Path, *, crash: bool
) -> None:
    """Also where the coordinator is killed with a stale update in its buffer, and what was counted is sent again.

    Seen to fail with ``None`` for the staleness in ``Performer``, and after the crash without ``counted`` from disk.
    """
    state = tmp_path / "state"
    running = overlap(state)
    devices = [running.device(f"dev-{number}") for number in range(3)]
    with running:
        first = running.opened()
        send(running, devices[0], first, 10)
        send(running, devices[1], first, 30)
        second = running.opened(2)
        send(running, devices[2], first, 20)
        if not crash:
            result = go_on(running, devices, first, second)
        running.sieve = lambda _event: None  # it hears nothing more, and is gone without a word
    if crash:
        running = overlap(state)
        devices = [running.device(f"dev-{number}") for number in range(3)]
        with running:
            assert running.opened().nonce == second.nonce
            result = go_on(running, devices, first, second)
    model = by_the_book(1, [("dev-0", 1, 10), ("dev-1", 1, 30)], MODEL)
    model = by_the_book(2, [("dev-2", 1, 20), ("dev-0", 2, 10)], model)
    model = by_the_book(3, [("dev-1", 2, 10), ("dev-0", 3, 10)], model)
    found = ModelStore(state / "models").load(3, result.digest)
    assert_array_max_ulp(found.parameters.flat, model.flat, maxulp=3)
    assert recomputed(state, result, 3).digest() == result.digest


def overlap(state: Path) -> RunningCoordinator:
    return RunningCoordinator(state, rounds=3, goal=2, quorum=2, max_staleness=2, evaluate=False)


def go_on(
    running: RunningCoordinator, devices: list[ScriptedDevice], first: RoundAnnouncement, second: RoundAnnouncement
) -> RunResult:
    """What is left of the run once dev-2's update for round 1 is in the buffer of round 2."""
    opened = running.count(seen.RoundOpened)
    before = len(devices[0].receipts)
    devices[0].send(devices[0].update(first, 10))  # which is in version 1
    running.until(lambda: len(devices[0].receipts) > before, "a receipt")
    assert devices[0].receipts[-1].outcome is Outcome.DUPLICATE
    send(running, devices[0], second, 10)
    third = running.opened(opened + 1)
    send(running, devices[1], second, 10)
    send(running, devices[0], third, 10)
    return running.result()


def send(running: RunningCoordinator, device: ScriptedDevice, asked: RoundAnnouncement, examples: int) -> None:
    """Send an update, and wait until it counts."""
    before = device.outcomes(asked.round).count(Outcome.ACCEPTED)
    device.send(device.update(asked, examples))
    running.until(lambda: device.outcomes(asked.round).count(Outcome.ACCEPTED) > before, "its receipt")


@pytest.mark.parametrize(("settings", "advice"), [({}, "add --goal"), ({"goal": 5000}, "lower --max-weight to 13421")])
def test_settings_that_can_not_overlap_are_refused(settings: dict[str, object], advice: str) -> None:
    given = CoordinatorSettings.model_validate({"max_staleness": 3, "devices_min": 1, **settings})
    plan = PlanRef(name="tiny", blob=describe(PLAN.to_bytes(), 1024))
    with pytest.raises(SettingsError, match=advice):
        run_settings(given, run="run-1", plan=plan, train=TrainSettings(), strategy=StrategySettings())
