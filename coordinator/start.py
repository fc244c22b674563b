"""``coordinator start``: puts the pieces of a run together, and decides nothing about its rounds."""

from __future__ import annotations

import os
import shutil
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path

from coordinator.config import CoordinatorSettings, run_settings
from coordinator.display import choose
from coordinator.plan_commands import resolve
from coordinator.service import CoordinatorService
from coordinator.virtual import VirtualFleet
from schemas.command_line import stopping_on_signals
from schemas.errors import SettingsError, StateError
from schemas.link.embedded import EmbeddedBroker
from schemas.link.link import Link, Sink, Will
from schemas.link.mqtt import MqttLink
from schemas.link.notify import Notifier
from schemas.messages import PlanRef
from schemas.parts import describe
from schemas.topics import Topics

BUNDLED_DATA = {"watch": "watch", "digits": "sklearn-digits"}  # what virtual devices train on unless told

SESSION_S = 3600  # how long the broker keeps updates for a coordinator that is away


def start(settings: CoordinatorSettings, *, fresh: bool) -> int:
    """Run a federation to its end; the exit code.

    Raises any ``FedbeatError``.
    """
    settings = with_defaults(settings)
    if fresh:
        set_aside(settings.state)
    plan, model = resolve(settings)
    payload = plan.to_bytes()
    run = run_settings(
        settings,
        run=f"run-{os.urandom(4).hex()}",  # of a new run; one that is resumed keeps its name
        plan=PlanRef(name=plan.name, blob=describe(payload, settings.part_size)),
        train=plan.train,
        strategy=plan.strategy,
    )
    with ExitStack() as stack:
        display = stack.enter_context(choose(json_lines=settings.json_lines))
        broker = settings.broker or f"mqtt://127.0.0.1:{stack.enter_context(EmbeddedBroker()).port}"
        mqtt = settings.mqtt(f"{settings.federation}-coordinator", broker, session_expiry_s=SESSION_S)

        def link(sink: Sink, will: Will) -> Link:
            return MqttLink(mqtt, sink, will)

        notifier = Notifier.from_environment()
        service = CoordinatorService(
            link,
            Topics(settings.federation, settings.root),
            run,
            plan,
            model,
            settings.state,
            observer=display,
            software=f"fedbeat {version('fedbeat')}",
            alive=notifier.alive,
        )
        stack.enter_context(stopping_on_signals(service.stop))
        if settings.virtual:
            stack.enter_context(VirtualFleet(settings, broker, on_exit=service.stop))
        notifier.ready()
        service.run()
    return 0


def with_defaults(settings: CoordinatorSettings) -> CoordinatorSettings:
    """The settings with what virtual devices need; ``SettingsError`` where something can't be guessed."""
    if not settings.virtual:
        if not settings.broker:
            raise SettingsError("no broker is given: add --broker mqtt://HOST, or --virtual 8 to try without a fleet")
        return settings
    changes: dict[str, object] = {}
    if not settings.plan and not settings.model:
        changes["plan"] = "watch"
    if not settings.data:
        plan = settings.recipe if settings.model else (settings.plan or "watch")
        if plan not in BUNDLED_DATA:
            raise SettingsError("virtual devices need recordings: add --data PATH (a folder or file)")
        changes["data"] = BUNDLED_DATA[plan]
    return settings.model_copy(update=changes)


def set_aside(state: Path) -> None:
    """Rename the state directory, so that nothing of an earlier run is lost and the next starts afresh."""
    if not state.exists() or not any(state.iterdir()):
        return
    number = 1
    while (target := state.with_name(f"{state.name}.{number}")).exists():
        number += 1
    try:
        shutil.move(state, target)
    except OSError as error:
        raise StateError(f"can't set {state} aside as {target}: {error.strerror}") from None
