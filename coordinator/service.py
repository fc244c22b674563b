"""The coordinator as a whole: puts its parts together, runs them on the caller's thread, and takes them apart."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from coordinator import observers as seen
from coordinator.clock import Clock
from coordinator.events import Finish
from coordinator.identity import instance_of
from coordinator.inbox import ROOM, Inbox
from coordinator.intake import Events, Stop, intake
from coordinator.leadership import BEYOND
from coordinator.office import first_look
from coordinator.performer import MAX_DETAIL, Performer, spoken
from coordinator.publisher import Publisher
from coordinator.reactor import Reactor
from coordinator.run_store import KEPT_MODELS, RunStore, Wall, utc
from coordinator.shelf import Shelf
from coordinator.spool import Spool
from schemas import codec
from schemas.errors import FedbeatError, FederationError, SettingsError, Superseded
from schemas.link.link import Link, Sink, Will
from schemas.messages import CoordinatorState, CoordinatorStatus, Metrics, RoundSummary, RunSettings
from schemas.parameters import Parameters
from schemas.plan import Plan
from schemas.topics import Address, Kind, Topics

FAREWELL_S: Final = 30.0  # in which the broker takes some of what is still to be published once the rounds are done
HASTE_S: Final = 5.0  # the same where the operator wants to stop
HEARTBEAT_S: Final = 30.0  # between statuses, unless told otherwise
BY_RULE: Final = frozenset({"ecg-weak"})  # recipes whose labels a rule gives, and no person

LinkFactory = Callable[[Sink, Will], Link]


@dataclass(frozen=True, slots=True)
class RunResult:
    """How a run ended that didn't fail: its newest model, and how its rounds went, oldest first."""

    run: str
    version: int
    digest: str
    summaries: tuple[RoundSummary, ...]
    stopped: bool  # by its operator, before its last round

    @property
    def metrics(self) -> Metrics | None:
        """The newest evaluation."""
        return next((summary.metrics for summary in reversed(self.summaries) if summary.metrics), None)


class CoordinatorService:
    """One federation's coordinator. ``run`` is the whole of its life."""

    def __init__(
        self,
        link_factory: LinkFactory,
        topics: Topics,
        settings: RunSettings,
        plan: Plan,
        model: Parameters,
        state: Path,
        *,
        observer: seen.Observer = seen.ignore,
        software: str = "",
        clock: Callable[[], float] = time.monotonic,
        wall: Wall = utc,
        alive: Callable[[], None] = lambda: None,
        keep_models: int = KEPT_MODELS,
        heartbeat_s: float = HEARTBEAT_S,
        idle_heartbeat_s: float = 0.0,
        room: int = ROOM,
        look: Callable[[Sink], Link] | None = None,
    ) -> None:
        """``model`` is version 0 of a new run; ``alive`` is called about every second, for a watchdog.

        The newest ``keep_models`` versions stay on disk, and ``room`` bytes of unfinished updates. The status is
        published every ``heartbeat_s`` seconds, or every ``idle_heartbeat_s`` where that is longer and nothing is at
        stake. ``look`` makes the link, of the same client but without a will, over
        which to see whether another coordinator is at work before we begin; None where none can be. The other one,
        too, is looked for again at each connect, which ``link_factory`` is to gate.
        """
        if settings.plan.blob.digest != plan.digest:
            raise SettingsError("the run's settings name another plan than the one given: describe that plan's bytes")
        self._link_factory = link_factory
        self._topics = topics
        self._settings = settings
        self._plan = plan
        self._model = [model]  # until it is on disk
        self._directory = state
        self._observe = observer
        self._software = software
        self._clock = clock
        self._wall = wall
        self._alive = alive
        self._keep_models = keep_models
        self._heartbeat_s = heartbeat_s
        self._idle_heartbeat_s = idle_heartbeat_s
        self._room = room
        self._look = look
        self._events: Events = Events()
        self._performer: Performer | None = None
        self._leftovers: tuple[Address, ...] = ()

    def stop(self, error: FedbeatError | None = None) -> None:
        """End ``run`` soon, from any thread or signal handler; all is kept, and the next start goes on from it.

        ``run`` then raises ``error``, where one is given.
        """
        self._events.put(Stop(error))

    def run(self) -> RunResult:
        """Run the federation on the calling thread, once, until its rounds are done or it is stopped.

        Raises ``LinkError`` where the broker can't be used, ``SettingsError`` and ``StateError`` for the state
        directory, ``FederationError`` where no device came, a round failed too often, or another coordinator is there.
        """
        with RunStore(
            self._directory, self._settings, self._plan, self._model.pop(), self._wall, self._keep_models
        ) as store:
            instance = instance_of(self._directory)
            if not self._is_free(store, instance):
                return self._result(store, stopped=True)
            status = CoordinatorStatus(
                state=CoordinatorState.STARTING,
                session=store.session,
                instance=instance,
                run=store.settings.run,
                round=store.last_round,
                rounds=store.settings.rounds,
                model_version=store.version.number,
                software=self._software,
                heartbeat_s=self._heartbeat_s,
                since=self._wall().isoformat(timespec="seconds"),
            )
            topic = self._topics.topic(Address(Kind.COORDINATOR))
            offline = status.model_copy(update={"state": CoordinatorState.OFFLINE})
            link = self._link_factory(intake(self._events, self._topics), Will(topic, codec.encode(offline)))
            ended, detail, stopped, ours = CoordinatorState.STOPPED, "", False, True
            try:
                stopped = self._serve(store, link, status).stopped
                ended = CoordinatorState.STOPPED if stopped else CoordinatorState.FINISHED
            except FedbeatError as error:
                detail, ours = str(error), not isinstance(error, Superseded)
                if isinstance(error, Superseded):
                    _remember(store, error)
                raise
            finally:
                last = {"state": ended, "detail": detail[:MAX_DETAIL], "model_version": store.version.number}
                said = status if self._performer is None else self._performer.status
                if ours:
                    link.close(Will(topic, codec.encode(spoken(said.model_copy(update=last), self._wall))))
                else:
                    link.close(timeout_s=0.0)  # what still waits to be published is another one's to say now
                self._observe(seen.Finished(store.version.number, stopped, detail or None))
            return self._result(store, stopped=stopped)

    def _is_free(self, store: RunStore, instance: str) -> bool:
        """Whether the federation is ours to serve, with a session above all before; False where we are to stop.

        Raises ``Superseded`` where another coordinator serves it.
        """
        if self._look is None:
            return True
        about = self._look, self._topics, instance, self._events, self._observe, self._alive, self._clock
        try:
            looked = first_look(*about, sweeps=not store.begun)
        except Superseded as error:
            _remember(store, error)
            raise
        if looked is None:
            return False
        store.renew_session(looked.above)
        if looked.after is not None:
            self._observe(seen.RivalReplaced(looked.after.run, looked.after.session))
        self._leftovers = looked.leftovers
        return True

    @staticmethod
    def _result(store: RunStore, *, stopped: bool) -> RunResult:
        version = store.version
        return RunResult(store.settings.run, version.number, version.digest, store.summaries(), stopped)

    def _serve(self, store: RunStore, link: Link, status: CoordinatorStatus) -> Finish:
        manifest, classes = self._plan.manifest(), len(self._plan.classes)
        with Spool(self._directory) as spool:
            inbox = Inbox(self._topics, store.settings.run, manifest, classes, self._room, spool.slot)
            return self._react(store, link, status, inbox)

    def _react(self, store: RunStore, link: Link, status: CoordinatorStatus, inbox: Inbox) -> Finish:
        clock = Clock(self._clock)
        publisher = Publisher(self._topics, link, Shelf(self._directory).put)
        performer = Performer(store, publisher, inbox, self._observe, status, now=clock.now, wall=self._wall)
        self._performer = performer
        reactor = Reactor(
            self._events,
            clock,
            inbox,
            publisher,
            performer,
            self._observe,
            self._alive,
            store.settings.part_size,
            idle_heartbeat_s=self._idle_heartbeat_s,
        )
        state, reopened = store.standing(clock.now())
        self._observe(
            seen.Started(
                store.settings.run,
                self._plan.name,
                store.settings.rounds,
                state.round,
                store.version.number,
                store.resumed,
            )
        )
        if self._plan.data in BY_RULE:
            self._observe(seen.LabelsByRule())
        performer.publish_run()
        performer.clear(self._leftovers)
        link.subscribe(*(self._topics.filter(kind) for kind in (Kind.DEVICE, Kind.JOIN, Kind.UPDATE_PART)))
        publisher.watch_over(store.settings.plan.blob)
        link.open()
        finish = reactor.run(state, reopened)
        if finish.error is not None:
            raise FederationError(finish.error)
        reactor.drain(HASTE_S if finish.stopped else FAREWELL_S, insists=not finish.stopped)
        return finish


def _remember(store: RunStore, error: Superseded) -> None:
    """Have the next start be above whom this one gives way to: devices follow that one, and a broker may forget it."""
    if error.session < BEYOND:
        store.outranked(error.session)
