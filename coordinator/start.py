"""``coordinator start``: puts the pieces of a run together, and decides nothing about its rounds."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

from coordinator import observers as seen
from coordinator.config import CoordinatorSettings, run_settings
from coordinator.database import claim
from coordinator.display import choose
from coordinator.identity import instance_of
from coordinator.leadership import standstill_s
from coordinator.plan_commands import resolve
from coordinator.service import CoordinatorService, RunResult
from coordinator.virtual import VirtualFleet
from schemas import SOFTWARE
from schemas.command_line import stopping_on_signals
from schemas.counted import counted
from schemas.errors import FedbeatError, Outranked, SettingsError, StateError
from schemas.link.embedded import EmbeddedBroker
from schemas.link.mqtt import MqttLink
from schemas.link.notify import Notifier
from schemas.messages import PlanRef, RunSettings
from schemas.parts import describe
from schemas.plan import Plan
from schemas.topics import Topics

# What virtual devices train on unless told.
BUNDLED_DATA = {
    "watch": "watch",
    "digits": "sklearn-digits",
    **dict.fromkeys(("ecg-beats", "ecg-weak", "ecg-masked"), "synthetic-ecg"),
}

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # as <malloc.h> has them
MAPPED_FROM = 3 * 2**20  # bytes of an array
KEPT_FREE = 6 * 2**20  # bytes at the heap's end

SESSION_S = 3600  # how long the broker keeps updates for a coordinator that is away
WINDOW = 65_535  # of messages kept for us, which must not hide the status we look for; we throw them away meanwhile


def start(settings: CoordinatorSettings, *, fresh: bool) -> int:
    """Run a federation to its end; the exit code.

    Raises any ``FedbeatError``.
    """
    _bound_free_memory()
    settings = with_defaults(settings)
    plan, *models = resolve(settings)  # the model may be large, and is the service's to forget
    settings = with_data(settings, plan)
    run = _run_of(settings, plan)
    if fresh:
        set_aside(settings.state)
    with ExitStack() as stack:
        display = stack.enter_context(choose(json_lines=settings.json_lines))
        broker = settings.broker or f"mqtt://127.0.0.1:{stack.enter_context(EmbeddedBroker()).port}"
        # A name of its own for each state directory: two of one name would end each other's connections for ever.
        name = f"{settings.federation}-coordinator-{instance_of(settings.state)}"
        mqtt = settings.mqtt(name, broker, session_expiry_s=SESSION_S)

        link = partial(MqttLink, replace(mqtt, standstill_s=standstill_s(settings.heartbeat)), gated=True)
        look = partial(MqttLink, replace(mqtt, inbound_window=WINDOW))
        notifier = Notifier.from_environment()

        def alive() -> None:
            display.flush()
            notifier.alive()

        def service(*, again: bool) -> CoordinatorService:
            return CoordinatorService(
                link,
                Topics(settings.federation, settings.root),
                run,
                plan,
                models.pop() if models else resolve(settings)[1],
                settings.state,
                observer=display,
                software=SOFTWARE,
                keep_models=settings.keep_models,
                heartbeat_s=settings.heartbeat,
                idle_heartbeat_s=settings.idle_heartbeat,
                room=settings.room * 2**20,
                look=look if settings.broker or again else None,  # on a broker of our own nobody can be before us
                alive=alive,
            )

        services = Services(service)
        stack.enter_context(stopping_on_signals(services.stop))
        fleet = VirtualFleet(settings, broker, on_exit=services.stop) if settings.virtual else None
        if fleet is not None:
            stack.enter_context(fleet)
        notifier.ready()
        result = services.run()
        if fleet is not None and settings.personal != "off" and not result.stopped:
            display(seen.OwnModelsAwaited())
            fleet.finish(hurried=lambda: services.stopped)
    return 0


def _run_of(settings: CoordinatorSettings, plan: Plan) -> RunSettings:
    """What is to be run, as devices are told it. Raises ``SettingsError`` where the plan's classes don't fit."""
    run = run_settings(
        settings,
        run=f"run-{os.urandom(4).hex()}",  # of a new run; one that is resumed keeps its name
        plan=PlanRef(name=plan.name, blob=describe(plan.to_bytes(), settings.part_size)),
        train=plan.train,
        strategy=plan.strategy,
    )
    check_class_weights(run.train.class_weights, plan.classes)
    return run


class Services:
    """A coordinator's service, and another one in its place each time that one with a higher session has ended.

    ``build`` makes it; ``again`` is False for the first. Its one thread runs; any thread may stop it.
    """

    def __init__(self, build: Callable[..., CoordinatorService]) -> None:
        self._build = build
        self._stop: list[FedbeatError | None] = []
        self._service: CoordinatorService | None = None

    def stop(self, error: FedbeatError | None = None) -> None:
        """End ``run`` soon, as ``CoordinatorService.stop`` does."""
        self._stop.append(error)
        if self._service is not None:
            self._service.stop(error)

    @property
    def stopped(self) -> bool:
        """Whether somebody has asked for it to end."""
        return bool(self._stop)

    def run(self) -> RunResult:
        """Run to the end; raises what ``CoordinatorService.run`` does, but for ``Outranked``."""
        again = False
        while True:
            self._service = self._build(again=again)
            if self._stop:  # which may have come between two of them
                self._service.stop(self._stop[0])
            try:
                return self._service.run()
            except Outranked:
                again = True


def _bound_free_memory() -> None:
    """Have glibc map arrays of ``MAPPED_FROM`` bytes, unmap them when they are freed, and keep ``KEPT_FREE`` of others.

    By itself it raises the first bound to the largest array it has seen freed, and keeps holes as large as several
    models. The second is 128 kB by itself, so that a round with a smaller model, which makes and frees some fifteen
    arrays of its size, would have the kernel zero nearly all of them anew: a fifth of the coordinator's time.
    """
    with suppress(OSError, AttributeError):  # another C library
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_THRESHOLD, MAPPED_FROM)
        libc.mallopt(M_TRIM_THRESHOLD, KEPT_FREE)


def with_defaults(settings: CoordinatorSettings) -> CoordinatorSettings:
    """The settings with the plan of virtual devices that were given none; ``SettingsError`` without any device."""
    if not settings.virtual and not settings.broker:
        raise SettingsError("no broker is given: add --broker mqtt://HOST, or --virtual 8 to try without a fleet")
    if not settings.virtual or settings.plan or settings.model:
        return settings
    return settings.model_copy(update={"plan": "watch"})


def with_data(settings: CoordinatorSettings, plan: Plan) -> CoordinatorSettings:
    """The settings with the recordings of virtual devices; ``SettingsError`` where the plan's don't come along."""
    if not settings.virtual or settings.data:
        return settings
    if plan.data not in BUNDLED_DATA:
        raise SettingsError(f"virtual devices need recordings for {plan.data!r}: add --data PATH (a folder or file)")
    return settings.model_copy(update={"data": BUNDLED_DATA[plan.data]})


def check_class_weights(weights: str | tuple[float, ...], classes: tuple[str, ...]) -> None:
    """Raise ``SettingsError`` where there is not one weight a class."""
    if isinstance(weights, tuple) and len(weights) != len(classes):
        raise SettingsError(
            f"train.class_weights has {counted(len(weights), 'number')}, the plan "
            f"{counted(len(classes), 'class', 'classes')} ({', '.join(classes)}): "
            "give one number a class, or 'balanced'"
        )


def set_aside(state: Path) -> None:
    """Rename the state directory, so that nothing of an earlier run is lost and the next starts afresh."""
    if state.exists() and not state.is_dir():
        raise StateError(f"{state} is no directory, so there is no run in it to set aside: check --state")
    if not state.exists() or not any(state.iterdir()):
        return
    number = 1
    while (target := state.with_name(f"{state.name}.{number}")).exists():
        number += 1
    try:
        with claim(state / "journal.db"):
            state.rename(target)
    except OSError as error:
        # A service owns its state directory and not the one above it.
        raise StateError(
            f"can't set {state} aside as {target}: {error.strerror}. Rename it as a user who may "
            f"(sudo mv {state} {target}), and start without --fresh"
        ) from None
