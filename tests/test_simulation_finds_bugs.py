"""Bugs planted in the product, one at a time: the simulation finds each within a few seeds, and names what it breaks.

This is the proof that the simulation's silence means something. A bug is planted by replacing a function; the product
has no switch for any of this.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from coordinator import admission, inbox, leadership, models, reactor, round_state, run_store, stepper
from coordinator import events as ce
from coordinator import round as core
from coordinator.aggregation import mean
from coordinator.database import Database
from coordinator.events import Event, Header
from coordinator.fleet import Fleet
from coordinator.inbox import Content, Inbox
from coordinator.journal import Journal, ModelVersion
from coordinator.leftovers import OldModels
from coordinator.models import Checkpoint, ModelStore
from coordinator.performer import Batch, Performer
from coordinator.publisher import Publisher, Render
from coordinator.reactor import Reactor
from coordinator.round_state import Collecting, State
from coordinator.run_store import RunStore
from coordinator.service import CoordinatorService
from edge import files
from edge.core import delivery, participation, versions
from edge.core.events import Parcel
from edge.core.participation_state import Step
from edge.outbox import Contents, Outbox
from schemas.errors import Reject
from schemas.link.link import Inbound
from schemas.link.memory import Faults
from schemas.messages import Command, CoordinatorStatus, DeviceState, DeviceStatus, Outcome, RoundSummary
from schemas.topics import Address
from tests.simulation.run import outcomes, simulate
from tests.simulation.scenario import draw

Plant = Callable[[pytest.MonkeyPatch], None]
SEEDS = range(1, 61)
ROUNDS = 12


def hunt(first: int) -> tuple[int, str]:
    """The first seed in which something is violated, and what; 0 and nothing where nothing is. ``first`` goes first."""
    seeds = (first, *(seed for seed in SEEDS if seed != first))
    return next(((one.seed, one.violation) for one in outcomes(seeds, ROUNDS) if one.violation), (0, ""))


# -- the coordinator ---------------------------------------------------------------------------------------------------


def an_update_is_folded_twice(patch: pytest.MonkeyPatch) -> None:
    fold = RunStore.fold

    def twice(store: RunStore, header: Header, content: Content, staleness: int | None = None) -> None:
        fold(store, header, content, staleness)
        if header.task == "train" and header.device == "dev-1":
            fold(store, header, content, staleness)

    patch.setattr(RunStore, "fold", twice)


def a_second_update_of_a_device_counts_too(patch: pytest.MonkeyPatch) -> None:
    refusal = admission.refusal

    def lenient(state: State, header: Header) -> tuple[Outcome, Reject | None, str] | None:
        refused = refusal(state, header)
        return None if refused is not None and refused[0] is Outcome.DUPLICATE else refused

    patch.setattr("coordinator.answering.refusal", lenient)
    patch.setattr(inbox, "refusal", lenient)


def some_messages_are_never_acknowledged(patch: pytest.MonkeyPatch) -> None:
    receive = Reactor._receive

    def forgetful(one: Reactor, message: Inbound) -> None:
        receive(one, message)
        if "/join/" in message.topic:
            one._stepper._acks.pop()

    patch.setattr(Reactor, "_receive", forgetful)


def updates_are_acknowledged_before_the_journal_has_them(patch: pytest.MonkeyPatch) -> None:
    receive = Reactor._receive

    def hasty(one: Reactor, message: Inbound) -> None:
        receive(one, message)
        for ack in one._stepper._acks:
            ack()
        one._stepper._acks.clear()

    patch.setattr(Reactor, "_receive", hasty)


def receipts_are_sent_before_the_commit(patch: pytest.MonkeyPatch) -> None:
    perform = Performer.perform

    def hasty(one: Performer, batch: Batch) -> Event | None:
        if not batch.committed:
            for effect in batch.effects:
                if isinstance(effect, ce.Reply):
                    one._reply(effect)
            batch.effects = [effect for effect in batch.effects if not isinstance(effect, ce.Reply)]
        return perform(one, batch)

    patch.setattr(Performer, "perform", hasty)


def a_restart_forgets_the_open_rounds_updates(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Journal, "updates", lambda *_: iter(()))


def a_restart_counts_attempts_from_zero(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Journal, "attempts", lambda *_: 0)


def a_restart_gives_the_round_its_whole_time_again(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Journal, "marked", lambda *_: (0.0, 0))


def a_restart_opens_another_attempt(patch: pytest.MonkeyPatch) -> None:
    begin = core.begin

    def forgetful(state: State, _reopened: object = None) -> round_state.Step:
        return begin(replace(state, attempt=state.attempt + 1))

    patch.setattr(stepper, "begin", forgetful)


def a_commit_is_two_transactions(patch: pytest.MonkeyPatch) -> None:
    def in_two(one: Journal, nonce: str, summary: RoundSummary, model: ModelVersion, at: str) -> None:
        one._close(nonce, "train", "committed", summary=summary.model_dump_json())
        one._add_model(model, at)

    patch.setattr(Journal, "commit_round", in_two)


def the_journal_is_not_synced(patch: pytest.MonkeyPatch) -> None:
    execute = Database.execute

    def lazy(one: Database, sql: str, values: Any = ()) -> Any:
        return execute(one, sql.replace("synchronous=FULL", "synchronous=NORMAL"), values)

    patch.setattr(Database, "execute", lazy)


class LazySync:
    """The module ``os`` that syncs ``directories`` alone, or files alone."""

    def __init__(self, *, directories: bool) -> None:
        self._directories = directories

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def fsync(self, handle: int) -> None:
        if Path(f"/proc/self/fd/{handle}").is_dir() == self._directories:
            os.fsync(handle)


def a_models_bytes_are_not_synced(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(models, "os", LazySync(directories=True))


def a_models_name_is_not_synced(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(models, "os", LazySync(directories=False))


def the_optimisers_state_is_lost_in_a_restart(patch: pytest.MonkeyPatch) -> None:
    load = ModelStore.load

    def forgetful(one: ModelStore, version: int, digest: str | None = None) -> Checkpoint:
        checkpoint = load(one, version, digest)
        return replace(checkpoint, moments={name: 0 * values for name, values in checkpoint.moments.items()})

    patch.setattr(ModelStore, "load", forgetful)


def a_stale_will_is_believed(patch: pytest.MonkeyPatch) -> None:
    hear = Fleet.hear

    def gullible(fleet: Fleet, status: DeviceStatus, now: float, *, retained: bool = False) -> Fleet | None:
        known = fleet.members.get(status.device)
        if known is not None and status.state is DeviceState.OFFLINE:
            fleet.members[status.device] = replace(known, state=status.state, session=status.session)
            fleet.altered = True
            return fleet
        return hear(fleet, status, now, retained=retained)

    patch.setattr(Fleet, "hear", gullible)


def garbage_is_not_counted(patch: pytest.MonkeyPatch) -> None:
    receive = Inbox.receive

    def careless(one: Inbox, topic: str, payload: bytes, state: State, qos: int) -> Any:
        arrival = receive(one, topic, payload, state, qos)
        return None if isinstance(arrival, ce.Rejected) else arrival

    patch.setattr(Inbox, "receive", careless)


def old_models_stay_on_the_broker(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Performer, "_outdate", lambda *_: None)


def an_attempt_is_announced_before_it_is_in_the_journal(patch: pytest.MonkeyPatch) -> None:
    open_round, do = RunStore.open, Performer._do

    def lazy(one: RunStore, announcement: Any) -> Iterator[Any]:
        yield from open_round(one, announcement)

    def hasty(one: Performer, effect: ce.Effect) -> Iterable[ce.Event]:
        events = do(one, effect)
        if isinstance(effect, ce.Announce):
            one.announce()
        return events

    patch.setattr(RunStore, "open", lazy)
    patch.setattr(Performer, "_do", hasty)


def a_round_is_not_closed_at_its_deadline(patch: pytest.MonkeyPatch) -> None:
    close = core._try_close

    def slow(state: State, stage: Collecting) -> round_state.Step:
        over = state.now - stage.opened_at - state.rules.deadline_s
        return (state, ()) if 0 <= over < 10.0 else close(state, stage)

    patch.setattr(core, "_try_close", slow)


# -- devices -----------------------------------------------------------------------------------------------------------


def an_update_is_not_synced(patch: pytest.MonkeyPatch) -> None:
    write = files.write

    def lazy(*positional: Any, **named: Any) -> None:
        write(*positional, **{**named, "durable": False})

    patch.setattr(files, "write", lazy)


def a_restart_trains_again(patch: pytest.MonkeyPatch) -> None:
    contents = Outbox.contents

    def forgetful(one: Outbox, running_s: float) -> Contents:
        return replace(contents(one, running_s), parcels=(), settled=())

    patch.setattr(Outbox, "contents", forgetful)


def an_update_is_sent_before_it_is_on_disk(patch: pytest.MonkeyPatch) -> None:
    def hasty(one: Outbox, parcel: Parcel, blob: bytes, *_: object) -> None:
        one._newest = (parcel.ticket, blob)

    patch.setattr(Outbox, "put", hasty)


def an_expired_announcement_is_answered(patch: pytest.MonkeyPatch) -> None:
    seen = participation._round_seen

    def patient(state: Any, message: Any) -> Step:
        return seen(state, message.model_copy(update={"remaining_s": message.remaining_s + 1e6}))

    patch.setattr(participation, "_round_seen", patient)


def an_older_model_is_taken(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(versions, "seen", lambda state, pointer: (replace(state, pointer=pointer), ()))


def the_outbox_grows(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(delivery, "remembered", tuple)


@dataclass(frozen=True)
class Bug:
    plant: Plant
    breaks: tuple[str, ...]  # what the violation begins with, one of them
    seed: int  # that is known to find it; where the scenarios have changed since, the others are tried too


CRASHES = -1  # the product raises what it must not


def bug(plant: Plant, *breaks: int, seed: int = SEEDS[0]) -> Any:
    texts = tuple("crash:" if number < 0 else f"invariant {number}:" if number else "liveness:" for number in breaks)
    return pytest.param(Bug(plant, texts, seed), id=plant.__name__)


@pytest.mark.parametrize(
    "planted",
    [
        bug(an_update_is_folded_twice, 6),
        bug(a_second_update_of_a_device_counts_too, 4, 6, CRASHES, seed=4),
        bug(some_messages_are_never_acknowledged, 2),
        bug(updates_are_acknowledged_before_the_journal_has_them, 2),
        bug(receipts_are_sent_before_the_commit, 2),
        bug(a_restart_forgets_the_open_rounds_updates, 2, 3, 4, 6, seed=11),
        bug(a_restart_counts_attempts_from_zero, 4, seed=236),
        bug(a_restart_gives_the_round_its_whole_time_again, 4, seed=37),
        bug(a_restart_opens_another_attempt, 4, seed=6),
        bug(a_commit_is_two_transactions, 3, seed=4),
        bug(the_journal_is_not_synced, 2, 3, 4, 5, seed=6),
        bug(a_models_bytes_are_not_synced, 4, seed=6),
        bug(a_models_name_is_not_synced, 4, seed=6),
        bug(the_optimisers_state_is_lost_in_a_restart, 6, seed=6),
        bug(a_stale_will_is_believed, 0, seed=46),
        bug(garbage_is_not_counted, 13, seed=12),
        bug(an_attempt_is_announced_before_it_is_in_the_journal, 4),
        bug(a_round_is_not_closed_at_its_deadline, 0),
        bug(old_models_stay_on_the_broker, 11),
        bug(an_update_is_not_synced, 8, seed=29),
        bug(a_restart_trains_again, 8, seed=6),
        bug(an_update_is_sent_before_it_is_on_disk, 8, seed=6),
        bug(an_expired_announcement_is_answered, 7, seed=37),
        bug(an_older_model_is_taken, 7, seed=102),
        bug(the_outbox_grows, 11, seed=3),
    ],
)
def test_a_planted_bug_is_found(planted: Bug, monkeypatch: pytest.MonkeyPatch) -> None:
    planted.plant(monkeypatch)
    seed, violation = hunt(planted.seed)
    assert violation.startswith(planted.breaks), f"seed {seed} of {SEEDS}: {violation or 'nothing was found'}"


# -- rounds that overlap, second coordinators, the operator's word, evaluations ----------------------------------------

CONTESTED = [seed for seed in range(1, 200) if draw(seed, ROUNDS).second]
OVERLAPPING = [seed for seed in range(1, 200) if draw(seed, ROUNDS).settings.max_staleness]
COMMANDED = [seed for seed in range(1, 200) if draw(seed, ROUNDS).mishaps["command"]]
MANY = 25  # of such seeds


def stale_updates_weigh_as_much_as_fresh_ones(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(mean, "discount", lambda _staleness: mean.WHOLE)


def what_earlier_versions_hold_counts_again(patch: pytest.MonkeyPatch) -> None:
    remembering = admission.remembering

    def forgetful(state: State, collected: Collecting) -> State:
        return replace(remembering(state, collected), counted=frozenset())

    patch.setattr(core, "remembering", forgetful)


def a_newcomer_takes_no_notice_of_a_sign_of_life(patch: pytest.MonkeyPatch) -> None:
    sees = leadership._newcomer_sees

    def careless(state: leadership.State, status: CoordinatorStatus | None, retained: bool) -> leadership.Step:  # noqa: FBT001
        return sees(state, status, retained=True) if retained else (state, ())

    patch.setattr(leadership, "_newcomer_sees", careless)


def a_coordinator_stays_where_a_newer_one_shows(patch: pytest.MonkeyPatch) -> None:
    sees = leadership._sees

    def stubborn(state: leadership.State, status: CoordinatorStatus | None, retained: bool) -> leadership.Step:  # noqa: FBT001 - theirs
        after, effects = sees(state, status, retained)
        return (state, ()) if isinstance(after.stage, leadership.GaveUp) else (after, effects)

    patch.setattr(leadership, "_sees", stubborn)


def a_second_coordinator_does_not_look_around(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(CoordinatorService, "_is_free", lambda *_: True)


def a_coordinator_beats_seldom_in_a_round(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(reactor, "is_idle", lambda _: True)


def a_device_does_not_pause(patch: pytest.MonkeyPatch) -> None:
    seen = participation._command_seen

    def deaf(state: Any, command: Command) -> Step:
        return (state, ()) if command.command == "pause" else seen(state, command)

    patch.setattr(participation, "_command_seen", deaf)


def a_power_cut_undoes_an_eviction(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("edge.outbox.EVICTED", "")


@pytest.mark.parametrize(
    ("plant", "first", "seeds", "breaks"),
    [
        pytest.param(plant, first, seeds, breaks, id=plant.__name__)
        for plant, first, seeds, breaks in (
            (stale_updates_weigh_as_much_as_fresh_ones, 12, OVERLAPPING, ("invariant 6:",)),
            (what_earlier_versions_hold_counts_again, 20, OVERLAPPING, ("invariant 1:", "invariant 4:")),
            (a_newcomer_takes_no_notice_of_a_sign_of_life, 121, CONTESTED, ("must 29:",)),
            (a_coordinator_stays_where_a_newer_one_shows, 48, CONTESTED, ("must 30:",)),
            (a_second_coordinator_does_not_look_around, 54, CONTESTED, ("must 29:", "must 30:")),
            (a_coordinator_beats_seldom_in_a_round, 2, SEEDS, ("must 31:",)),
            (a_device_does_not_pause, 75, COMMANDED, ("must 33:",)),
            (a_power_cut_undoes_an_eviction, 29, COMMANDED, ("must 33:",)),
        )
    ],
)
def test_a_bug_planted_where_only_some_federations_go_is_found(
    plant: Plant, first: int, seeds: Iterable[int], breaks: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch)
    tried = [first, *list(seeds)[:MANY]]
    seed, violation = next(((one.seed, one.violation) for one in outcomes(tried, ROUNDS) if one.violation), (0, ""))
    assert violation.startswith(breaks), f"seed {seed} of {tried}: {violation or 'nothing was found'}"


def test_an_evaluation_that_a_crash_skips_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Crashes between a commit and what follows it are rare, so that there are more of them here."""
    monkeypatch.setattr(RunStore, "_is_unmeasured", lambda *_: False)
    for seed in range(1, MANY):
        drawn = draw(seed, ROUNDS)
        settings = drawn.settings.model_copy(update={"evaluate": True, "max_staleness": None})
        mishaps = {**drawn.mishaps, "coordinator crash": 0.1}
        members = tuple(replace(member, held_out=7) for member in drawn.members)
        outcome = simulate(replace(drawn, settings=settings, mishaps=mishaps, members=members))
        if outcome.violation:
            assert "should have been evaluated" in outcome.violation
            return
    raise AssertionError("nothing was found")


def test_a_restart_that_takes_who_is_not_back_yet_for_one_who_declined_is_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Coordinator and devices seldom die in the same moment, and all are seldom needed, so that both are so here."""
    monkeypatch.setattr(run_store, "Reopened", lambda cohort, elapsed_s, _: ce.Reopened(cohort, elapsed_s))
    for seed in (9, *range(1, MANY)):
        drawn = draw(seed, ROUNDS)
        honest = tuple(member for member in drawn.members if member.kind == "honest")
        needed = {"quorum": len(honest), "goal": None, "max_staleness": None, "deadline_s": 60.0}
        mishaps = {"coordinator crash": 0.04, "device power cut": 0.08}
        settings = drawn.settings.model_copy(update=needed)
        outcome = simulate(replace(drawn, settings=settings, mishaps=mishaps, members=honest))
        if outcome.violation:
            assert "given up, though" in outcome.violation
            return
    raise AssertionError("nothing was found")


def test_an_old_model_that_a_broken_connection_kept_from_being_cleared_is_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A connection seldom breaks right after an announcement, so that many do, and what is said is long on its way.

    What the broker then tells of it would mend that, so that nobody listens.
    """
    monkeypatch.setattr(OldModels, "heard", lambda *_: None)
    send = Publisher._send_document

    def forgetful(one: Publisher, address: Address, render: Render) -> None:
        send(one, address, render)
        if one._tree.get(address) is bytes:
            del one._tree[address]

    monkeypatch.setattr(Publisher, "_send_document", forgetful)
    for seed in range(1, MANY):
        drawn = draw(seed, ROUNDS)
        outcome = simulate(replace(drawn, mishaps={"cut": 0.2}, faults=Faults(uplink_s=2.0), second=0.0))
        if outcome.violation:
            assert "still on the broker" in outcome.violation
            return
    raise AssertionError("nothing was found")


def test_old_models_of_commits_that_the_broker_never_heard_of_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several rounds are seldom committed over a link that hangs, and then their coordinator killed; here they are."""
    monkeypatch.setattr(OldModels, "heard", lambda *_: None)
    for seed in OVERLAPPING[:MANY]:
        drawn = draw(seed, ROUNDS)
        settings = drawn.settings.model_copy(update={"goal": 1, "quorum": 1, "max_staleness": 3})
        mishaps = {"half-open": 0.2, "coordinator crash": 0.1}
        outcome = simulate(replace(drawn, settings=settings, mishaps=mishaps, faults=Faults(uplink_s=2.0), second=0.0))
        if outcome.violation:
            assert "still on the broker" in outcome.violation
            return
    raise AssertionError("nothing was found")
