"""``edge run`` and ``edge fleet``: settings in, a running device out. Puts the pieces together, decides nothing."""

from __future__ import annotations

import logging
import os
import select
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Final

from edge.agent import Agent, MakeLink
from edge.config import EdgeSettings, FleetSettings
from edge.core.budget import parse
from edge.core.jobs import Accelerator
from edge.dataspec import SYNTHETIC, DataSpec
from edge.device import Device
from edge.files import make_directory
from edge.health import Monitor
from edge.reactor import Reactor
from edge.store import claim
from edge.trainer.pool import TrainerPool
from edge.trainer.stacking import Stacking
from schemas import SOFTWARE
from schemas.command_line import stopping_on_signals
from schemas.errors import DataError, SettingsError
from schemas.link.link import Link, Sink, Will
from schemas.link.mqtt import MqttLink
from schemas.link.notify import Notifier
from schemas.messages import Health
from schemas.printable import printable
from schemas.settings import LinkSettings
from schemas.topics import NAME, Topics, check_name

if TYPE_CHECKING:
    from edge.findings.finder_child import Finding
    from edge.record.recording import Recording
    from edge.record.recording_child import RecordingChild

MOST_TRAINERS = 4
LOOK_S: Final = 0.5  # between two looks at whether there is something left to make
BUNDLED = frozenset({"watch", "sklearn-digits", SYNTHETIC})  # words that stand for recordings, not paths


def run_device(settings: EdgeSettings) -> None:
    """Be one device until a signal says to stop. Raises any ``FedbeatError``."""
    log_to_stderr()
    check_training()
    name = settings.device or host_name()
    check_name(name, "device")
    recording = recording_of(settings)
    path = needed(settings.data or (recording.directory if recording else ""))
    data = DataSpec.of(path=path, held_out=settings.held_out)
    budget, personal = parse(settings.budget), settings.personalisation()
    finding = finding_of(settings, path if recording is None else recording.directory)
    reactor = Reactor(Notifier.from_environment())
    trainer = TrainerPool(idle_s=settings.trainer_idle, threads=settings.trainer_threads, nice=settings.trainer_nice)
    try:
        with claim(settings.state) as session, ExitStack() as stack:
            device = Device(
                name,
                session,
                data,
                settings.state,
                settings.heartbeat,
                SOFTWARE,
                idle_heartbeat_s=settings.idle_heartbeat,
                checkpoint_s=settings.checkpoint,
                outbox_s=settings.outbox_days * 86_400,
                budget=budget,
                personal=personal,
            )
            topics = Topics(settings.federation, settings.root)
            health: Callable[[], Health] = Monitor(settings.state, time.monotonic)
            if recording is not None:
                from edge.record.recording_child import RecordingChild  # noqa: PLC0415 - for devices that record

                child = RecordingChild(recording)
                health = with_recording(health, child)
            agent = Agent(device, topics, links(settings), trainer, reactor.post, health)
            reactor.add(agent)
            if recording is not None:
                stack.enter_context(child)
            if finding is not None:
                from edge.findings.finder_child import FinderChild  # noqa: PLC0415 - for devices that tell what they find

                finder = stack.enter_context(FinderChild(finding, name, SOFTWARE, partial(reactor.post, agent)))
                reactor.at_end(finder.close)  # so that its last window is told while there is a connection
            with stopping_on_signals(reactor.stop):
                reactor.run()
    finally:
        trainer.close()


def recording_of(settings: EdgeSettings) -> Recording | None:
    """What is recorded meanwhile, its directory made; None for nothing. Raises ``SettingsError``, ``StateError``."""
    if not settings.record:
        return None
    from edge.record.recording import Recording  # noqa: PLC0415 - for devices that record

    recording = Recording.of(settings)
    recording.check()
    make_directory(Path(recording.directory))
    return recording


def finding_of(settings: EdgeSettings, directory: str) -> Finding | None:
    """Where beats are found, and how; None where the owner doesn't want to tell. Raises ``SettingsError``."""
    if not settings.findings:
        return None
    from edge.findings.alerts import parse as thresholds  # noqa: PLC0415 - for devices that tell what they find
    from edge.findings.finder_child import Finding  # noqa: PLC0415 - likewise

    thresholds(settings.findings_alerts)
    if not Path(directory).is_dir():
        raise SettingsError(
            "findings are of what is recorded meanwhile: add --record SOURCE, or have --data be the folder that "
            "`edge record` writes to"
        )
    return Finding(
        directory,
        str(settings.state),
        settings.findings_window,
        settings.findings_alerts,
        settings.trainer_nice,
        settings.personalisation() is not None,
    )


def with_recording(health: Callable[[], Health], child: RecordingChild) -> Callable[[], Health]:
    """The machine's health, and how recording goes."""
    return lambda: health().model_copy(update={"recording": child.condition})


def run_fleet(settings: FleetSettings, *, until_stdin_closes: bool) -> None:
    """Be many virtual devices until a signal says to stop, or until the parent has closed our standard input."""
    from edge.fleet import Fleet, VirtualFleet  # noqa: PLC0415 - a real device does without

    log_to_stderr()
    check_training()
    fleet = Fleet(
        devices=settings.devices,
        data=needed(settings.data),
        state=settings.state,
        partition=settings.partition,
        held_out=settings.held_out,
        seed=settings.seed,
        prefix=settings.prefix,
        heartbeat_s=settings.heartbeat,
        software=SOFTWARE,
        budget=parse(settings.budget),
        personal=settings.personalisation(),
    )
    check_accelerator(settings.accelerator)
    one_a_core = min(MOST_TRAINERS, os.cpu_count() or 1, settings.devices)
    workers = settings.trainers or (one_a_core if settings.accelerator == "cpu" else 1)
    alone = settings.together == 1 and settings.accelerator == "cpu"
    stacking = None if alone else Stacking(settings.together, settings.accelerator)
    trainer = TrainerPool(workers=workers, nice=0, stacking=stacking)
    try:
        virtual = VirtualFleet(fleet, Topics(settings.federation, settings.root), links(settings), trainer)
        if until_stdin_closes:
            parent = threading.Thread(target=follow_stdin, args=(virtual.stop, lambda: virtual.makes_own), daemon=True)
            parent.start()
        with stopping_on_signals(virtual.stop):
            virtual.run()
    finally:
        trainer.close()


def check_training() -> None:
    """Raises ``SettingsError`` where nothing here could train: each round would fail, and its others wait for us."""
    if find_spec("torch") is None:
        raise SettingsError("training needs PyTorch, which isn't installed here: pip install 'fedbeat[edge]'")


def check_accelerator(accelerator: Accelerator) -> None:
    """Raises ``SettingsError`` where PyTorch finds none here. It is asked in a process that ends with its answer."""
    if accelerator == "cpu":
        return
    code = "import sys, torch; sys.exit(0 if torch.cuda.is_available() else 3)"
    if subprocess.run([sys.executable, "-c", code], check=False, stderr=subprocess.DEVNULL).returncode:  # noqa: S603
        raise SettingsError(
            "PyTorch finds no CUDA here: install a CUDA build of it (https://pytorch.org/get-started) and NVIDIA's "
            "driver, or leave --accelerator cuda out"
        )


def links(settings: LinkSettings) -> MakeLink:
    """How an agent of this name connects; its broker keeps no session, since everything it needs is retained."""
    settings.mqtt("check")  # what is wrong with the settings is said before anything has started

    def make(client_id: str, sink: Sink, will: Will) -> Link:
        return MqttLink(settings.mqtt(client_id), sink, will)

    return make


def needed(data: str) -> str:
    """``data``, unless nothing is given or nothing is there. What is there is read once a plan says how."""
    if not data:
        raise SettingsError("no recordings are given: add --data PATH (a folder or file), or data = in the settings")
    path = Path(data)
    record = path.with_name(f"{path.name}.hea")  # a WFDB record goes by its name without the ending
    if data.partition(":")[0] not in BUNDLED and not path.exists() and not record.exists():
        raise DataError(f"there is nothing at {data}: give the folder or file of the recordings")
    return data


def host_name() -> str:
    """This host's name as a device name."""
    name = socket.gethostname().split(".")[0].lower().replace("_", "-")
    if not NAME.match(name):
        raise SettingsError(
            f"the host's name {name!r} can't name a device, which takes 3 to 63 lower-case letters, digits and "
            "hyphens: add --device NAME"
        )
    return name


def log_to_stderr() -> None:
    """Warnings and what a device decides, one line each; systemd adds the time."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_OneLine("%(levelname)s %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])


class _OneLine(logging.Formatter):
    """A log's lines as any terminal takes them: operators and coordinators choose their own words."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's own name
        """The line of a record; a traceback behind it keeps its own."""
        return printable(super().formatMessage(record))


def follow_stdin(stop: Callable[[], None], busy: Callable[[], bool]) -> None:
    """Call ``stop`` once the other end of standard input is gone, or has said something and we are not ``busy``."""
    stdin, look_s = sys.stdin.fileno(), None
    while True:
        readable, _, _ = select.select([stdin], [], [], look_s)
        if readable:
            if not os.read(stdin, 4096):  # not sys.stdin.read, whose lock a process can't end with
                break
            look_s = LOOK_S
        elif not busy():
            break
    stop()
