"""The round's state machine with a disk under it: any events, in any order, and a crash after any of its effects.

The shell here keeps what the real one puts in the journal, and nothing else survives a crash.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

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

from coordinator.admission import refusal
from coordinator.events import (
    Abandon,
    Announce,
    Committed,
    Conclude,
    Effect,
    Event,
    Finish,
    FleetChanged,
    Fold,
    Header,
    JoinReceived,
    Keep,
    Mark,
    Measured,
    Open,
    Reopened,
    Reply,
    StopRequested,
    Tick,
    Ticket,
    UpdateReceived,
    UpdateRestored,
    Version,
)
from coordinator.round import MARK_S, RETURN_S, begin, step
from coordinator.round_state import Collecting, Over, Selecting, State
from schemas.messages import Outcome, RoundSummary, Task
from tests.round_examples import METRICS, START, join_to, names, rules, update_of, view

DEVICES = st.sampled_from(names(5))
NEVER = 10**6  # effects


class Crash(Exception):
    pass


@dataclass
class Disk:
    """What the journal holds."""

    version: Version = START
    open: Announce | None = None
    elapsed_s: float = 0.0
    asked: int = 0
    updates: dict[str, dict[str, Header]] = field(default_factory=dict)  # by nonce and device
    attempts: dict[tuple[int, Task], int] = field(default_factory=dict)
    committed: dict[tuple[int, Task], str] = field(default_factory=dict)  # nonces
    summary: RoundSummary | None = None


class AnyRoundWithCrashes(RuleBasedStateMachine):
    """A coordinator that is killed after any effect and started again on its disk."""

    state: State

    @initialize(goal=st.none() | st.integers(1, 4), quorum=st.integers(1, 3), evaluate=st.booleans())
    def start(self, goal: int | None, quorum: int, evaluate: bool) -> None:  # noqa: FBT001  - hypothesis draws it
        self.terms = rules(goal=goal, quorum=min(quorum, goal or quorum), evaluate=evaluate, rounds=4)
        self.disk = Disk()
        self.left = NEVER  # effects until the crash
        self.accepted: set[tuple[str, str]] = set()  # nonces and devices that were told so
        self.nonces: dict[str, Ticket] = {}
        self.chain = [START]
        self.open_s: dict[str, float] = {}  # nonces, and for how long the coordinator was up while they were open
        self.over = False
        self.view = view(())
        self._restart()

    # -- what happens --------------------------------------------------------------------------------------------------

    @rule(seconds=st.sampled_from([0.0, 0.4, 1.0, 7.0, 61.0]))
    def time_passes(self, seconds: float) -> None:
        stage = self.state.stage
        if isinstance(stage, Collecting):
            self.open_s[stage.ticket.nonce] = self.open_s.get(stage.ticket.nonce, 0.0) + seconds
        self._do(Tick(self.state.now + seconds))

    @rule(trainers=st.frozensets(DEVICES), evaluators=st.frozensets(DEVICES))
    def devices_come_and_go(self, trainers: frozenset[str], evaluators: frozenset[str]) -> None:
        self.view = view(trainers, evaluators)
        self._do(FleetChanged(self.view), Tick(self.state.now))

    @precondition(lambda self: self.nonces)
    @rule(device=DEVICES, back=st.integers(1, 4), other=st.booleans(), times=st.integers(1, 2))
    def an_update_comes(self, device: str, back: int, other: bool, times: int) -> None:  # noqa: FBT001  - likewise
        """For the newest attempts, also twice, also another one than before."""
        tickets = list(self.nonces.values())
        ticket = tickets[-min(back, len(tickets))]
        header = update_of(ticket, device, self.state.model, digest=f"{device}/{ticket.nonce}/{other}")
        self._do(*[UpdateReceived(header)] * times, Tick(self.state.now))

    @precondition(lambda self: self.nonces)
    @rule(device=DEVICES, accepts=st.booleans())
    def a_join_comes(self, device: str, accepts: bool) -> None:  # noqa: FBT001  - likewise
        ticket = list(self.nonces.values())[-1]
        self._do(JoinReceived(join_to(ticket, device, accepts=accepts)), Tick(self.state.now))

    @rule(effects=st.integers(0, 6))
    def it_will_crash(self, effects: int) -> None:
        """After so many more effects."""
        self.left = effects

    @rule()
    def it_crashes_where_it_waits(self) -> None:
        self._restart()

    @rule()
    def its_operator_stops_it(self) -> None:
        self._do(StopRequested())
        self._restart()

    # -- the shell -----------------------------------------------------------------------------------------------------

    def _do(self, *events: Event) -> None:
        try:
            pending: list[Effect] = []
            for event in events:
                self.state, effects = step(self.state, event)
                pending += effects
            self._perform(pending)
        except Crash:
            self._restart()

    def _restart(self) -> None:
        disk, self.left, self.folded = self.disk, NEVER, list[Header]()
        opened, number = disk.open, max((n for n, task in disk.committed if task == "train"), default=0) + 1
        task: Task = "train"
        attempt = disk.attempts.get((number, "train"), 0)
        if opened is not None:
            number, task, attempt = opened.ticket.round, opened.ticket.task, opened.ticket.attempt
        elif attempt == 0 and number > 1 and self.terms.evaluate and (number - 1, "evaluate") not in disk.attempts:
            number, task = number - 1, "evaluate"
        summary = disk.summary if task == "evaluate" else None
        state = State(self.terms, disk.version, number, Selecting(0.0), 0.0, task, attempt, summary=summary)
        reopened = None if opened is None else Reopened(opened.cohort, disk.elapsed_s, max(opened.selected, disk.asked))
        self.state, effects = begin(state, reopened)
        if opened is not None:
            assert isinstance(self.state.stage, Collecting)
            assert self.state.stage.ticket == opened.ticket, "invariant 4: another attempt goes on"
            open_s = self.open_s.get(opened.ticket.nonce, 0.0)
            elapsed_s = self.state.now - self.state.stage.opened_at
            assert elapsed_s <= open_s + 1e-9, "invariant 4: the deadline has come nearer"
        self._perform(list(effects))
        self._do(FleetChanged(self.view), Tick(self.state.now))

    def _perform(self, effects: list[Effect]) -> None:
        """As ``Performer.perform``: what must be kept first, in one commit, then all others in order."""
        if self.left == 0:
            raise Crash
        for effect in effects:
            if isinstance(effect, Keep):
                kept = self.disk.updates[effect.header.nonce]
                assert effect.header.device not in kept, "invariant 1: two updates of one device"
                kept[effect.header.device] = effect.header
            elif isinstance(effect, Mark):
                self.disk.elapsed_s, self.disk.asked = effect.elapsed_s, effect.asked
        answers: list[Event] = []
        for effect in effects:
            self.left -= 1
            if self.left <= 0:
                raise Crash
            answers += self._one(effect)
        for answer in answers:
            self.state, more = step(self.state, answer)
            self._perform(list(more))

    def _one(self, effect: Effect) -> list[Event]:
        disk = self.disk
        match effect:
            case Open(announcement):
                return self._open(announcement)
            case Fold(header):
                self.folded.append(header)
            case Reply(device=device, nonce=nonce, outcome=Outcome.ACCEPTED):
                assert device in disk.updates[nonce], "invariant 2: accepted, and not on disk"
                self.accepted.add((nonce, device))
            case Conclude(ticket, summary):
                return self._commit(ticket, summary)
            case Abandon(ticket):
                disk.open = None
                disk.updates[ticket.nonce] = {}
                self.accepted = {one for one in self.accepted if one[0] != ticket.nonce}
            case Finish():
                self.over = effect.error is None and not effect.stopped
            case _:
                pass
        return []

    def _open(self, announcement: Announce) -> list[Event]:
        disk, ticket = self.disk, announcement.ticket
        self.folded = []
        if disk.open is not None:
            assert disk.open.ticket == ticket, "invariant 4: another attempt is opened"
            return [UpdateRestored(header) for header in disk.updates[ticket.nonce].values()]
        assert ticket.nonce not in self.nonces, "invariant 4: a nonce is used again"
        self.nonces[ticket.nonce] = ticket
        disk.open, disk.elapsed_s, disk.asked, disk.updates[ticket.nonce] = announcement, 0.0, 0, {}
        disk.attempts[ticket.round, ticket.task] = ticket.attempt + 1
        return []

    def _commit(self, ticket: Ticket, summary: RoundSummary) -> list[Event]:
        disk, kept = self.disk, self.disk.updates[ticket.nonce]
        assert (ticket.round, ticket.task) not in disk.committed, "invariant 3: committed twice"
        folded = [header.device for header in self.folded]
        assert len(set(folded)) == len(folded), f"invariant 1: folded twice: {folded}"
        assert set(folded) == set(kept) == set(summary.devices), "invariant 6: others are folded than are on disk"
        lost = {device for nonce, device in self.accepted if nonce == ticket.nonce} - set(folded)
        assert not lost, f"invariant 2: accepted, and not in the model: {lost}"
        assert len(folded) >= (self.terms.quorum if ticket.task == "train" else 1)
        disk.open, disk.committed[ticket.round, ticket.task] = None, ticket.nonce
        if ticket.task == "evaluate":
            return [Measured(METRICS)]
        number = disk.version.number + 1
        disk.version, disk.summary = Version(number, f"{number:064x}"), summary
        self.chain.append(disk.version)
        return [Committed(disk.version)]

    # -- what always holds ---------------------------------------------------------------------------------------------

    @invariant()
    def versions_follow_each_other(self) -> None:
        assert [version.number for version in self.chain] == list(range(len(self.chain)))
        if not isinstance(self.state.stage, Over):
            assert self.state.model == self.disk.version, "invariant 5: it goes on from another version"

    @invariant()
    def what_is_on_disk_is_what_counts(self) -> None:
        stage = self.state.stage
        if isinstance(stage, Collecting):
            assert dict(stage.received) == self.disk.updates[stage.ticket.nonce], "invariant 2"
            for header in stage.received.values():
                refused = refusal(self.state, header)
                assert refused is not None, "invariant 1: it would count once more"
                assert refused[0] is Outcome.DUPLICATE

    @invariant()
    def no_round_is_open_beyond_its_deadline(self) -> None:
        stage = self.state.stage
        if isinstance(stage, Collecting):
            assert self.state.now <= stage.opened_at + self.terms.deadline_s


def test_invariants_01_02_04_and_05_hold_over_crashes_after_any_effect() -> None:
    """Seen to fail where a restart takes no update back, where a nonce has no attempt in it, without ``refusal``."""
    run_state_machine_as_test(
        AnyRoundWithCrashes, settings=settings(max_examples=150, stateful_step_count=40, deadline=None)
    )


def test_invariant_04_a_restart_leaves_at_most_a_marks_time_more_than_there_was() -> None:
    """Seen to fail where the marked time is not given back to the round, or is never marked."""
    deadline_s = 60.0
    for open_s in (0.0, 0.5, 3.0, 30.0, 58.0):
        machine = AnyRoundWithCrashes()
        machine.start(goal=None, quorum=1, evaluate=False)
        machine.devices_come_and_go(frozenset(names(2)), frozenset())
        machine.time_passes(1.0)
        assert isinstance(machine.state.stage, Collecting)
        for _ in range(math.ceil(open_s)):
            machine.time_passes(open_s / math.ceil(open_s))
        machine.it_crashes_where_it_waits()
        stage = machine.state.stage
        assert isinstance(stage, Collecting)
        left_s = stage.opened_at + deadline_s - machine.state.now
        assert deadline_s - open_s <= left_s + 1e-9
        assert left_s <= max(RETURN_S, deadline_s - open_s + max(MARK_S, 0.02 * deadline_s) + 1.0)
        machine.teardown()
