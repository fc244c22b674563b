"""When a device makes a model of its owner's own, and that none of it goes anywhere."""

from __future__ import annotations

from dataclasses import replace

import pytest

from edge.core import effects as fx
from edge.core import events as ev
from edge.core import participation
from edge.core.attempt import CRASHES, RETRY_S
from edge.core.jobs import Failure
from edge.core.personal_settings import PersonalSettings
from edge.core.personalising import is_pending
from schemas.messages import Command
from tests.edge_scripts import DEVICE, RUN, announcement, described, digest, personalised, pointer, trained
from tests.test_participation import IDENTITY, Bench, only, parcel

DITTO = PersonalSettings(method="ditto")
KEY = f"{DEVICE}/personal/{RUN}/{{}}"


def owner(personal_of: tuple[str, str] | None = None) -> Bench:
    """A device that is to make one, before it has met anybody."""
    return Bench(participation.begin(replace(IDENTITY, personal=DITTO), personal_of=personal_of))


def made(version: int = 0) -> ev.JobDone:
    return ev.JobDone(personalised(KEY.format(version)))


def fits(effects: list[fx.Effect]) -> list[str]:
    return [effect.model for effect in only(effects, fx.StartPersonalising)]


def test_each_global_model_is_fitted_once_and_what_comes_of_it_is_kept_with_its_origin() -> None:
    """Seen to fail without ``personal_of``, and with the run's next model not looked at."""
    bench = owner().settle()
    (start,) = only(bench.effects, fx.StartPersonalising)
    assert (start.key, start.model, start.how) == (KEY.format(0), digest(f"{RUN}/0"), DITTO)
    effects = bench(made())
    (kept,) = only(effects, fx.KeepPersonal)
    assert kept.model == b"own"
    assert (kept.origin.run, kept.origin.version, kept.origin.model) == (RUN, 0, digest(f"{RUN}/0"))
    assert kept.origin.verdict.personal
    assert not fits(bench.at(100.0))
    bench(ev.ModelSeen(pointer(1)))
    assert fits(bench(ev.ModelReady(pointer(1)))) == [digest(f"{RUN}/1")]


def test_a_device_whose_owner_wants_none_makes_none() -> None:
    assert not fits(Bench().settle().effects)


def test_after_a_restart_the_same_model_and_data_are_not_fitted_again() -> None:
    assert not fits(owner((digest(f"{RUN}/0"), "")).settle().effects)
    assert fits(owner((digest(f"{RUN}/0"), "other files")).settle().effects)
    assert fits(owner((digest(f"{RUN}/7"), "")).settle().effects)


def test_a_round_goes_before_it_and_it_begins_anew_afterwards() -> None:
    """Seen to fail without ``give_way``, and where it is begun while a round is worked on."""
    bench = owner().settle()
    effects = bench(ev.RoundSeen(announcement(1)))
    assert only(effects, fx.CancelJob) == [fx.CancelJob(KEY.format(0))]
    (training,) = only(effects, fx.StartTraining)
    places = [effects.index(fx.CancelJob(KEY.format(0))), effects.index(training)]
    assert places == sorted(places)
    assert not only(bench(made()), fx.KeepPersonal)
    assert not fits(bench.at(10.0))
    (store,) = only(bench(ev.JobDone(trained(training.key))), fx.StoreUpdate)
    assert fits(bench(ev.UpdateStored(parcel(store.ticket)))) == [digest(f"{RUN}/0")]


def test_nothing_of_it_is_published_and_an_update_is_what_it_is_without() -> None:
    """Seen to fail with a status that tells of it."""
    with_one, without = owner().settle(), Bench().settle()
    with_one(made())
    for bench in (with_one, without):
        ticket, _ = bench.train()
        bench(ev.UpdateStored(parcel(ticket)))
    with_one(made())
    assert only(with_one.effects, fx.KeepPersonal)
    for kind in (fx.SendJoin, fx.StoreUpdate, fx.SendParts, fx.PublishStatus, fx.StartTraining):
        assert only(with_one.effects, kind) == only(without.effects, kind)


def test_a_trainer_that_dies_over_it_is_tried_again_and_not_for_ever() -> None:
    """Seen to fail with every crash counted anew, and with a wake-up that is missing."""
    bench = owner().settle()
    bench(ev.Disconnected())
    for number in range(1, CRASHES):
        assert not fits(bench(ev.JobFailed(Failure(key=KEY.format(0), kind="crash", message="signal 9"))))
        again = bench.state.now + RETRY_S
        assert participation.wake_at(bench.state) == pytest.approx(again)
        assert fits(bench.at(again)), number
    bench(ev.JobFailed(Failure(key=KEY.format(0), kind="crash", message="signal 9")))
    assert not fits(bench.at(1e5))
    bench(ev.ModelSeen(pointer(1)))
    assert fits(bench(ev.ModelReady(pointer(1))))


def test_too_few_examples_are_told_once_and_no_round_suffers() -> None:
    bench = owner().settle()
    effects = bench(ev.JobFailed(Failure(key=KEY.format(0), kind="data", message="9 are too few")))
    assert any("9 are too few" in say.text for say in only(effects, fx.Say))
    assert not fits(bench.at(1e5))
    assert only(bench(ev.RoundSeen(announcement(1))), fx.StartTraining)


def test_recordings_that_have_changed_are_fitted_to_again() -> None:
    bench = owner().settle()
    bench(made(), ev.DataSeen("more files"))
    assert bench.state.fitting is None
    effects = bench(ev.JobDone(described(f"{DEVICE}/data/watch", 120, 0)))
    assert fits(effects) == [digest(f"{RUN}/0")]
    (kept,) = only(bench(made()), fx.KeepPersonal)
    assert kept.origin.data == "more files"


def test_steps_that_turn_out_wrong_are_dropped_and_the_model_is_fetched_anew() -> None:
    bench = owner().settle()
    effects = bench(ev.JobFailed(Failure(key=KEY.format(0), kind="model", message="steps lead elsewhere")))
    assert only(effects, fx.DropModel)
    assert only(effects, fx.FetchModel)


@pytest.mark.parametrize("how", ["lost", "failed"])
def test_a_disk_that_damages_every_model_has_it_fetched_anew_for_a_while_and_not_for_ever(how: str) -> None:
    """Seen to fail, with a model fetched every 20 s, where only a trainer's deaths count."""
    lost = ev.HoldingLost(KEY.format(0), plan=False, model=True)
    failed = ev.JobFailed(Failure(key=KEY.format(0), kind="model", message="it is damaged"))
    bench = owner().settle()
    fetched = 0
    for number in range(1, 3 * CRASHES):
        if bench.state.fitting is not None:
            fetched += len(only(bench(lost if how == "lost" else failed), fx.FetchModel))
        bench(ev.ModelReady(pointer(0)))
        bench.at(number * 2 * RETRY_S)
    assert fetched == CRASHES
    assert bench.state.fitting is None


@pytest.mark.parametrize("event", [ev.StopRequested(), ev.HoldingLost(KEY.format(0), plan=False, model=True)])
def test_it_ends_where_the_device_stops_or_its_model_is_damaged(event: ev.Event) -> None:
    bench = owner().settle()
    effects = bench(event)
    stops = isinstance(event, ev.StopRequested)
    assert only(effects, fx.CancelJob) == ([fx.CancelJob(KEY.format(0))] if stops else [])
    assert not only(bench(made()), fx.KeepPersonal)


def test_a_paused_device_makes_none_until_it_is_resumed() -> None:
    bench = owner()
    bench(ev.CommandSeen(Command(command="pause")))
    assert not fits(bench.settle().effects)
    assert fits(bench(ev.CommandSeen(Command(command="resume"))))


def test_whoever_waits_for_the_models_of_their_owners_is_told_whether_there_is_one_to_come() -> None:
    """Seen to fail where only what is on disk counts, and with a failure that is waited for forever."""
    bench = owner()
    assert not is_pending(bench.state)
    bench.settle()
    assert is_pending(bench.state)
    bench(made())
    assert not is_pending(bench.state)
    bench(ev.ModelSeen(pointer(1)))
    assert is_pending(bench.state)
    bench(ev.ModelReady(pointer(1)))
    assert is_pending(bench.state)
    bench(ev.JobFailed(Failure(key=KEY.format(1), kind="data", message="9 are too few")))
    assert not is_pending(bench.state)
    bench(ev.ModelSeen(pointer(2)), ev.CommandSeen(Command(command="pause")))
    assert not is_pending(bench.state)
    assert not is_pending(Bench().settle().state)
