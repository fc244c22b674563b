"""A device's state machine with a disk under it: any messages, in any order, and a crash or a power cut at any step.

The shell here keeps what the real outbox and store keep. A crash leaves all of it; a power cut may undo receipts and
bring back an older model, and never undoes an update that was stored.
"""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from edge.core import effects as fx
from edge.core import events as ev
from edge.core import participation
from edge.core.effects import Effect
from edge.core.events import Event, Parcel, Ticket
from edge.core.jobs import Failure
from schemas import codec, parts
from schemas.messages import Command, CoordinatorState, Outcome, Phase, RoundAnnouncement, Task
from tests.edge_scripts import (
    DEVICE,
    PLAN_REF,
    announcement,
    coordinator,
    described,
    evaluated,
    pointer,
    receipt,
    run,
    trained,
)
from tests.test_participation import IDENTITY, Bench

ROUNDS = st.integers(1, 3)
ATTEMPTS = st.integers(0, 1)
TASKS = st.sampled_from(["train", "evaluate"])
FINAL = {Outcome.ACCEPTED, Outcome.DUPLICATE, Outcome.LATE, Outcome.REJECTED}
EPSILON_S = 1e-6


class Crash(Exception):
    pass


class AnyDeviceWithCrashes(RuleBasedStateMachine):
    """One device through many lives."""

    @initialize(examples=st.integers(0, 2), held_out=st.integers(0, 2))
    def start(self, examples: int, held_out: int) -> None:
        self.stock = (examples, held_out)
        self.updates: dict[Ticket, tuple[Parcel, str]] = {}  # on disk, with the outcome of the receipt, if it is there
        self.ever: dict[Ticket, str] = {}  # digests of all updates that ever were, which a second training would change
        self.trainings: dict[Ticket, int] = {}
        self.model = -1  # on disk
        self.gone = set[Ticket]()  # tickets whose updates the device may have forgotten
        self.left = 10**6  # effects until the crash
        self._live()

    # -- what happens --------------------------------------------------------------------------------------------------

    @rule(seconds=st.floats(0, 100))
    def time_passes(self, seconds: float) -> None:
        self._do(ev.Tick(self.bench.state.now + seconds))

    @rule(up=st.booleans())
    def the_link_comes_or_goes(self, up: bool) -> None:  # noqa: FBT001  - hypothesis draws it
        self._do(ev.Connected() if up else ev.Disconnected())

    @rule(session=st.integers(1, 3), state=st.sampled_from(CoordinatorState))
    def a_coordinator_says_how_it_is(self, session: int, state: CoordinatorState) -> None:
        self._do(ev.CoordinatorSeen(coordinator(session, state)))

    @rule(number=ROUNDS, attempt=ATTEMPTS, task=TASKS, phase=st.sampled_from(Phase), remaining_s=st.floats(0, 120))
    def a_round_is_announced(self, number: int, attempt: int, task: Task, phase: Phase, remaining_s: float) -> None:
        message = announcement(number, attempt=attempt, task=task, phase=phase, remaining_s=remaining_s)
        self._hear(message)

    @rule(number=ROUNDS, task=TASKS)
    def a_round_opens(self, number: int, task: Task) -> None:
        """As it should be: a coordinator is there, and the model to start from is offered."""
        message = announcement(number, task=task)
        self._do(ev.Connected(), ev.CoordinatorSeen(coordinator(3)), ev.ModelSeen(pointer(message.model_version)))
        self.a_model_has_come()
        self._hear(message)

    @rule(number=ROUNDS, remaining_s=st.floats(0, 120))
    def a_round_is_over_when_its_coordinator_is_back(self, number: int, remaining_s: float) -> None:
        self._do(ev.Connected(), ev.CoordinatorSeen(coordinator(3, CoordinatorState.OFFLINE)))
        self._hear(announcement(number, remaining_s=remaining_s))
        self._do(ev.Tick(self.bench.state.now + remaining_s + 1.0), ev.CoordinatorSeen(coordinator(3)))

    @rule(version=st.integers(0, 3))
    def a_model_is_offered(self, version: int) -> None:
        self._do(ev.ModelSeen(pointer(version)))

    @rule()
    def a_model_has_come(self) -> None:
        if (fetching := self.bench.state.fetching_model) is not None:
            self.model = fetching.version
            self._do(ev.ModelReady(fetching))

    @precondition(lambda self: self.running)
    @rule(full=st.booleans())
    def the_trainer_is_done(self, full: bool) -> None:  # noqa: FBT001  - likewise
        key, ticket = self.running.popitem()
        self.full = full
        times = self.trainings[ticket]
        self._do(ev.JobDone(evaluated(key) if ticket.task == "evaluate" else trained(key, f"delta {times}".encode())))
        self.full = False

    @precondition(lambda self: self.running)
    @rule(kind=st.sampled_from(["crash", "training"]))
    def the_trainer_fails(self, kind: str) -> None:
        key, _ = self.running.popitem()
        self._do(ev.JobFailed(Failure.model_validate({"key": key, "kind": kind, "message": "no"})))

    @rule(number=ROUNDS, attempt=ATTEMPTS, outcome=st.sampled_from(Outcome), task=TASKS)
    def a_receipt_comes(self, number: int, attempt: int, outcome: Outcome, task: Task) -> None:
        message = receipt(announcement(number, attempt=attempt, task=task), outcome, missing=(0, 7))
        if outcome in FINAL or outcome is Outcome.NOTED:
            self.gone.add(Ticket.of(message))
        self._do(ev.ReceiptSeen(message))

    @rule(command=st.sampled_from(["pause", "resume", "evict", "query"]))
    def the_operator_speaks(self, command: str) -> None:
        if command == "evict":
            self.gone |= set(self.updates)
        self._do(ev.CommandSeen(Command.model_validate({"command": command})))

    @rule(effects=st.integers(0, 4))
    def it_will_crash(self, effects: int) -> None:
        """After so many more effects."""
        self.left = effects

    @rule()
    def it_crashes(self) -> None:
        self._live()

    @rule(undone=st.booleans())
    def the_power_goes(self, undone: bool) -> None:  # noqa: FBT001  - likewise
        """What was not waited for may be undone: receipts, and the newest model."""
        if undone:
            self.updates = {ticket: (parcel, "") for ticket, (parcel, _) in self.updates.items()}
            self.model = -1
        self._live()

    # -- the shell -----------------------------------------------------------------------------------------------------

    def _live(self) -> None:
        """A life of its process, on what is on disk."""
        self.left, self.full = 10**6, False
        self.running: dict[str, Ticket] = {}
        self.until: dict[Ticket, float] = {}
        self.newest = self.model
        held = None if self.model < 0 else pointer(self.model)
        waiting = tuple(parcel for parcel, outcome in self.updates.values() if not outcome)
        settled = tuple(ticket for ticket, (_, outcome) in self.updates.items() if outcome)
        self.bench = Bench(participation.begin(IDENTITY, model=held, parcels=waiting, settled=settled))
        self._do(ev.Tick(1.0), ev.RunSeen(run()), ev.PlanReady(PLAN_REF.digest, "watch"))
        self._do(ev.JobDone(described(f"{DEVICE}/data/watch", *self.stock)))

    def _hear(self, message: RoundAnnouncement) -> None:
        ticket, until = Ticket.of(message), self.bench.state.now + message.remaining_s
        if message.phase is Phase.COLLECTING:
            self.until[ticket] = max(until, self.until.get(ticket, 0.0))
        self._do(ev.RoundSeen(message))

    def _do(self, *events: Event) -> None:
        waiting = list(events)
        try:
            while waiting:
                for effect in self.bench(waiting.pop(0)):
                    waiting += self._one(effect)
        except Crash:
            self._live()

    def _one(self, effect: Effect) -> list[Event]:
        self.left -= 1
        if self.left <= 0:
            raise Crash
        now = self.bench.state.now
        match effect:
            case fx.StartTraining(key=key) | fx.StartEvaluation(key=key):
                self._start(key, now)
            case fx.CancelJob(key):
                self.running.pop(key, None)
            case fx.SendJoin(ticket, accepts=True):
                assert now <= self.until[ticket] + EPSILON_S, "invariant 7: an expired announcement is answered"
            case fx.FetchModel(offered):
                assert offered.version > self.newest, "invariant 7: an older model is fetched"
                self.newest = offered.version
            case fx.StoreUpdate():
                return [self._store(effect)]
            case fx.SendParts(parcel):
                assert self.updates[parcel.ticket] == (parcel, ""), "invariant 8: sent, and not on disk"
                assert self.ever[parcel.ticket] == parcel.ref.digest, "invariants 1 and 8: other bytes than before"
            case fx.Forget(ticket, outcome):
                known = self.gone | {other for other in self.updates if self._is_superseded(other)}
                assert ticket in known or outcome == "dropped", "invariant 2: forgotten without a receipt"
                self.updates[ticket] = (self.updates[ticket][0], outcome)
            case _:
                pass
        return []

    def _start(self, key: str, now: float) -> None:
        assert not self.running, "two jobs at once"
        _, name, number, task, nonce = key.split("/")
        ticket = Ticket(name, int(number), "train" if task == "train" else "evaluate", nonce)
        assert ticket not in self.ever, "invariant 8: it trains again for what was on disk"
        assert now <= self.until[ticket] + EPSILON_S, "invariant 7: an expired announcement is worked on"
        self.running[key] = ticket
        self.trainings[ticket] = self.trainings.get(ticket, 0) + 1

    def _store(self, effect: fx.StoreUpdate) -> Event:
        ticket = effect.ticket
        if self.full:
            return ev.StoreFailed(ticket, "full")
        parcel = Parcel(ticket, parts.describe(codec.encode_update(effect.update), 1024))
        before = self.ever.setdefault(ticket, parcel.ref.digest)
        assert before == parcel.ref.digest, "invariant 8: another update for the same ticket"
        place = (ticket.run, ticket.round, ticket.task)
        self.updates = {one: what for one, what in self.updates.items() if (one.run, one.round, one.task) != place}
        self.updates[ticket] = (parcel, "")
        return ev.UpdateStored(parcel)

    def _is_superseded(self, ticket: Ticket) -> bool:
        """Whether another attempt at its task is asked for."""
        announced = self.bench.state.announced
        if announced is None:
            return False
        asked = Ticket.of(announced.message)
        return (asked.round, asked.task) == (ticket.round, ticket.task) and asked != ticket

    # -- what always holds ---------------------------------------------------------------------------------------------

    @invariant()
    def every_update_without_a_receipt_is_still_to_be_sent(self) -> None:
        waiting = {ticket for ticket, (_, outcome) in self.updates.items() if not outcome}
        assert {pending.parcel.ticket for pending in self.bench.state.outbox} == waiting, "invariant 2"

    @invariant()
    def the_model_is_never_an_older_one(self) -> None:
        held = self.bench.state.model
        assert (-1 if held is None else held.version) == self.model, "invariant 7"


def test_invariants_01_02_07_and_08_hold_over_crashes_and_power_cuts_at_any_step() -> None:
    """Seen to fail where a device begins with an empty outbox, never lets an announcement expire, takes any model that
    is offered, or answers for tickets that are settled or wait in its outbox.
    """
    run_state_machine_as_test(
        AnyDeviceWithCrashes, settings=settings(max_examples=200, stateful_step_count=50, deadline=None)
    )
