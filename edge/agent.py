"""One device: it carries out what ``participation`` decides. No decisions here, no arrays, and no blocking call.

Everything comes in through ``handle``, from one thread; the link's and the trainer's threads only ``post``. Nothing
that imports numpy or torch is imported here: an idle agent stays small, and all training is in the trainer's child.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from typing import Final, ParamSpec, assert_never

from edge.backlog import Backlog
from edge.core import effects as fx
from edge.core import events as ev
from edge.core import participation, personalising, presence
from edge.core.effects import Effect
from edge.core.events import Event
from edge.core.jobs import Describe, Failure, Job, Progressed, Result, Trainer
from edge.core.participation_state import Identity, Kept
from edge.device import Device
from edge.device_log import DeviceLog
from edge.fetcher import Fetcher
from edge.footprint import footprint
from edge.health import peaks
from edge.inbound import event_of, happening
from edge.job_maker import JobMaker
from edge.meter import Meter
from edge.outbox import Outbox
from edge.store import Store
from edge.uploads import Uploads
from schemas import codec
from schemas.errors import LinkError, PayloadTooLarge, Reject, StateError, WireError
from schemas.findings import Findings
from schemas.link import link as wire
from schemas.messages import (
    DeviceStatus,
    Health,
    Join,
    Message,
    ModelPointer,
)
from schemas.topics import Address, Kind, Topics, check_name

P = ParamSpec("P")

UNSAID: Final = 12  # windows of findings that wait for a broker; older ones are let go

Happening = wire.Event | ev.JobDone | ev.JobFailed | ev.JobProgressed | Findings
MakeLink = Callable[[str, wire.Sink, wire.Will], wire.Link]  # client id, where events go, last will


class Agent:
    """One device, on one link. All methods are for one thread, the reactor's."""

    def __init__(
        self,
        device: Device,
        topics: Topics,
        make_link: MakeLink,
        trainer: Trainer,
        post: Callable[[Agent, Happening], None],
        health: Callable[[], Health] = Health,
    ) -> None:
        """``post`` takes what other threads have for us, for ``handle``. Raises ``SettingsError``, ``StateError``."""
        self.name = check_name(device.name, "device")
        self.fatal: LinkError | None = None  # why the broker will never take us
        self._device = device
        self._topics = topics
        self._trainer = trainer
        self._health = health
        self._post = post
        self._now = 0.0
        self._log = DeviceLog(self.name, lambda: self._now)
        self._store = Store(device.state, self._log.warn, durable=device.durable)
        self._outbox = Outbox(device.state / "outbox", self._log.warn, durable=device.durable)
        self._jobs = JobMaker(device, self._store, self._outbox)
        self._meter = Meter(counts=device.budget is not None)
        self._since: float | None = None  # the first tick or event
        self._ran_s = self._store.running_s()  # before this start
        self._outage = ""  # how the connection ended, as it was last logged
        self._trainer_peak_mb: float | None = None  # as its newest answer said
        self._unsaid: deque[Findings] = deque(maxlen=UNSAID)
        held, contents = self._store.model(), self._outbox.contents(self._ran_s)
        told = device.heartbeat_s, device.software, device.outbox_s, device.idle_heartbeat_s, device.personal
        synthetic = device.data.synthetic
        own = self._store.personal() if device.personal else None
        self._state = participation.begin(
            Identity(device.name, device.session, *told, synthetic),
            model=None if held is None else held.pointer,
            steps=() if held is None else tuple(len(step) for _, step in held.lineage.steps),
            parcels=contents.parcels,
            settled=contents.settled,
            last_round=contents.last_round,
            ages=contents.ages,
            pace=self._store.pace(),
            kept=self._store.kept(),
            ran_s=self._ran_s,
            budget=None if device.budget is None else self._store.budget(device.budget),
            speed=self._store.speed(),
            personal_of=None if own is None or own[0].how != device.personal else (own[0].model, own[0].data),
        )
        will = wire.Will(self._topic(Kind.DEVICE), codec.encode(presence.last_will(self._state)))
        self._backlog = Backlog(lambda event: post(self, event))
        self._link = make_link(device.name, self._backlog.hear, will)
        self._fetcher = Fetcher(self._link, topics, self._store)
        self._uploads = Uploads(self.name, self._outbox, self._store, self._send, self._meter, self._log)

    @property
    def rejected(self) -> Counter[Reject]:
        """How many messages were refused, by reason."""
        return self._log.rejected

    @property
    def status(self) -> DeviceStatus:
        """What the device says of itself, now."""
        return presence.status(self._state)

    @property
    def connected(self) -> bool:
        """Whether the broker has us."""
        return self._state.connected

    @property
    def makes_own(self) -> bool:
        """Whether it has yet to make its owner a model of the newest global one; from any thread."""
        return personalising.is_pending(self._state)

    def start(self) -> None:
        """Start connecting."""
        receipts = self._topics.filter(Kind.RECEIPT, device=self.name)
        commands = self._topics.filter(Kind.COMMAND, device=self.name)
        self._link.subscribe(*(self._topics.filter(kind) for kind in fx.FOLLOWED), receipts, commands)
        self._link.open()

    def leave(self) -> None:
        """Keep where a training is, where checkpoints are kept at all, and take nothing up any more."""
        self._step(ev.StopRequested())

    def stop(self, timeout_s: float = 5.0) -> None:
        """Leave, say goodbye, disconnect; updates without a receipt wait on disk."""
        self.leave()
        self._link.close(wire.Will(self._topic(Kind.DEVICE), codec.encode(self.status)), timeout_s)
        self._log.own_up(ends=True)

    def wake_at(self) -> float | None:
        """When ``tick`` is due if nothing else happens, in monotonic seconds."""
        return participation.wake_at(self._state)

    def tick(self, now: float) -> None:
        """It is now ``now``, in monotonic seconds."""
        self._reach(now)
        self._step()

    def handle(self, happening: Happening, now: float) -> None:
        """Take in what another thread posted. Never raises for anything that came from outside."""
        self._reach(now)
        match happening:
            case wire.Inbound():
                self._inbound(happening)
            case wire.Connected(limit=limit):
                self._uploads.limit, self._outage = limit, ""
                self._step(ev.Connected())
                self._tell_findings()
            case wire.Disconnected():
                self._disconnected(happening)
            case wire.Sent(token=token):  # which proves no delivery: we wait for the receipt
                if uploaded := self._meter.acknowledged(token, now):
                    self._step(*uploaded)
            case wire.Refused(token=token, error=error):
                self._log.warn(str(error))
                if token is not None:
                    self._meter.acknowledged(token, now)  # how long that took says nothing of the link
                    self._step()
            case ev.JobDone() | ev.JobFailed() | ev.JobProgressed():
                self._step(happening)
            case Findings():
                self._unsaid.append(happening)
                self._tell_findings()
            case _:
                assert_never(happening)

    def _reach(self, now: float) -> None:
        self._since = now if self._since is None else self._since
        self._now = now
        self._log.own_up()

    @property
    def _running_s(self) -> float:
        """For how long the device has been running, over all its starts."""
        return self._ran_s + (0.0 if self._since is None else self._now - self._since)

    # -- what comes in -------------------------------------------------------------------------------------------------

    def _inbound(self, message: wire.Inbound) -> None:
        self._backlog.took(message)
        self._meter.add(len(message.payload))
        try:
            for event in self._read(message):
                self._step(event)
        except WireError as error:
            self._log.reject(error.reason, f"{message.topic}: {error.detail}")
        finally:
            message.ack()

    def _read(self, message: wire.Inbound) -> tuple[Event, ...]:
        address = self._topics.parse(message.topic)
        if address is None or address.device not in {None, self.name}:
            raise WireError(Reject.UNEXPECTED, "nothing is published there for this device")
        if not message.payload and address.rule.retain:
            return ()  # a retained message that was cleared
        if address.rule.form == "protobuf":
            return self._fetcher.take(address, message.payload)
        if address.kind not in {*fx.FOLLOWED, Kind.RECEIPT, Kind.COMMAND}:
            return ()  # some brokers send what others have asked for
        return (event_of(address, codec.decode(address.kind, message.payload), self.name),)

    def _disconnected(self, event: wire.Disconnected) -> None:
        self._meter.cut(event.again)
        text = "" if event.error is None else str(event.error)
        if event.fatal:
            self.fatal = event.error
        elif text and text != self._outage:  # once, not at every attempt
            self._log.warn(f"{text}; trying again")
        self._outage = text
        self._step(ev.Disconnected())

    # -- what goes out -------------------------------------------------------------------------------------------------

    def _step(self, *events: Event) -> None:
        self._meter.add(self._backlog.dropped())
        waiting: deque[Event] = deque((ev.Tick(self._now), *self._meter.take(), *events))
        while waiting:
            event = waiting.popleft()
            if isinstance(event, ev.FetchFailed) and event.rejected is not None:
                self._log.reject(event.rejected, event.reason)
            self._state, effects = participation.step(self._state, event)
            for effect in effects:
                try:
                    waiting.extend(self._perform(effect))
                except PayloadTooLarge as error:
                    self._log.warn(f"{error}; lower the run's part_size below the broker's limit")

    def _perform(self, effect: Effect) -> tuple[Event, ...]:  # noqa: C901, PLR0911, PLR0912 - one line an effect
        match effect:
            case fx.FetchPlan(ref, run):
                return self._fetcher.plan(ref, run)
            case fx.FetchModel(pointer):
                return self._fetcher.model(pointer)
            case fx.FetchStep(pointer):
                return self._fetcher.step(pointer)
            case fx.DropModel():
                self._try(self._store.drop_model)
            case fx.KeepMerged(pointer, model):
                return (self._keep_merged(pointer, model),)
            case fx.FetchAgain(kind) | fx.StopFetching(kind):
                (self._fetcher.again if isinstance(effect, fx.FetchAgain) else self._fetcher.stop)(kind)
            case fx.SendJoin():
                self._send_join(effect)
            case fx.LookAtData():
                return (ev.DataSeen(footprint(self._device.data.path)),)
            case fx.StartDescribing(key, recipe):
                self._submit(Describe(key=key, data=self._device.data, recipe=recipe))
            case fx.StartTraining() | fx.StartEvaluation() | fx.StartMerging() | fx.StartPersonalising():
                return self._start(effect)
            case fx.KeepPersonal(origin, model):
                self._try(self._store.keep_personal, origin, model)
            case fx.WarmUp():
                self._trainer.warm()
            case fx.CancelJob(key):
                self._trainer.cancel(key)
            case fx.SuspendJob(key, plan, model):
                self._suspend(key, plan, model)
            case fx.KeepCheckpoint(key, plan, model, fraction, checkpoint):
                self._try(self._store.keep_checkpoint, Kept(key, fraction), plan, model, checkpoint)
            case fx.DropCheckpoint():
                self._try(self._store.drop_checkpoint)
            case fx.KeepPace(pace):
                self._try(self._store.keep_pace, pace)
            case fx.KeepBudget(budget, running_s):
                self._try(self._store.keep_budget, budget, running_s)
            case fx.Listen(on, kinds):
                (self._link.subscribe if on else self._link.unsubscribe)(*map(self._topics.filter, kinds))
            case fx.KeepSpeed(speed):
                self._try(self._store.keep_speed, speed)
            case fx.KeepAge():
                self._try(self._store.keep_running_s, self._running_s)
            case fx.StoreUpdate():
                return (self._uploads.keep(effect, self._running_s),)
            case fx.SendParts(parcel, indices):
                return self._uploads.send(parcel, indices, self._now)
            case fx.Forget():
                self._try(self._outbox.settle, effect.ticket, effect.outcome)
            case fx.PublishStatus(status):
                self._publish(Kind.DEVICE, status.model_copy(update={"health": self._condition()}))
            case fx.TellWork(text, peak_mb):
                self._trainer_peak_mb = peak_mb
                self._log.say(f"{text}{peaks(self._condition())}")
            case fx.Say(text, level):
                self._log.say(text, level)
            case _:
                assert_never(effect)
        return ()

    def _condition(self) -> Health:
        return self._health().model_copy(update={"trainer_peak_mb": self._trainer_peak_mb})

    def _send_join(self, effect: fx.SendJoin) -> None:
        ticket = effect.ticket
        join = Join(
            run=ticket.run,
            round=ticket.round,
            task=ticket.task,
            nonce=ticket.nonce,
            device=self.name,
            accepts=effect.accepts,
            reason=effect.reason,
            examples=effect.examples,
        )
        self._publish(Kind.JOIN, join, ticket.round)

    def _start(
        self, effect: fx.StartTraining | fx.StartEvaluation | fx.StartMerging | fx.StartPersonalising
    ) -> tuple[Event, ...]:
        run = self._state.run
        job = self._jobs.make(effect, None if run is None else run.run)
        if isinstance(job, ev.HoldingLost):
            return (job,)
        self._submit(job)
        return ()

    def _keep_merged(self, pointer: ModelPointer, model: bytes) -> Event:
        try:
            self._store.keep_merged(pointer, model)
        except StateError as error:
            return ev.MergeFailed(str(error))
        return ev.MergeKept(pointer)

    def _suspend(self, key: str, plan: str, model: str) -> None:
        if not self._device.checkpoint_s:  # and a fleet that stops waits for no batch of each of its devices
            self._trainer.cancel(key)
        elif (left := self._trainer.suspend(key)) is not None:
            self._try(self._store.keep_checkpoint, Kept(key, left.fraction), plan, model, left.checkpoint)

    def _submit(self, job: Job) -> None:
        def answer(result: Progressed | Result | Failure) -> None:
            self._post(self, happening(result))

        self._trainer.submit(job, answer)

    def _try(self, write: Callable[P, None], *args: P.args, **kwargs: P.kwargs) -> None:
        """Write what can be done without; the owner hears where that fails."""
        try:
            write(*args, **kwargs)
        except StateError as error:
            self._log.warn(str(error))

    def _tell_findings(self) -> None:
        """What the owner lets us tell; it is no part of any round."""
        while self._unsaid and self.connected:
            try:
                self._publish(Kind.FINDINGS, self._unsaid.popleft())
            except PayloadTooLarge as error:
                self._log.warn(str(error))

    def _publish(self, kind: Kind, message: Message, number: int | None = None) -> None:
        self._send(Address(kind, number=number, device=self.name), codec.encode(message))

    def _send(self, address: Address, payload: bytes) -> int:
        self._meter.add(len(payload))
        rule = address.rule
        return self._link.publish(
            self._topics.topic(address), payload, qos=rule.qos, retain=rule.retain, bulk=rule.bulk
        )

    def _topic(self, kind: Kind) -> str:
        return self._topics.topic(Address(kind, device=self.name))
