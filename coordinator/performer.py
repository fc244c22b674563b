"""What the round wants done, done: on disk by the run's store, on the broker by the publisher. Decides nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final

import numpy as np

from coordinator import observers as seen
from coordinator.events import (
    Abandon,
    Announce,
    Committed,
    Conclude,
    Effect,
    Event,
    Failed,
    Finish,
    Fold,
    Header,
    Keep,
    Mark,
    Measured,
    Open,
    Reply,
    Summarise,
    UpdateRestored,
)
from coordinator.inbox import Content, Inbox
from coordinator.journal import DamagedUpdate, StoredUpdate
from coordinator.publisher import Blob, Publisher
from coordinator.reports import headline, shortened
from coordinator.run_store import RunStore, Wall
from schemas import codec, compression
from schemas.errors import FederationError, WireError
from schemas.messages import (
    CoordinatorState,
    CoordinatorStatus,
    DeviceStatus,
    Metrics,
    ModelPointer,
    Phase,
    Receipt,
    RoundAnnouncement,
    RoundSummary,
)
from schemas.parts import describe
from schemas.topics import Address, Kind

KEPT_SUMMARIES: Final = 10  # retained on the broker
TIDY_AFTER: Final = 4  # commits, or
TIDY_BYTES: Final = 64 * 2**20  # of committed updates
MAX_DETAIL: Final = 500  # characters of a status
MODEL_CODEC: Final = "float32"


@dataclass(slots=True, eq=False)
class Batch:
    """Effects on their way, statuses to be noted with them, and how far they have come.

    ``acks`` are of the messages they come from, for the caller to call once all is done.
    """

    effects: Sequence[Effect]
    met: Sequence[DeviceStatus] = ()
    acks: Sequence[Callable[[], None]] = ()
    committed: bool = False
    done: int = 0  # effects carried out
    outcomes: list[Iterator[Event]] = field(default_factory=list)  # theirs, as far as still to come


def spoken(status: CoordinatorStatus, wall: Wall) -> CoordinatorStatus:
    """``status`` as it is published now."""
    return status.model_copy(update={"said": wall().isoformat(timespec="milliseconds")})


class Performer:
    """Carries out effects. ``now`` is the round's clock, ``wall`` the one for people."""

    def __init__(
        self,
        store: RunStore,
        publisher: Publisher,
        inbox: Inbox,
        observe: seen.Observer,
        status: CoordinatorStatus,
        *,
        now: Callable[[], float],
        wall: Wall,
    ) -> None:
        self.finish: Finish | None = None  # once the run is over
        self._store = store
        self._publisher = publisher
        self._inbox = inbox
        self._observe = observe
        self._now = now
        self._wall = wall
        self._contents: dict[str, Content] = {}  # of updates on their way from the inbox to the accumulator
        self._opened: tuple[str, str] = ("", "")  # nonce, and the wall clock at its opening
        self._unsaid: tuple[Announce, RoundAnnouncement] | None = None  # the newest announcement, to be published
        self._pointer: ModelPointer | None = None
        self.status = status  # the coordinator's
        self._said = status  # as it was published last
        self._outdated: list[Address] = []  # what nobody fetches any more, to be cleared
        self._untidy = TIDY_AFTER  # commits since the journal was tidied, or what a crash left
        self._untidy_bytes = 0  # and the bytes of their updates

    def hold(self, header: Header, content: Content) -> None:
        """Have an update's content at hand for the effects that name it."""
        self._contents[header.digest] = content

    def publish_run(self) -> None:
        """Put all that a device needs on the broker: plan, run, newest model, and how the newest rounds ended."""
        store = self._store
        plan, settings = store.plan.to_bytes(), store.settings
        self._publisher.put_blob(Blob(Kind.PLAN_PART, settings.plan.blob, plan))
        self._put(Address(Kind.RUN), codec.encode(settings))
        summaries = store.summaries(KEPT_SUMMARIES)
        metrics = next((s.metrics for s in summaries if s.model_version == store.version.number), None)
        self._publish_model(metrics)
        for summary in summaries:
            self._summarise(summary)

    def clear(self, leftovers: Iterable[Address]) -> None:
        """Clear what an earlier run left on the broker, but for what this one has put in its place."""
        self._publisher.remove(*(address for address in leftovers if not self._publisher.holds(address)))

    @property
    def news(self) -> bool:
        """Whether the status says something by now that it didn't when it was published."""
        return self.status != self._said

    def beat(self, heartbeat_s: float) -> None:
        """Publish the coordinator's status, which comes every ``heartbeat_s`` from now on."""
        self.status = self.status.model_copy(update={"heartbeat_s": heartbeat_s})
        self._say_status()

    def _say_status(self) -> None:
        """Publish it past everything else."""
        self._said = self.status
        self._publisher.say(Address(Kind.COORDINATOR), codec.encode(spoken(self.status, self._wall)))

    def perform(self, batch: Batch) -> Event | None:
        """Carry out a batch: what must be kept first, in one commit, then all else in order, up to an event it brings.

        None once all is done; call it again till then. After ``DiskFull`` too, where ``batch`` says how far it came:
        the effect that failed has changed nothing, and what comes before it is not done twice.
        """
        if not batch.committed:
            self._commit(batch)
            batch.committed = True
        for effect in batch.effects[batch.done :]:
            batch.outcomes.append(iter(self._do(effect)))
            batch.done += 1
        self._contents.clear()
        while batch.outcomes:
            for event in batch.outcomes[0]:
                return event
            batch.outcomes.pop(0)
        return None

    def _commit(self, batch: Batch) -> None:
        kept = [effect for effect in batch.effects if isinstance(effect, Keep | Mark)]
        if kept or batch.met:
            with self._store.journal.batch():
                for status in batch.met:
                    self._store.meet(status)
                for effect in kept:
                    match effect:
                        case Keep(header):
                            self._store.keep(header, self._contents[header.digest])
                        case Mark(ticket, elapsed_s, asked):
                            self._store.mark(ticket, elapsed_s, asked)

    def tidy(self, *, idle: bool) -> None:
        """Clean up after commits, now where nobody waits, else once there is enough to do. To be called every turn."""
        if self._untidy and (idle or self._untidy >= TIDY_AFTER or self._untidy_bytes >= TIDY_BYTES):
            if self._store.tidy():
                self._untidy = self._untidy_bytes = 0
            else:
                self._untidy = TIDY_AFTER  # the rest at the next turn

    def pause(self, detail: str) -> None:
        """Say that the disk takes no more."""
        self._say(CoordinatorState.PAUSED, detail[:MAX_DETAIL])

    def resume(self) -> None:
        """Say that it takes more again."""
        self._say(CoordinatorState.RUNNING)

    def _do(self, effect: Effect) -> Iterable[Event]:  # noqa: C901 - a case an effect
        match effect:
            case Fold(header, staleness):
                self._store.fold(header, self._contents.pop(header.digest), staleness)
                self._inbox.remember(header)
            case Reply():
                self._reply(effect)
            case Announce():
                self._unsaid = effect, self._announcement(effect)
            case Open(announcement):
                return self._open(self._announcement(announcement))
            case Conclude():
                return [self._conclude(effect)]
            case Abandon(ticket, summary, updates):
                self._store.abandon(ticket, summary)
                self._inbox.forget(updates)
            case Summarise(summary):
                self._summarise(summary)
            case Finish():
                if not effect.stopped and effect.error is None:
                    self.tidy(idle=True)
                    self._store.finish()
                self.finish = effect
            case Keep() | Mark():
                pass  # done before all others
            case _:
                self._observe(effect)
        return ()

    def _open(self, announcement: RoundAnnouncement) -> Iterator[Event]:
        return self._restore(self._store.open(announcement))

    def _restore(self, updates: Iterator[StoredUpdate]) -> Iterator[Event]:
        """The updates one at a time, up to one that can't be read: all that was accepted counts, or none of it."""
        try:
            for stored in updates:
                header, content = self._inbox.restore(stored.blob, stored.digest)
                self.hold(header, content)
                del stored, content  # one at a time: it is folded before the next is read
                yield UpdateRestored(header)
        except (WireError, DamagedUpdate) as error:
            yield Failed(f"an update that it had accepted can't be read any more ({error})")

    def _conclude(self, effect: Conclude) -> Event:
        if self._store.takes_long(effect.ticket.task, len(effect.summary.devices)):
            self.announce()  # who still trains for it need not
        if effect.ticket.task == "train":
            try:
                version = self._store.commit_training(effect.ticket, effect.summary)
            except FederationError as error:
                return Failed(str(error))
            self._committed(effect)
            self._publish_model(None)
            return Committed(version)
        metrics = self._store.commit_evaluation(effect.ticket, effect.summary)
        self._committed(effect)
        assert self._pointer is not None
        self._put_pointer(self._pointer.model_copy(update={"metrics": headline(metrics)}))
        return Measured(metrics)

    def _committed(self, effect: Conclude) -> None:
        self._untidy += 1
        self._untidy_bytes += effect.summary.uplink_bytes

    def _publish_model(self, metrics: Metrics | None) -> None:
        """Parts of it and of its step, then the pointer to them; nobody fetches the version before last any more."""
        store, checkpoint = self._store, self._store.checkpoint
        data = compression.encode(MODEL_CODEC, checkpoint.parameters, np.random.default_rng(0))
        ref = describe(data, store.settings.part_size)
        self._publisher.put_blob(Blob(Kind.MODEL_PART, ref, data, checkpoint.version))
        step = describe(checkpoint.step, store.settings.part_size) if checkpoint.step else None
        if step is not None:
            self._publisher.put_blob(Blob(Kind.DELTA_PART, step, checkpoint.step, checkpoint.version))
        self._put_pointer(
            ModelPointer(
                run=checkpoint.run,
                version=checkpoint.version,
                digest=store.version.digest,
                previous=checkpoint.previous,
                blob=ref,
                step=step,
                metrics=headline(metrics),
            )
        )
        store.put_down()
        self._outdate(checkpoint.version - 2, ref.parts)

    def _outdate(self, version: int, parts: int) -> None:
        """Have ``announce`` clear a version's model, where the newest has so many parts, and its step, if it ever was.

        How many parts they had is not kept. A model had as many, or one more where it compressed less well; a step at
        most what its codec takes before it is packed. The first goes last, for ``leftovers.OldModels``.
        """
        if version < 0:
            return
        settings = self._store.settings
        steps = 0
        if settings.downlink in compression.TABLE:
            body = compression.TABLE[settings.downlink].limit(self._store.plan.manifest())
            steps = -(-(compression.HEADER.size + body) // settings.part_size)
        for kind, count in ((Kind.MODEL_PART, parts + 1), (Kind.DELTA_PART, steps)):
            self._outdated += [Address(kind, number=version, part=part) for part in reversed(range(count))]

    def _put_pointer(self, pointer: ModelPointer) -> None:
        self._pointer = pointer
        self._put(Address(Kind.MODEL), codec.encode(pointer))

    def _put(self, address: Address, payload: bytes) -> None:
        self._publisher.put(address, lambda: payload)

    def _summarise(self, summary: RoundSummary) -> None:
        self._put(Address(Kind.SUMMARY, number=summary.round), codec.encode(shortened(summary)))
        if summary.round > KEPT_SUMMARIES:
            self._publisher.remove(Address(Kind.SUMMARY, number=summary.round - KEPT_SUMMARIES))

    def _reply(self, reply: Reply) -> None:
        receipt = Receipt(
            run=self._store.settings.run,
            round=reply.round,
            task=reply.task,
            nonce=reply.nonce,
            device=reply.device,
            outcome=reply.outcome,
            reason=reply.reason[:500],
            missing=reply.missing,
            come_back_after_s=round(reply.come_back_after_s, 3),
        )
        self._publisher.say(Address(Kind.RECEIPT, number=reply.round, device=reply.device), codec.encode(receipt))

    def announce(self) -> None:
        """Publish where the round stands, unless that is said. To be called once nothing more follows for now.

        An announcement that another one follows at once would cost each device its bytes, and tell it nothing. Then
        comes what nobody waits for: the end of old models.
        """
        if self._unsaid is not None:
            self._publish_announcement(*self._unsaid)
            self._unsaid = None
        self._publisher.remove(*self._outdated)
        self._outdated.clear()

    def _publish_announcement(self, effect: Announce, message: RoundAnnouncement) -> None:
        def render() -> bytes:
            remaining = max(0.0, effect.opened_at + effect.deadline_s - self._now())
            return codec.encode(message.model_copy(update={"remaining_s": round(remaining, 3)}))

        self._publisher.put(Address(Kind.ROUND), render)
        self._say(
            CoordinatorState.RUNNING,
            round=message.round,
            phase=message.phase.value,
            model_version=message.model_version,
        )

    def _say(self, state: CoordinatorState, detail: str = "", **about: object) -> None:
        """Have the status say this. What the round is ``about`` waits for the next one (``leadership``)."""
        decisive = (state, detail) != (self.status.state, self.status.detail)
        self.status = self.status.model_copy(update={"state": state, "detail": detail, **about})
        if decisive:
            self._say_status()

    def _announcement(self, effect: Announce) -> RoundAnnouncement:
        ticket, ago = effect.ticket, timedelta(seconds=self._now() - effect.opened_at)
        if self._opened[0] != ticket.nonce or effect.phase is Phase.SELECTING:
            self._opened = ticket.nonce, (self._wall() - ago).isoformat(timespec="seconds")
        return RoundAnnouncement(
            run=self._store.settings.run,
            round=ticket.round,
            task=ticket.task,
            phase=effect.phase,
            attempt=ticket.attempt,
            nonce=ticket.nonce,
            model_version=effect.model.number,
            model_digest=effect.model.digest,
            opened=self._opened[1],
            deadline_s=effect.deadline_s,
            remaining_s=effect.deadline_s,
            cohort=effect.cohort,
            goal=effect.goal,
            quorum=effect.quorum,
            selected=effect.selected,
            joined=effect.joined,
            received=effect.received,
        )
