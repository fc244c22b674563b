"""In what order what a round wants is done, and when the messages it comes from are acknowledged.

The round is the real one; what carries its effects out writes them down, and may find its disk full at any of them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import cast

import pytest

from coordinator.attendance import Attendance
from coordinator.events import (
    Committed,
    Conclude,
    Event,
    FleetChanged,
    StopRequested,
    Tick,
    UpdateReceived,
    Version,
)
from coordinator.inbox import Content
from coordinator.performer import Batch, Performer
from coordinator.round import SETTLE_S
from coordinator.round_state import Collecting, Selecting, State
from coordinator.stepper import Stepper
from schemas.errors import DiskFull
from schemas.messages import DeviceState, DeviceStatus, Update
from tests.round_examples import START, names, rules, update_of, view


class Desk:
    """Writes down what is done, as far as the disk takes it, and answers as the performer does."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.tried = 0
        self.full_at = 0  # the first is 1
        self._version = 0

    def hold(self, *_: object) -> None:
        """It needs no content."""

    def perform(self, batch: Batch) -> Event | None:
        """As the performer: the statuses first, in one commit, then one effect after another, up to an event."""
        if not batch.committed:
            self._try(*(f"met {status.device}" for status in batch.met))
            batch.committed = True
        for effect in batch.effects[batch.done :]:
            self._try(type(effect).__name__)
            batch.done += 1
            if isinstance(effect, Conclude):
                self._version += 1
                return Committed(Version(self._version, f"{self._version:064x}"))
        return None

    def announce(self) -> None:
        """Written down too."""
        self.done.append("announced")

    def tidy(self, *, idle: bool) -> None:
        """Likewise."""
        assert not idle
        self.done.append("tidied")

    def _try(self, *done: str) -> None:
        self.tried += 1
        if self.tried == self.full_at:
            raise DiskFull("full")
        self.done.extend(done)


class Bench:
    """A stepper on a desk, with a clock to move; it is told to go on where its disk was full."""

    def __init__(self, full_at: int = 0, goal: int = 2) -> None:
        self.desk, self.attendance, self.now = Desk(), Attendance(), 0.0
        self.desk.full_at = full_at
        self.stepper = Stepper(cast("Performer", self.desk), self.attendance, lambda: self.now)
        self._insist(
            partial(self.stepper.begin, State(rules(quorum=2, goal=goal), START, 1, Selecting(0.0), 0.0), None)
        )

    def _insist(self, call: Callable[[], None]) -> None:
        try:
            call()
        except DiskFull:
            self.stepper.flush()

    def do(self, event: Event) -> None:
        self._insist(partial(self.stepper.step, event))

    def flush(self) -> None:
        self._insist(self.stepper.flush)

    def tick(self, seconds: float = 0.0) -> None:
        self.now += seconds
        self.do(Tick(self.now))

    def opened(self, count: int = 2) -> None:
        """So many devices are asked to train."""
        self.do(FleetChanged(view(names(count))))
        self.tick(SETTLE_S)
        self.flush()

    def update(self, device: str) -> None:
        """Its update comes, and is acknowledged in its time."""
        stage = self.stepper.state.stage
        assert isinstance(stage, Collecting)
        header = update_of(stage.ticket, device, self.stepper.state.model)
        self.stepper.owe(partial(self.desk.done.append, f"ack {device}"))
        self.stepper.hold(header, Content(b"12345", cast("Update", None), None))
        self.do(UpdateReceived(header))

    def meet(self, device: str, heartbeat_s: float = 30.0) -> None:
        """Its status comes."""
        status = DeviceStatus(device=device, session=1, state=DeviceState.IDLE, examples=5, heartbeat_s=heartbeat_s)
        assert self.attendance.hear(status, self.now, topic="", retained=False) is None


def committed(full_at: int = 0) -> list[str]:
    """What is done of a round of two updates that arrived together, and of the next one as it opens."""
    bench = Bench(full_at)
    bench.opened()
    bench.meet("dev-2")
    for device in names(2):
        bench.update(device)
    bench.tick()
    bench.flush()
    return bench.desk.done


def test_a_message_is_acknowledged_once_all_is_done_that_it_caused() -> None:
    """Here its round's commit too, and what followed from that, down to the next round."""
    done = committed()
    end = done.index("ack dev-0")
    first, second = (at for at, what in enumerate(done) if what == "Open")
    assert first < done.index("Keep") < done.index("Conclude") < done.index("RoundClosed") < second < end
    assert done[end : end + 3] == ["ack dev-0", "ack dev-1", "announced"]


@pytest.mark.parametrize("full_at", range(1, 31))
def test_invariant_11_whatever_the_disk_was_too_full_for_is_done_once_and_in_the_same_order(full_at: int) -> None:
    """And nothing is acknowledged or announced meanwhile that would not be."""

    def work(done: list[str]) -> list[str]:
        return [what for what in done if what not in {"announced", "tidied"}]

    assert work(committed(full_at)) == work(committed())


def test_a_status_is_noted_and_a_message_acknowledged_though_the_round_wants_nothing_done() -> None:
    """Each once."""
    bench = Bench()
    before = len(bench.desk.done)
    bench.meet("dev-2")
    bench.flush()
    bench.stepper.owe(partial(bench.desk.done.append, "ack"))
    bench.flush()
    bench.flush()
    assert bench.desk.done[before:] == ["met dev-2", "announced", "ack", "announced", "announced"]


def test_what_comes_after_a_full_disk_is_done_behind_what_it_had_stopped() -> None:
    bench = Bench()
    bench.opened()
    bench.update("dev-0")
    bench.desk.full_at = bench.desk.tried + 2  # its Keep is done
    with pytest.raises(DiskFull):
        bench.stepper.flush()
    before = len(bench.desk.done)
    bench.meet("dev-2")
    bench.flush()
    after = bench.desk.done[before:]
    assert after.index("Fold") < after.index("ack dev-0") < after.index("met dev-2")


def test_updates_are_held_by_their_bytes_until_the_next_batch() -> None:
    bench = Bench(goal=3)
    bench.opened(3)
    held = []
    for device in names(2):
        bench.update(device)
        held.append(bench.stepper.held)
    bench.flush()
    assert [*held, bench.stepper.held] == [5, 10, 0]


def test_where_a_round_opens_or_ends_nothing_else_is_stepped_before_that_is_done() -> None:
    """Nor is tidying up put off: one turn may commit many small rounds."""
    bench = Bench()
    bench.do(FleetChanged(view(names(2))))
    bench.tick(SETTLE_S)
    assert "Open" in bench.desk.done
    for device in names(2):
        bench.update(device)
    bench.tick()
    assert "Conclude" in bench.desk.done
    assert bench.desk.done[-1] == "tidied"
    bench.tick(bench.stepper.state.rules.deadline_s)
    assert "Abandon" in bench.desk.done
    bench.do(StopRequested())
    assert "Finish" in bench.desk.done


def test_who_was_silent_to_the_deadline_is_not_believed_to_be_there_for_long() -> None:
    """Though it has promised to be heard of in ten minutes only."""
    bench = Bench()
    for device in names(2):
        bench.meet(device, heartbeat_s=600.0)
    bench.opened()
    bench.tick(bench.stepper.state.rules.deadline_s)
    assert not bench.attendance.fleet.view(bench.now + 600.0).ready
